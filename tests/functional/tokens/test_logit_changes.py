"""vocabulary_changes against the slow route: all logits of both runs in float64."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import given, strategies as st

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.lens import readout
from tl_entropy.functional.lens.divergences import fisher_rao_distance, js_divergence, kl_divergence, total_variation
from tl_entropy.functional.tokens.logit_changes import CHANGE_UNITS, vocabulary_changes

METRICS = tuple(CHANGE_UNITS)
PLAIN = tuple(metric for metric in METRICS if metric not in ("l1", "l2", "maximum", "cosine"))


def random_case(rows=12, d_model=24, d_vocab=2100, spread=3.0, moved=1.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(rows, d_model, generator=generator, dtype=torch.float64)
    after = before + moved * torch.randn(rows, d_model, generator=generator, dtype=torch.float64)
    unembedding = torch.randn(d_model, d_vocab, generator=generator, dtype=torch.float64) * spread / d_model**0.5
    bias = torch.randn(d_vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, d_vocab, (rows,), generator=generator)
    return before.to(dtype), after.to(dtype), unembedding.to(dtype), bias.to(dtype), targets


def exact(before, after, unembedding, targets, *, bias=None, scale=1.0, softcap=None):
    """Name to [row] in float64, from all logits at once."""

    def logits(hidden):
        raw = hidden.double() @ unembedding.double()
        raw = scale * (raw if bias is None else raw + bias.double())
        return raw if softcap is None else softcap * (raw / softcap).tanh()

    p, q = logits(before), logits(after)
    possible = p[0] > -math.inf
    a, b = p[:, possible], q[:, possible]
    log_p, log_q = a.log_softmax(-1), b.log_softmax(-1)
    surprisal = [-x.log_softmax(-1).gather(1, targets[:, None])[:, 0] for x in (p, q)]
    return {
        "l1": (b - a).abs().sum(-1),
        "l2": (b - a).norm(dim=-1),
        "maximum": (b - a).abs().amax(-1),
        "cosine": 1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)),
        "kl": kl_divergence(p, q),
        "reverse_kl": kl_divergence(q, p),
        "jsd": js_divergence(p, q),
        "fisher_rao": fisher_rao_distance(p, q),
        "total_variation": total_variation(p, q),
        "loss": surprisal[1] - surprisal[0],
        "entropy": (log_p.exp() * log_p).sum(-1) - (log_q.exp() * log_q).sum(-1),
    }


def check(found, expected, rtol, atol):
    assert found.dtype == torch.float64
    assert found.shape[1] == len(METRICS)
    for i, metric in enumerate(METRICS):
        torch.testing.assert_close(found[:, i], expected[metric], rtol=rtol, atol=atol, msg=lambda m, n=metric: f"{n}: {m}")


@pytest.mark.parametrize("d_vocab", [2, 7, 960, 961, 2100])
def test_float64_agrees_with_all_logits_at_once(d_vocab):
    before, after, unembedding, bias, targets = random_case(d_vocab=d_vocab)
    found = vocabulary_changes(before, after, unembedding, metrics=METRICS, targets=targets, bias=bias)
    check(found.changes, exact(before, after, unembedding, targets, bias=bias), 1e-11, 1e-11)
    assert found.precision == "float64"
    assert found.compiled is False


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scale_softcap_and_masked_tokens(softcap, dtype):
    before, after, unembedding, bias, targets = random_case(dtype=dtype)
    bias[5:40] = -math.inf
    targets = targets.clamp(min=40)
    options = {"scale": 0.5, "softcap": softcap, "bias": bias}
    if softcap is not None:
        options["bias"] = bias.clamp(min=-3)  # under a cap nothing is ruled out in the slow route
    found = vocabulary_changes(before, after, unembedding, metrics=METRICS, targets=targets, **options)
    expected = exact(before, after, unembedding, targets, **options)
    check(found.changes, expected, *((1e-10, 1e-10) if dtype == torch.float64 else (1e-5, 5e-5)))


def test_many_rows_in_several_blocks_and_a_transposed_layout(monkeypatch):
    monkeypatch.setattr(readout, "_TILE", 960 * 8)  # four rows of two runs
    before, after, unembedding, bias, targets = random_case(rows=11)
    layout = unembedding.t().contiguous().t()
    found = vocabulary_changes(before, after, layout, metrics=METRICS, targets=targets, bias=bias).changes
    check(found, exact(before, after, unembedding, targets, bias=bias), 1e-11, 1e-11)


@pytest.mark.parametrize("moved", [1.0, 1e-2, 1e-4])
def test_float32_keeps_the_digits_of_small_changes(moved):
    before, after, unembedding, bias, targets = random_case(
        d_model=64, d_vocab=9000, spread=4.0, moved=moved, dtype=torch.float32
    )
    found = vocabulary_changes(before, after, unembedding, metrics=METRICS, targets=targets, bias=bias).changes
    expected = exact(before, after, unembedding, targets, bias=bias)
    check(found, expected, 2e-2 if moved < 1e-3 else 1e-3, 5e-5)
    # 1 - cos from the cosine itself would be rounding alone: 1e-7, of 1e-9.
    torch.testing.assert_close(
        found[:, METRICS.index("cosine")], expected["cosine"], rtol=2e-3 if moved > 1e-3 else 2e-2, atol=0
    )


def test_the_angle_against_mpmath():
    before, after = torch.tensor([[3.0, 4.0, 1e-3]]).double(), torch.tensor([[3.0, 4.0, 2e-3]]).double()
    found = vocabulary_changes(before, after, torch.eye(3).double(), metrics=("cosine",)).changes.item()
    mpmath.mp.dps = 50
    a, b = ([mpmath.mpf(x) for x in row[0].tolist()] for row in (before, after))
    dot, norms = mpmath.fdot(a, b), mpmath.sqrt(mpmath.fdot(a, a) * mpmath.fdot(b, b))
    assert found == pytest.approx(float(1 - dot / norms), rel=1e-8)


def test_closed_forms():
    eye = torch.eye(2)
    rows = torch.tensor([[3.0, 0.0], [1.0, 2.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    to = torch.tensor([[-3.0, 0.0], [2.0, 4.0], [5.0, 5.0], [1.0, 0.0], [0.0, 0.0]])
    found = vocabulary_changes(rows, to, eye, metrics=("l1", "cosine", "kl"), compiled=False).changes
    assert found[:, 0].tolist() == [6, 3, 8, 1, 0]
    assert found[:, 1].tolist() == [2, 0, 0, 1, 0]  # opposite; longer; longer; from nothing; nothing
    assert found[2, 2] == 0  # a number added to all logits predicts the same


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_that_do_not_move_are_at_zero(dtype):
    before, after, unembedding, bias, targets = random_case(rows=9, dtype=dtype)
    after[::2] = before[::2]
    found = vocabulary_changes(before, after, unembedding, metrics=METRICS, targets=targets, bias=bias).changes
    assert torch.equal(found[::2], torch.zeros_like(found[::2]))
    assert (found[1::2] != 0).all()


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 8.0), st.integers(2, 40))
def test_properties(seed, spread, d_vocab):
    before, after, unembedding, bias, targets = random_case(rows=4, d_model=5, d_vocab=d_vocab, spread=spread, seed=seed)
    forth = vocabulary_changes(before, after, unembedding, metrics=METRICS, targets=targets, bias=bias).changes
    back = vocabulary_changes(after, before, unembedding, metrics=METRICS, targets=targets, bias=bias).changes
    named, reverse = (dict(zip(METRICS, changes.T, strict=True)) for changes in (forth, back))
    close = {"rtol": 1e-8, "atol": 1e-9}
    for symmetric in ("l1", "cosine", "jsd", "fisher_rao", "total_variation"):
        torch.testing.assert_close(named[symmetric], reverse[symmetric], **close)
        assert (named[symmetric] >= 0).all()
    for signed in ("loss", "entropy"):
        torch.testing.assert_close(named[signed], -reverse[signed], **close)
    torch.testing.assert_close(named["kl"], reverse["reverse_kl"], **close)
    assert (named["cosine"] <= 2).all()
    # log p(t) can move by no more than the largest and the smallest difference of the logits, and these by no more than l1.
    assert (named["loss"].abs() <= 2 * named["l1"] + 1e-9).all()


def test_each_metric_may_come_alone_and_in_any_place():
    before, after, unembedding, _, targets = random_case()
    together = vocabulary_changes(before, after, unembedding, metrics=METRICS[::-1], targets=targets).changes
    for i, metric in enumerate(METRICS[::-1]):
        alone = vocabulary_changes(before, after, unembedding, metrics=[metric], targets=targets).changes
        torch.testing.assert_close(alone[:, 0], together[:, i], rtol=1e-12, atol=1e-12)


def test_no_targets_no_loss():
    before, after, unembedding, bias, targets = random_case(rows=3)
    targets[1] = -1
    found = vocabulary_changes(before, after, unembedding, metrics=("loss", "l1"), targets=targets).changes
    assert found[:, 0].isnan().tolist() == [False, True, False]
    assert found[:, 1].isfinite().all()
    bias[targets[0]] = -math.inf
    found = vocabulary_changes(before, after, unembedding, metrics=("loss",), targets=targets, bias=bias).changes
    assert found[:, 0].isnan().tolist() == [True, True, False]
    with pytest.raises(InputError, match="'loss' compares the surprisal of each row's target; pass targets"):
        vocabulary_changes(before, after, unembedding)


def test_bfloat16_is_near():
    before, after, unembedding, bias, targets = random_case(d_model=256, d_vocab=5000, spread=4.0, dtype=torch.float32)
    found = vocabulary_changes(before, after, unembedding, metrics=PLAIN, targets=targets, bias=bias, precision="bfloat16")
    expected = exact(before, after, unembedding, targets, bias=bias)
    for i, metric in enumerate(PLAIN):
        assert (found.changes[:, i] - expected[metric]).abs().max() < 0.15, metric
    assert found.precision == "bfloat16"


@pytest.mark.compiled
def test_compiled_agrees():
    before, after, unembedding, bias, targets = random_case(rows=4, d_vocab=970, dtype=torch.float32)
    options = {"metrics": ("l1", "cosine", "loss"), "targets": targets, "bias": bias}
    found = vocabulary_changes(before, after, unembedding, compiled=True, **options)
    assert found.compiled is True
    expected = vocabulary_changes(before, after, unembedding, compiled=False, **options).changes
    torch.testing.assert_close(found.changes, expected, rtol=1e-5, atol=1e-5)


def test_no_rows():
    before, after, unembedding, _, targets = random_case(rows=0)
    found = vocabulary_changes(before, after, unembedding, metrics=METRICS, targets=targets).changes
    assert found.shape == (0, len(METRICS))


def test_refusals():
    before, after, unembedding, _, targets = random_case(rows=3)
    with pytest.raises(InputError, match=r"metrics must be one of 'l1', 'l2', 'maximum', 'cosine'.*; got 'L1'"):
        vocabulary_changes(before, after, unembedding, metrics=("L1",))
    with pytest.raises(InputTypeError, match=r"metrics must be a sequence such as .*; got 'l1'"):
        vocabulary_changes(before, after, unembedding, metrics="l1")
    for none_or_twice in ((), ("l1", "l1")):
        with pytest.raises(InputError, match=r"metrics must hold at least one of l1, l2.*, each once"):
            vocabulary_changes(before, after, unembedding, metrics=none_or_twice)
    with pytest.raises(InputError, match=r"before and after must be the same rows.*got \[3, 24\].* and \[2, 24\]"):
        vocabulary_changes(before, after[:2], unembedding, metrics=("l1",))
    with pytest.raises(InputError, match="of one dtype"):
        vocabulary_changes(before, after.float(), unembedding, metrics=("l1",))
    with pytest.raises(InputTypeError, match=r"after must be a floating-point tensor; got torch\.int64"):
        vocabulary_changes(before, after.long(), unembedding, metrics=("l1",))
    with pytest.raises(InputError, match=r"targets must be \[row\]"):
        vocabulary_changes(before, after, unembedding, targets=targets[:, None])
    after[1, 0] = math.nan
    with pytest.raises(NonFiniteError, match="site 1 row 1"):
        vocabulary_changes(before, after, unembedding, metrics=("l1",))
    with pytest.raises(NonFiniteError, match="small enough for the squares of logits; it is not in row 0"):
        vocabulary_changes(before[:1].float() * 1e22, before[1:2].float(), unembedding.float(), metrics=("cosine",))
