"""vocabulary_divergences against the slow route: all logits of all sites in float64."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, strategies as st

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.lens import readout
from tl_entropy.functional.lens.comparison import METRICS, vocabulary_divergences
from tl_entropy.functional.lens.divergences import fisher_rao_distance, js_divergence, kl_divergence, total_variation
from tl_entropy.functional.lens.readout import vocabulary_statistics

ORACLES = {
    "kl": kl_divergence,
    "reverse_kl": lambda r, p: kl_divergence(p, r),
    "jsd": js_divergence,
    "fisher_rao": fisher_rao_distance,
    "total_variation": total_variation,
}
# Of float32 sums; absolute, for KL also 2e-6 of itself, the rounding of the product.
TOLERANCES = {"kl": 2e-5, "reverse_kl": 2e-5, "jsd": 2e-5, "fisher_rao": 5e-5, "total_variation": 1e-5}


def random_case(sites=5, rows=20, d_model=24, d_vocab=2100, spread=3.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(sites, rows, d_model, generator=generator, dtype=torch.float64)
    unembedding = torch.randn(d_model, d_vocab, generator=generator, dtype=torch.float64) * spread / d_model**0.5
    bias = torch.randn(d_vocab, generator=generator, dtype=torch.float64)
    return hidden.to(dtype), unembedding.to(dtype), bias.to(dtype)


def exact(hidden, unembedding, reference, *, metrics=METRICS, bias=None, scale=1.0, softcap=None):
    logits = hidden.double() @ unembedding.double()
    logits = scale * (logits if bias is None else logits + bias.double())
    logits = logits if softcap is None else softcap * (logits / softcap).tanh()
    r, p = (logits[:-1], logits[1:]) if reference == "previous" else (logits[reference].expand_as(logits), logits)
    return torch.stack([ORACLES[metric](r, p) for metric in metrics], -1)


def assert_within(found, expected, tolerances=TOLERANCES):
    assert found.dtype == torch.float64
    assert found.shape == expected.shape
    errors = ((found - expected).abs() - 2e-6 * expected).flatten(0, 1).amax(0)
    for metric, error in zip(METRICS, errors.tolist(), strict=True):
        assert error <= tolerances[metric], (metric, error)


@pytest.mark.parametrize("reference", ["previous", 0, 3, -1])
@pytest.mark.parametrize("d_vocab", [1, 7, 960, 961, 2100])
def test_float64_agrees_with_all_logits_at_once(reference, d_vocab):
    hidden, unembedding, bias = random_case(d_vocab=d_vocab)
    found = vocabulary_divergences(hidden, unembedding, reference=reference, metrics=METRICS, bias=bias)
    expected = exact(hidden, unembedding, reference, bias=bias)
    torch.testing.assert_close(found.divergences, expected, rtol=1e-11, atol=1e-11)
    assert found.precision == found.statistics.precision == "float64"
    assert found.compiled is found.statistics.compiled is False


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scale_softcap_bias_and_weights_of_any_layout(softcap, transposed, dtype):
    hidden, unembedding, bias = random_case(dtype=dtype)
    bias[5:40] = -math.inf
    layout = unembedding.t().contiguous().t() if transposed else unembedding
    options = {"scale": 0.5, "softcap": softcap, "bias": bias}
    found = vocabulary_divergences(hidden, layout, reference="previous", metrics=METRICS, **options)
    assert_within(found.divergences, exact(hidden, unembedding, "previous", **options))


@pytest.mark.thinned
@pytest.mark.parametrize("spread", [1.0, 4.0, 12.0])
@pytest.mark.parametrize("step", [None, 1e-3, 1e-4])
def test_float32_is_within_its_tolerances(spread, step):
    hidden, unembedding, _ = random_case(d_model=64, d_vocab=9000, spread=spread, dtype=torch.float32)
    if step is not None:
        hidden[1:] = hidden[0] + hidden[1:] * step / spread
    found = vocabulary_divergences(hidden, unembedding, reference="previous", metrics=METRICS)
    assert_within(found.divergences, exact(hidden, unembedding, "previous"))


def test_bfloat16_is_within_a_tenth():
    hidden, unembedding, _ = random_case(d_model=256, d_vocab=5000, spread=4.0, dtype=torch.float32)
    found = vocabulary_divergences(hidden, unembedding, reference=-1, metrics=METRICS, precision="bfloat16")
    assert_within(found.divergences, exact(hidden, unembedding, -1), dict.fromkeys(METRICS, 0.1))
    assert torch.equal(found.divergences[-1], torch.zeros_like(found.divergences[-1]))
    assert found.precision == "bfloat16"


def test_the_statistics_are_those_of_every_site():
    hidden, unembedding, bias = random_case(dtype=torch.float32)
    targets = torch.arange(40).view(20, 2) * 50 - 1
    options = {"bias": bias, "orders": (0.5, 1, 2), "top_k": 3}
    found = vocabulary_divergences(hidden, unembedding, reference=0, targets=targets, **options).statistics
    for site, rows in enumerate(hidden):
        expected = vocabulary_statistics(rows, unembedding, targets=targets, **options)
        for name in ("entropies", "log_normalizer", "surprisal", "rank", "top_log_probs", "top_tokens"):
            value = getattr(found, name)[site]
            torch.testing.assert_close(value, getattr(expected, name), rtol=0, atol=1e-5, equal_nan=True)
    one = vocabulary_divergences(hidden, unembedding, reference=0, targets=targets[:, 1], bias=bias).statistics
    assert torch.equal(one.surprisal, found.surprisal[..., 1])
    assert torch.equal(one.rank, found.rank[..., 1])


@pytest.mark.parametrize("metric", METRICS)
def test_each_metric_may_come_alone_and_in_any_place(metric):
    hidden, unembedding, _ = random_case()
    everything = vocabulary_divergences(hidden, unembedding, reference=1, metrics=METRICS[::-1]).divergences
    alone = vocabulary_divergences(hidden, unembedding, reference=1, metrics=[metric]).divergences
    assert torch.equal(alone[..., 0], everything[..., METRICS[::-1].index(metric)])


@pytest.mark.parametrize("metrics", [("kl", "reverse_kl", "fisher_rao"), ("jsd",)])
def test_only_mixtures_take_a_second_pass(metrics, monkeypatch):
    passes = []
    begin = readout.TileProducts.begin
    monkeypatch.setattr(readout.TileProducts, "begin", lambda self, hidden: passes.append(begin(self, hidden)))
    hidden, unembedding, _ = random_case()
    vocabulary_divergences(hidden, unembedding, reference=1, metrics=metrics)
    assert len(passes) == (2 if metrics == ("jsd",) else 1)


def test_one_row_one_site_and_two_sites():
    hidden, unembedding, _ = random_case(sites=2, rows=1, dtype=torch.float32)
    itself = vocabulary_divergences(hidden[:1], unembedding, reference=0, metrics=METRICS).divergences
    assert torch.equal(itself, torch.zeros(1, 1, 5, dtype=torch.float64))
    pair = vocabulary_divergences(hidden, unembedding, reference="previous", metrics=METRICS).divergences
    assert_within(pair, exact(hidden, unembedding, "previous"))


def test_no_rows():
    found = vocabulary_divergences(torch.zeros(3, 0, 4), torch.zeros(4, 9), reference="previous", top_k=2)
    assert found.divergences.shape == (2, 0, 3)
    assert found.statistics.top_tokens.shape == (3, 0, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_equal_sites_are_at_exactly_zero(dtype, precision):
    hidden, unembedding, _ = random_case(sites=4, rows=37, d_model=96, dtype=dtype)
    hidden[2] = hidden[0]
    hidden[3, 5:] = hidden[0, 5:]
    found = vocabulary_divergences(hidden, unembedding, reference=0, metrics=METRICS, precision=precision).divergences
    zero = (found == 0).all(-1)
    assert zero[0].all()
    assert zero[2].all()
    assert zero[3, 5:].all()
    assert (found[3, :5] > 0).all()
    assert (found[1] > 0).all()


def test_a_permuted_vocabulary_is_far_away_although_its_entropy_is_the_same():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1100, generator=generator) * 4
    unembedding = torch.stack([logits, logits[torch.randperm(1100, generator=generator)]])
    found = vocabulary_divergences(torch.eye(2)[:, None], unembedding, reference="previous", metrics=METRICS)
    assert (found.divergences > 0.5).all()
    torch.testing.assert_close(found.statistics.entropies[0], found.statistics.entropies[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("d_vocab", [4, 2500])
def test_disjoint_distributions_are_as_far_apart_as_can_be(d_vocab):
    logits = torch.full((2, d_vocab), -1e4)
    logits[0, ::2], logits[1, 1::2] = 1e4, 1e4
    found = vocabulary_divergences(torch.eye(2)[:, None], logits, reference=0, metrics=METRICS).divergences[1, 0]
    expected = torch.tensor([2e4, 2e4, math.log(2), math.pi, 1.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_closed_form_of_two_bernoulli_distributions():
    p = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.float64)
    found = vocabulary_divergences(torch.eye(2).double()[:, None], p.log(), reference=0, metrics=METRICS).divergences[1, 0]
    mixture = [0.375, 0.625]
    expected = [
        math.log(4 / 3) / 2,
        0.75 * math.log(3) - math.log(2),
        sum(w * math.log(w / m) for row in p.tolist() for w, m in zip(row, mixture, strict=True)) / 2,
        2 * math.acos(math.sqrt(0.125) + math.sqrt(0.375)),
        0.25,
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_masked_tokens_weigh_nothing(precision):
    hidden, unembedding, bias = random_case(d_vocab=2500, dtype=torch.float32)
    bias[:1000] = -math.inf  # the first tile is masked as a whole, the second in part
    bias[2400:] = -math.inf
    options = {"reference": "previous", "metrics": METRICS, "precision": precision}
    found = vocabulary_divergences(hidden, unembedding, bias=bias, **options).divergences
    expected = exact(hidden, unembedding[:, 1000:2400], "previous", bias=bias[1000:2400])
    assert_within(found, expected, TOLERANCES if precision == "float32" else dict.fromkeys(METRICS, 0.1))
    bias[:2400] = -math.inf
    bias[77] = 0.0  # one token is left
    alone = vocabulary_divergences(hidden, unembedding, bias=bias, **options).divergences
    assert torch.equal(alone, torch.zeros_like(alone))


@given(seed=st.integers(0, 999), spread=st.floats(1e-3, 60), d_vocab=st.integers(1, 1500))
def test_ranges_symmetry_and_triangles(seed, spread, d_vocab):
    hidden, unembedding, _ = random_case(3, 4, 5, d_vocab, spread, dtype=torch.float32, seed=seed)
    hidden[2] = hidden[0] + hidden[2] * 10.0 ** -(seed % 8)
    found = [vocabulary_divergences(hidden, unembedding, reference=i, metrics=METRICS).divergences for i in range(3)]
    kl, reverse_kl, jsd, fisher_rao, tv = torch.stack(found).unbind(-1)  # each [reference, site, row]
    assert all((values >= 0).all() for values in (kl, reverse_kl, jsd, fisher_rao, tv))
    assert jsd.max() <= math.log(2)
    assert fisher_rao.max() <= math.pi
    assert tv.max() <= 1
    torch.testing.assert_close(kl, reverse_kl.transpose(0, 1), rtol=1e-6, atol=2e-6)
    for values in (jsd, fisher_rao, tv):
        torch.testing.assert_close(values, values.transpose(0, 1), rtol=1e-6, atol=2e-6)
    for metric in (jsd.sqrt(), fisher_rao, tv):
        assert (metric[0, 2] <= metric[0, 1] + metric[1, 2] + 1e-5).all()
    assert (jsd <= math.log(2) * tv + 2e-6).all()  # Lin, 1991, theorem 3
    assert (2 * tv.square() <= kl + 2e-5).all()  # Pinsker


@pytest.mark.parametrize("rows_a_block", [1, 7, 100])
def test_any_blocks_of_rows_give_the_same_numbers(rows_a_block, monkeypatch):
    hidden, unembedding, bias = random_case(rows=50, dtype=torch.float32)
    targets = torch.arange(50)
    options = {"reference": -1, "metrics": METRICS, "bias": bias, "targets": targets, "top_k": 2}
    whole = vocabulary_divergences(hidden, unembedding, **options)
    monkeypatch.setattr(readout, "_TILE", 960 * 5 * rows_a_block)
    parts = vocabulary_divergences(hidden, unembedding, **options)
    torch.testing.assert_close(parts.divergences, whole.divergences, rtol=0, atol=1e-5)
    torch.testing.assert_close(parts.statistics.surprisal, whole.statistics.surprisal, rtol=0, atol=1e-5)
    assert torch.equal(parts.statistics.rank, whole.statistics.rank)


def test_more_sites_than_rows_in_a_tile():
    hidden, unembedding, _ = random_case(sites=2500, rows=2, d_model=6, d_vocab=500)
    found = vocabulary_divergences(hidden, unembedding, reference="previous", metrics=METRICS, targets=torch.tensor([3, 499]))
    torch.testing.assert_close(found.divergences, exact(hidden, unembedding, "previous"), rtol=1e-10, atol=1e-10)
    assert found.statistics.rank.shape == (2500, 2)


@pytest.mark.compiled
@pytest.mark.parametrize("reference", ["previous", pytest.param(-1, marks=pytest.mark.slow)])
def test_compiled_equals_eager(reference):
    for sites, rows in ((5, 20), (3, 7)):
        hidden, unembedding, bias = random_case(sites, rows, dtype=torch.float32)
        bias[:1000] = -math.inf
        found, expected = (
            vocabulary_divergences(
                hidden,
                unembedding,
                reference=reference,
                metrics=METRICS,
                bias=bias,
                compiled=compiled,
                targets=torch.arange(rows),
            )
            for compiled in (True, False)
        )
        assert found.compiled
        assert not expected.compiled
        torch.testing.assert_close(found.divergences, expected.divergences, rtol=1e-6, atol=3e-6)
        assert torch.equal(found.statistics.rank, expected.statistics.rank)


def test_errors_name_site_and_row():
    hidden, unembedding, _ = random_case(sites=3, rows=400, dtype=torch.float32)
    broken = hidden.clone()
    broken[2, 377, 3] = math.nan
    with pytest.raises(NonFiniteError, match=r"hidden must be finite.* in site 2 row 377:"):
        vocabulary_divergences(broken, unembedding, reference=0)
    broken = hidden.clone()
    broken[1, 17] = 3e38
    with pytest.raises(NonFiniteError, match=r"hidden @ unembedding .* in site 1 row 17:"):
        vocabulary_divergences(broken, unembedding * 100, reference=0)
    large = torch.tensor([[[3.3e38]], [[-3.3e38]]])
    with pytest.raises(NonFiniteError, match=r"small enough .* in site 1 row 0:"):
        vocabulary_divergences(large, torch.tensor([[1.0, -1.0]]), reference="previous", metrics=("kl",), orders=2.0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metrics": ()}, InputError, "at least one of kl, reverse_kl"),
        ({"metrics": ("kl", "jsd", "kl")}, InputError, "each once"),
        ({"metrics": ("kl", "js")}, InputError, "metrics must be one of 'kl'"),
        ({"metrics": "kl"}, InputTypeError, "metrics must be a sequence"),
        ({"reference": 2}, InputError, "reference must be an int from -2 to 1; got 2"),
        ({"reference": -3}, InputError, "reference must be an int from -2 to 1"),
        ({"reference": "next"}, InputError, "reference must be one of 'previous'"),
        ({"reference": None}, InputTypeError, "reference must be an int"),
        ({"reference": True}, InputTypeError, "reference must be an int"),
        ({"reference": "previous", "hidden": torch.zeros(1, 2, 4)}, InputError, "at least two sites"),
        ({"hidden": torch.zeros(0, 2, 4)}, InputError, "at least one site"),
        ({"hidden": torch.zeros(2, 4)}, InputError, "hidden must have 3 axes"),
        ({"hidden": torch.zeros(2, 3, 5)}, InputError, r"hidden \[site, row, d_model\] .* share d_model"),
        ({"targets": torch.zeros(2, 3).long()}, InputError, r"targets must be \[3\]"),
        ({"targets": torch.zeros(3, 0).long()}, InputError, r"\[3, n_targets\]; got \[3, 0\]"),
        ({"precision": "fp8"}, InputError, "precision"),
        ({"orders": -1}, InputError, "from 0 to infinity"),
    ],
)
def test_bad_arguments_are_refused(changes, error, message):
    arguments = {"hidden": torch.zeros(2, 3, 4), "unembedding": torch.zeros(4, 9), "reference": 0, **changes}
    with pytest.raises(error, match=message):
        vocabulary_divergences(**arguments)


MEASURE = """
import resource, torch
from tl_entropy.functional import vocabulary_divergences
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
torch.set_num_threads(1)
unembedding = torch.randn(16, 50257)
many = torch.randn(13, 400, 16)
options = dict(reference=-1, metrics=("kl", "jsd", "fisher_rao"), compiled=False)
vocabulary_divergences(many[:, :2], unembedding, **options)
before = peak()
vocabulary_divergences(many, unembedding, **options)
print(peak() - before)
"""


@pytest.mark.long
def test_extra_memory_stays_below_64_megabytes_whatever_the_number_of_rows():
    run = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 64, "5200 rows of logits would be 1 GB"
