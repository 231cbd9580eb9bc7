"""vocabulary_statistics against the slow route: all logits at once in float64."""

from __future__ import annotations

import math
import subprocess
import sys

import mpmath
import pytest
import torch
from hypothesis import given, strategies as st

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.lens.comparison import vocabulary_divergences
from tl_entropy.functional.lens.entropies import renyi_entropy, surprisal
from tl_entropy.functional.lens.readout import VocabularyStatistics, vocabulary_statistics

ORDERS = (0, 0.01, 0.3, 0.5, 0.75, 0.999, 1, 1.000002, 1.3, 1.5, 2, 2.5, 5, 7, 50, math.inf)


def random_case(rows=40, d_model=24, d_vocab=3000, spread=3.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, d_model, generator=generator, dtype=torch.float64)
    unembedding = torch.randn(d_model, d_vocab, generator=generator, dtype=torch.float64) * spread / d_model**0.5
    bias = torch.randn(d_vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, d_vocab, (rows,), generator=generator)
    return hidden.to(dtype), unembedding.to(dtype), bias.to(dtype), targets


def all_logits(hidden, unembedding, bias=None, scale=1.0, softcap=None):
    logits = hidden.double() @ unembedding.double()
    logits = scale * (logits if bias is None else logits + bias.double())
    return logits if softcap is None else softcap * (logits / softcap).tanh()


def check(found: VocabularyStatistics, logits, *, orders, targets=None, tolerance):
    torch.testing.assert_close(found.entropies, renyi_entropy(logits, orders), rtol=0, atol=tolerance)
    torch.testing.assert_close(found.log_normalizer, logits.logsumexp(-1), rtol=1e-7, atol=tolerance)
    if targets is not None:
        torch.testing.assert_close(found.surprisal, surprisal(logits, targets), rtol=1e-7, atol=tolerance)
    if found.top_tokens is not None:
        expected = logits.log_softmax(-1).topk(found.top_tokens.shape[1]).values
        torch.testing.assert_close(found.top_log_probs, expected, rtol=1e-7, atol=tolerance)
        chosen = logits.log_softmax(-1).gather(1, found.top_tokens)
        torch.testing.assert_close(chosen, expected, rtol=1e-7, atol=tolerance)


@pytest.mark.parametrize("scale", [1.0, 0.0625])
@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_float64_agrees_with_all_logits_at_once(scale, softcap, with_bias, transposed):
    hidden, unembedding, bias, targets = random_case()
    bias = bias if with_bias else None
    layout = unembedding.t().contiguous().t() if transposed else unembedding
    options = {"bias": bias, "scale": scale, "softcap": softcap}
    found = vocabulary_statistics(hidden, layout, orders=ORDERS, targets=targets, top_k=7, **options)
    logits = all_logits(hidden, unembedding, **options)
    check(found, logits, orders=ORDERS, targets=targets, tolerance=1e-11)
    assert torch.equal(found.rank, (logits >= logits.gather(1, targets[:, None])).sum(-1) - 1)
    assert found.precision == "float64"
    assert not found.compiled


@pytest.mark.parametrize("spread", [1.0, 4.0, 12.0])
def test_float32_is_within_2e_5_nats(spread):
    hidden, unembedding, bias, targets = random_case(d_model=64, d_vocab=9000, spread=spread, dtype=torch.float32)
    found = vocabulary_statistics(hidden, unembedding, bias=bias, orders=ORDERS, targets=targets, top_k=3)
    check(found, all_logits(hidden, unembedding, bias), orders=ORDERS, targets=targets, tolerance=2e-5)
    assert found.precision == "float32"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transposed", [False, True])
def test_half_precision_weights_are_worked_in_float32(dtype, transposed):
    hidden, unembedding, bias, targets = random_case(dtype=dtype)
    layout = unembedding.t().contiguous().t() if transposed else unembedding
    found = vocabulary_statistics(hidden, layout, bias=bias, orders=ORDERS, targets=targets)
    check(found, all_logits(hidden, unembedding, bias), orders=ORDERS, targets=targets, tolerance=2e-5)


@pytest.mark.thinned
@pytest.mark.parametrize("offset", [0.0, -100.0])
@pytest.mark.parametrize("spread", [1.0, 4.0, 12.0])
@pytest.mark.parametrize("transposed", [False, True])
def test_bfloat16_products_are_within_a_twentieth_of_a_nat(spread, offset, transposed):
    hidden, unembedding, _, targets = random_case(d_model=256, d_vocab=9000, spread=spread, dtype=torch.float32)
    hidden, unembedding = hidden.bfloat16().float(), unembedding.bfloat16().float()  # leaves the rounding of what is returned
    hidden[:, 0], unembedding[0] = 1.0, offset
    layout = unembedding.t().contiguous().t() if transposed else unembedding
    found = vocabulary_statistics(hidden, layout, orders=ORDERS, targets=targets, precision="bfloat16")
    check(found, all_logits(hidden, unembedding), orders=ORDERS, targets=targets, tolerance=0.01)
    assert found.precision == "bfloat16"


def test_bfloat16_rounding_of_the_factors_is_within_a_twentieth_of_a_nat():
    hidden, unembedding, bias, targets = random_case(d_model=768, d_vocab=9000, spread=5.0, dtype=torch.float32)
    found = vocabulary_statistics(hidden, unembedding, bias=bias, orders=ORDERS, targets=targets, precision="bfloat16")
    logits = all_logits(hidden, unembedding, bias)
    torch.testing.assert_close(found.entropies, renyi_entropy(logits, ORDERS), rtol=0, atol=0.05)
    torch.testing.assert_close(found.surprisal, surprisal(logits, targets), rtol=0, atol=0.05)


def test_any_split_of_the_rows_gives_the_same_numbers():
    hidden, unembedding, bias, targets = random_case(rows=700, dtype=torch.float32)
    whole = vocabulary_statistics(hidden, unembedding, bias=bias, orders=ORDERS, targets=targets, top_k=2)
    for start, stop in ((0, 1), (1, 38), (38, 700)):
        part = vocabulary_statistics(
            hidden[start:stop], unembedding, bias=bias, orders=ORDERS, targets=targets[start:stop], top_k=2
        )
        torch.testing.assert_close(part.entropies, whole.entropies[start:stop], rtol=0, atol=1e-5)
        torch.testing.assert_close(part.surprisal, whole.surprisal[start:stop], rtol=0, atol=1e-5)
        torch.testing.assert_close(part.top_log_probs, whole.top_log_probs[start:stop], rtol=0, atol=1e-5)


@given(order=st.floats(0, 60), spread=st.floats(0.01, 40), d_vocab=st.integers(1, 2500), seed=st.integers(0, 999))
def test_any_order_and_vocabulary(order, spread, d_vocab, seed):
    hidden, unembedding, bias, _ = random_case(rows=3, d_model=5, d_vocab=d_vocab, spread=spread, seed=seed)
    found = vocabulary_statistics(hidden, unembedding, bias=bias, orders=order)
    expected = renyi_entropy(all_logits(hidden, unembedding, bias), order)
    torch.testing.assert_close(found.entropies[:, 0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("distance", [1e-9, -1e-9, 2e-6, -2e-6, 1e-4, -1e-3, 0.05])
def test_orders_near_one_keep_their_digits_in_float32(distance):
    order = 1 + distance
    logits = torch.randn(1, 2100, generator=torch.Generator().manual_seed(3)) * 4
    found = vocabulary_statistics(torch.ones(1, 1), logits, orders=(order, 1.0)).entropies[0]
    with mpmath.workdps(40):
        weights = [mpmath.exp(mpmath.mpf(float(value))) for value in logits[0]]
        total = mpmath.fsum(weights)
        expected = mpmath.log(mpmath.fsum((w / total) ** mpmath.mpf(order) for w in weights)) / (1 - mpmath.mpf(order))
    assert abs(found[0].item() - float(expected)) < 5e-6
    if abs(distance) < 3e-6:
        assert abs(found[0] - found[1]) < 1e-5


def test_uniform_over_a_large_vocabulary():
    found = vocabulary_statistics(torch.zeros(2, 3), torch.ones(3, 50257), orders=(0, 0.5, 1, 5, 50, math.inf))
    torch.testing.assert_close(found.entropies, torch.full((2, 6), math.log(50257), dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_masked_tokens(precision):
    hidden, unembedding, bias, _ = random_case(d_vocab=2500, dtype=torch.float32)
    unembedding.zero_()
    bias[:] = -math.inf  # the first tile is masked as a whole, the second in part
    bias[1030], bias[2400] = 2.0, 2.0
    targets = torch.full((len(hidden),), 7)
    targets[0], targets[1] = 2400, -1
    found = vocabulary_statistics(hidden, unembedding, bias=bias, orders=ORDERS, targets=targets, top_k=3, precision=precision)
    torch.testing.assert_close(found.entropies, torch.full_like(found.entropies, math.log(2)), rtol=0, atol=1e-6)
    assert found.surprisal[0].item() == pytest.approx(math.log(2))
    assert found.surprisal[1].isnan()
    assert found.surprisal[2].item() == math.inf
    assert found.rank[:3].tolist() == [1, -1, 2499], "of those that are never possible all share the last rank"
    assert found.top_tokens[0].tolist() == [1030, 2400, 0]
    assert found.tied.all()
    assert found.top_log_probs[0, 2] == -math.inf


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tokens_with_equal_columns_are_equally_probable_wherever_they_stand(transposed, dtype):
    hidden, unembedding, _, _ = random_case(rows=300, d_model=96, d_vocab=2600, dtype=dtype)
    unembedding[:, 1300:] = unembedding[:, :1300]
    if transposed:
        unembedding = unembedding.t().contiguous().t()
    best = (hidden @ unembedding)[:, :1300].argmax(-1)
    for targets in (best, best + 1300):
        found = vocabulary_statistics(hidden, unembedding, targets=targets, top_k=1)
        assert found.rank.eq(1).all(), "the other one is as probable"
        assert torch.equal(found.top_tokens[:, 0], best)
        assert found.tied.all()
    torch.testing.assert_close(found.top_log_probs[:, 0], -found.surprisal, rtol=0, atol=0)


@pytest.mark.parametrize("d_vocab", [1, 2, 7, 960, 961, 2500])
@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_ranks_and_top_tokens_of_many_equal_logits(d_vocab, top_k):
    draw = torch.Generator().manual_seed(d_vocab)
    hidden = torch.randint(-1, 2, (60, 3), generator=draw).float()
    unembedding = torch.randint(-2, 3, (3, d_vocab), generator=draw).float()  # few different logits, all of them exact
    bias = torch.zeros(d_vocab).masked_fill(torch.arange(d_vocab) % 3 == 2, -math.inf)
    logits = hidden @ unembedding + bias
    targets, top_k = torch.randint(0, d_vocab, (60,), generator=draw), min(top_k, d_vocab)
    found = vocabulary_statistics(hidden, unembedding, bias=bias, targets=targets, top_k=top_k)
    assert torch.equal(found.rank, (logits >= logits.gather(1, targets[:, None])).sum(-1) - 1)
    assert torch.equal(found.top_tokens, logits.sort(dim=-1, descending=True, stable=True).indices[:, :top_k])
    assert torch.equal(found.tied, (logits == logits.amax(-1, keepdim=True)).sum(-1) > 1)
    assert found.tied.any() == (d_vocab > 1)
    of_sites = vocabulary_divergences(hidden.view(2, 30, 3), unembedding, reference=0, bias=bias, top_k=top_k).statistics
    assert torch.equal(of_sites.tied.flatten(), found.tied)
    assert torch.equal(of_sites.top_tokens.flatten(0, 1), found.top_tokens)


def test_an_unembedding_of_zeros_gets_nothing_right():
    hidden, targets = torch.randn(5, 8), torch.tensor([0, 1, 2000, 4095, -1])
    found = vocabulary_statistics(hidden, torch.zeros(8, 4096), targets=targets, top_k=3)
    assert found.rank.tolist() == [4095, 4095, 4095, 4095, -1]
    assert found.top_tokens.tolist() == [[0, 1, 2]] * 5
    assert found.tied.all()
    assert vocabulary_statistics(hidden, torch.zeros(8, 4096)).tied is None


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("d_vocab", [9, 2600])
def test_several_targets_are_those_of_one_at_a_time(d_vocab, transposed):
    hidden, unembedding, bias, _ = random_case(rows=700, d_vocab=d_vocab, dtype=torch.float32)
    bias[3] = -math.inf
    if transposed:
        unembedding = unembedding.t().contiguous().t()
    targets = torch.randint(-1, d_vocab, (700, 5), generator=torch.Generator().manual_seed(2))
    targets[:, 4], targets[0] = targets[:, 0], torch.tensor([3, -1, 0, -7, d_vocab - 1])
    found = vocabulary_statistics(hidden, unembedding, bias=bias, targets=targets)
    assert found.surprisal.shape == found.rank.shape == (700, 5)
    for i, column in enumerate(targets.unbind(1)):
        one = vocabulary_statistics(hidden, unembedding, bias=bias, targets=column)
        torch.testing.assert_close(found.surprisal[:, i], one.surprisal, rtol=0, atol=1e-6, equal_nan=True)
        assert torch.equal(found.rank[:, i], one.rank)
    assert found.surprisal[0].isnan().tolist() == [False, True, False, True, False]
    assert found.surprisal[0, 0] == math.inf
    assert found.rank[0, 1] == found.rank[0, 3] == -1
    logits = all_logits(hidden, unembedding, bias)
    expected = surprisal(logits.repeat_interleave(5, 0), targets.clamp(min=0).flatten()).view(700, 5)
    torch.testing.assert_close(found.surprisal, expected.masked_fill(targets < 0, math.nan), rtol=0, atol=2e-5, equal_nan=True)


def test_more_targets_than_a_tile_is_wide():
    hidden, unembedding, bias, _ = random_case(rows=3, d_vocab=2600)
    targets = torch.arange(2600).expand(3, -1)
    found = vocabulary_statistics(hidden, unembedding, bias=bias, targets=targets)
    logits = all_logits(hidden, unembedding, bias)
    torch.testing.assert_close(found.surprisal, -logits.log_softmax(-1), rtol=0, atol=1e-11)
    assert torch.equal(found.rank.sort(-1).values, targets)


def test_rank_agrees_with_the_top_tokens():
    hidden, unembedding, bias, _ = random_case(rows=200, d_model=64, dtype=torch.float32)
    for precision in ("float32", "bfloat16"):
        top = vocabulary_statistics(hidden, unembedding, bias=bias, top_k=1, precision=precision)
        found = vocabulary_statistics(hidden, unembedding, bias=bias, targets=top.top_tokens[:, 0], precision=precision)
        assert (found.rank == 0).float().mean() > (0.999 if precision == "float32" else 0.95)


def test_top_k_may_be_the_whole_vocabulary():
    hidden, unembedding, bias, _ = random_case(d_vocab=1100)
    bias[-30:] = -math.inf
    found = vocabulary_statistics(hidden, unembedding, bias=bias, top_k=1100)
    check(found, all_logits(hidden, unembedding, bias), orders=(1.0,), tolerance=1e-11)
    assert torch.equal(found.top_tokens.sort(-1).values, torch.arange(1100).expand(len(hidden), -1))


def test_no_rows():
    found = vocabulary_statistics(torch.zeros(0, 4), torch.zeros(4, 9), orders=(1, 2), targets=torch.zeros(0).long(), top_k=2)
    assert found.entropies.shape == (0, 2)
    assert found.top_tokens.shape == (0, 2)
    assert found.rank.shape == found.surprisal.shape == (0,)


def test_global_settings_neither_matter_nor_change():
    hidden, unembedding, _, _ = random_case(d_model=64, dtype=torch.float32)
    expected = vocabulary_statistics(hidden, unembedding).entropies
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = vocabulary_statistics(hidden, unembedding).entropies
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(found, expected)


def test_the_newer_settings_neither_matter_nor_change():
    matmul = torch.backends.mkldnn.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this PyTorch has only the global setting")
    hidden, unembedding, _, _ = random_case(d_model=64, dtype=torch.float32)
    expected = vocabulary_statistics(hidden, unembedding).entropies
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        found = vocabulary_statistics(hidden, unembedding).entropies
        assert matmul.fp32_precision == "bf16"
    finally:
        matmul.fp32_precision = before
    assert torch.equal(found, expected)


def test_parameters_need_no_graph():
    unembedding = torch.nn.Parameter(torch.randn(4, 9))
    assert not vocabulary_statistics(torch.randn(2, 4), unembedding).entropies.requires_grad


def test_errors_name_the_rows():
    hidden, unembedding, _, _ = random_case(rows=600, d_vocab=2000, dtype=torch.float32)
    broken = hidden.clone()
    broken[577, 3], broken[599, 0] = math.nan, math.inf
    with pytest.raises(NonFiniteError, match=r"hidden must be finite.* row 577, 599"):
        vocabulary_statistics(broken, unembedding)
    with pytest.raises(NonFiniteError, match=r"hidden @ unembedding .* row 17"):
        vocabulary_statistics(hidden.index_fill(0, torch.tensor([17]), 3e38), unembedding * 100, orders=(2.0,))
    spoilt = unembedding.clone()
    spoilt[0, 1999] = math.nan
    with pytest.raises(NonFiniteError, match="row 0, 1, 2, 3, 4, 5, 6, 7 and"):
        vocabulary_statistics(hidden, spoilt, orders=0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hidden": torch.zeros(2, 5)}, InputError, "share d_model"),
        ({"hidden": torch.zeros(2, 3, 4)}, InputError, "hidden must have 2 axes"),
        ({"hidden": torch.zeros(2, 4, dtype=torch.int64)}, InputTypeError, "hidden must be a floating-point"),
        ({"unembedding": torch.zeros(4, 0)}, InputError, "d_vocab"),
        ({"bias": torch.zeros(8)}, InputError, r"bias must be \[9\]"),
        ({"bias": torch.full((9,), -math.inf)}, InputError, "all -inf"),
        ({"bias": torch.tensor([math.nan] + [0.0] * 8)}, InputError, "bias must be finite or -inf"),
        ({"orders": -1}, InputError, "from 0 to infinity"),
        ({"orders": ()}, InputError, "one or more different numbers"),
        ({"orders": "1"}, InputTypeError, "orders must be one or several numbers"),
        ({"targets": torch.tensor([0, 9])}, InputError, "below the vocabulary's 9"),
        ({"targets": torch.tensor([0])}, InputError, r"targets must be \[2\]"),
        ({"targets": torch.zeros(2, 1, 1).long()}, InputError, r"or \[2, n_targets\]; got \[2, 1, 1\]"),
        ({"targets": torch.zeros(2, 0).long()}, InputError, r"or \[2, n_targets\]; got \[2, 0\]"),
        ({"targets": torch.tensor([0.0, 1.0])}, InputTypeError, "int64"),
        ({"top_k": 10}, InputError, "top_k must be between 0 and the 9"),
        ({"precision": "fp8"}, InputError, "'float32', 'bfloat16'"),
        ({"softcap": -1.0}, InputError, "softcap"),
        ({"scale": math.inf}, InputError, "scale"),
    ],
)
def test_bad_arguments_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        vocabulary_statistics(**{"hidden": torch.zeros(2, 4), "unembedding": torch.zeros(4, 9), **changes})


MEASURE = """
import resource, torch
from tl_entropy.functional import vocabulary_statistics
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
unembedding = torch.randn(16, 50257)
many = torch.randn(8192, 16)
targets = torch.zeros(8192, dtype=torch.int64)
vocabulary_statistics(many[:2], unembedding, targets=targets[:2], top_k=2, compiled=False)
before = peak()
vocabulary_statistics(many, unembedding, orders=(0.5, 1, 2, 5), targets=targets, top_k=2, compiled=False)
print(peak() - before)
"""


@pytest.mark.long
def test_extra_memory_stays_below_64_megabytes_whatever_the_number_of_rows():
    run = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 64, "8192 rows of logits would be 1.6 GB"


# --- varentropy


def variance_of_surprisal(logits):
    log_p = logits.double().log_softmax(-1)
    p = log_p.exp()
    mean = (p * log_p.clamp_min(-1e6)).sum(-1, keepdim=True)
    return (p * (log_p.clamp_min(-1e6) - mean) ** 2).sum(-1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("spread", [0.5, 4.0, 12.0])
@pytest.mark.parametrize(
    "options", [{}, {"targets": True}, {"targets": True, "orders": (0.5, 2)}, {"softcap": 4.0, "scale": 0.5}]
)
def test_varentropy_over_many_tiles(dtype, tolerance, spread, options):
    hidden, unembedding, bias, targets = random_case(d_vocab=5000, spread=spread, dtype=dtype)
    options = {**options, **({"targets": targets} if "targets" in options else {})}
    found = vocabulary_statistics(hidden, unembedding, bias=bias, varentropy=True, **options)
    own = {name: value for name, value in options.items() if name in ("softcap", "scale")}
    expected = variance_of_surprisal(all_logits(hidden, unembedding, bias, **own))
    torch.testing.assert_close(found.varentropy, expected, rtol=tolerance, atol=tolerance)
    plain = vocabulary_statistics(hidden, unembedding, bias=bias, **options)
    assert plain.varentropy is None
    for name in ("entropies", "surprisal", "rank"):
        if getattr(plain, name) is not None:
            assert torch.equal(getattr(found, name), getattr(plain, name)), name


def test_varentropy_of_uniform_certain_and_masked_rows():
    hidden, unembedding = torch.ones(3, 1), torch.zeros(1, 4000)
    assert vocabulary_statistics(hidden, unembedding, varentropy=True).varentropy.abs().max() < 1e-9
    bias = torch.full((4000,), -math.inf)
    bias[[7, 3999]] = torch.tensor([0.75, 0.25]).log()
    found = vocabulary_statistics(hidden, unembedding, bias=bias, varentropy=True)
    torch.testing.assert_close(
        found.varentropy, torch.full((3,), 0.1875 * math.log(3) ** 2, dtype=torch.float64), rtol=1e-6, atol=0
    )
    bias[7] = 2000.0  # certain
    assert vocabulary_statistics(hidden, unembedding, bias=bias, varentropy=True).varentropy.max() < 1e-200
