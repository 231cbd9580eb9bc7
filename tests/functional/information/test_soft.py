"""Soft entropy and information against a float64 oracle in NumPy, brute force, replicates, and the published package."""

from __future__ import annotations

import hashlib
import math
from operator import attrgetter

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.stats import kstest

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.information.mutual import soft_mutual_information
from tl_entropy.functional.information.soft import soft_anchors, soft_assignments, soft_entropy
from tl_entropy.functional.information.temperature import calibrate_temperature


def states(rows, d, seed=0, dtype=torch.float64):
    return torch.tensor(np.random.default_rng(seed).normal(size=(rows, d))).to(dtype)


def labelled_states(rows=400, d=16, types=30, seed=0, noise=1.0):
    """Labels by Zipf's law, and states that are a direction of their label plus noise."""
    rng = np.random.default_rng(seed)
    label = zipf(rng, rows, types)
    return torch.tensor(rng.normal(size=(types, d))[label] + noise * rng.normal(size=(rows, d))), label


def zipf(rng, rows, types):
    weights = 1 / np.arange(1, types + 1)
    return rng.choice(types, rows, p=weights / weights.sum())


def plain_assignments(z, anchors, temperature):
    """p_i = softmax(z̄_i · w_j / ε), from the definition, in float64."""
    z, w = np.asarray(z, dtype=np.float64), np.asarray(anchors, dtype=np.float64)
    w = w / np.sqrt((w * w).sum(1, keepdims=True))
    scores = (z / np.sqrt((z * z).sum(1, keepdims=True))) @ w.T / temperature
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def plain_entropy(p):
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def plain_plug_in(p, label):
    conditional = sum((label == x).mean() * plain_entropy(p[label == x].mean(0)) for x in np.unique(label))
    return plain_entropy(p.mean(0)) - conditional


def plain_ceiling(p):
    return plain_entropy(p.mean(0)) - float(np.mean([plain_entropy(row) for row in p]))


@pytest.mark.parametrize(
    ("seed", "checksum"),
    [
        (0, "b576b4c2f8880c2e2ebc8cab722c8941bd7d6fc5bc35a8e1a663f17dfa3099c3"),
        (1, "583d6dae0b890b762a9e4deb5cb8eadcae2412595ba682c81037b17e76bc01af"),
    ],
)
def test_anchors_are_pinned(seed, checksum):
    assert hashlib.sha256(soft_anchors(64, 100, seed=seed).numpy().tobytes()).hexdigest() == checksum


def test_anchors_depend_on_nothing_but_their_arguments():
    anchors = soft_anchors(64, 100)
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (the global state is what must not matter)
        assert torch.equal(soft_anchors(64, 100), anchors)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert soft_anchors(64, 100).dtype == torch.float32
        assert torch.equal(soft_anchors(64, 100), anchors)
    finally:
        torch.set_default_dtype(before)
    with torch.device("meta"):
        assert torch.equal(soft_anchors(64, 100), anchors)
    assert torch.equal(soft_anchors(64, 17), anchors[:17])
    assert not torch.equal(soft_anchors(64, 100, seed=1), anchors)


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_no_other_draw_of_the_same_seed_gives_the_same_anchors(seed):
    """Rows of an embedding that was made after ``torch.manual_seed`` must not be anchors."""
    torch.manual_seed(seed)
    others = [torch.nn.Embedding(300, 64).weight.detach()]
    others += [torch.randn(300, 64, generator=torch.Generator().manual_seed(seed))]
    others += [torch.randn(300, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)]
    for generator in (np.random.RandomState(seed), np.random.default_rng(seed), np.random.Generator(np.random.Philox(seed))):
        others.append(torch.tensor(generator.standard_normal((300, 64))))
    anchors = soft_anchors(64, 300, seed=seed)
    for other in others:
        cosines = anchors @ torch.nn.functional.normalize(other.float(), dim=1).mT
        assert cosines.abs().max() < 0.8  # chance reaches .7


def test_anchors_are_uniform_on_the_sphere():
    anchors = soft_anchors(3, 20_000).double()
    torch.testing.assert_close(anchors.norm(dim=1), torch.ones(20_000).double(), rtol=0, atol=1e-7)
    assert anchors.mean(0).norm() < 0.02
    torch.testing.assert_close(anchors.mT @ anchors / 20_000, torch.eye(3).double() / 3, rtol=0, atol=0.01)
    for axis in anchors.mT:  # heights on a sphere are uniform (Archimedes)
        assert kstest(axis.numpy(), "uniform", args=(-1, 2)).pvalue > 0.001


def test_anchors_refuse():
    for arguments in ((0, 5), (5, 0)):
        with pytest.raises(InputError, match="must be an int of at least 1"):
            soft_anchors(*arguments)
    with pytest.raises(InputError, match="seed"):
        soft_anchors(3, 3, seed=-1)
    with pytest.raises(InputTypeError, match="n_bins"):
        soft_anchors(3, 3.0)


@pytest.mark.parametrize(("rows", "d", "n_bins"), [(1, 2, 2), (7, 3, 5), (300, 64, 100), (50, 768, 300)])
@pytest.mark.parametrize("calibration", ["exact", "leading_order"])
def test_entropy_is_that_of_the_definition(rows, d, n_bins, calibration):
    z = states(rows, d)
    p = plain_assignments(z, soft_anchors(d, n_bins, seed=3), calibrate_temperature(d, n_bins, method=calibration))
    found = soft_entropy(z, n_bins=n_bins, seed=3, calibration=calibration)
    assert found.dtype == torch.float64
    assert found.shape == ()
    assert found.item() == pytest.approx(plain_entropy(p.mean(0)), abs=1e-7)  # anchors are float32, of length 1 but for 1e-8
    share = soft_entropy(z, n_bins=n_bins, seed=3, calibration=calibration, normalize=True)
    assert share.item() == pytest.approx(found.item() / math.log(n_bins))


def test_assignments_are_those_of_the_definition():
    z, anchors = states(40, 12), soft_anchors(12, 30).double()
    anchors = anchors / anchors.norm(dim=1, keepdim=True)
    expected = torch.tensor(plain_assignments(z, anchors, 0.07))
    torch.testing.assert_close(soft_assignments(z, anchors, 0.07), expected, rtol=1e-11, atol=1e-15)
    batched = soft_assignments(z.float().view(4, 10, 12), anchors, 0.07)
    assert batched.dtype == torch.float32
    torch.testing.assert_close(batched.flatten(0, 1).double(), expected, rtol=1e-4, atol=1e-7)
    half = (1e4 * z).bfloat16()
    assert torch.equal(soft_assignments(half, anchors, 0.07), soft_assignments(half.float(), anchors, 0.07))
    assert soft_assignments(torch.zeros(2, 12), anchors, 0.07).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_half_precision_is_raised_before_anything_is_computed(dtype, scale):
    z = (states(200, 64) * scale).clamp(-6e4, 6e4).to(dtype)
    if dtype is torch.float16 and scale > 1:
        assert z.norm(dim=1).isinf().any()
    p = plain_assignments(z.double(), soft_anchors(64, 100), calibrate_temperature(64, 100))
    assert soft_entropy(z).item() == pytest.approx(plain_entropy(p.mean(0)), abs=2e-6)
    assert soft_mutual_information(z, [0, 1] * 100).ceiling.item() == pytest.approx(plain_ceiling(p), abs=2e-6)


@given(st.lists(st.integers(-120, 120), min_size=20, max_size=20), st.randoms(use_true_random=False))
def test_lengths_and_order_of_rows_do_not_matter(exponents, random):
    z = states(20, 8, dtype=torch.float32)
    order = list(range(20))
    random.shuffle(order)
    scaled = z[order] * torch.tensor([2.0**e for e in exponents])[:, None]
    assert soft_entropy(scaled, n_bins=20).item() == pytest.approx(soft_entropy(z, n_bins=20).item(), abs=1e-6)
    label = torch.arange(20) % 3
    scaled, whole = (
        soft_mutual_information(v, x, n_bins=20) for v, x in ((scaled.double(), label[order]), (z.double(), label))
    )
    for name in ("plug_in", "ceiling", "entropy", "jackknife"):
        assert float(getattr(scaled, name)) == pytest.approx(float(getattr(whole, name)), abs=1e-10)
    assert scaled.null == pytest.approx(whole.null, rel=0.02)  # measured on random groups of rows


@given(st.integers(1, 30), st.integers(2, 40), st.integers(2, 60), st.floats(1e-3, 100), st.integers(0, 1000))
def test_entropy_lies_between_0_and_log_bins(rows, d, n_bins, temperature, seed):
    z = states(rows, d, seed, torch.float32)
    h = soft_entropy(z, n_bins=n_bins, temperature=temperature, seed=seed).item()
    assert -1e-6 <= h <= math.log(n_bins) + 1e-6
    assert -1e-6 <= soft_entropy(z, n_bins=n_bins, seed=seed, normalize=True).item() <= 1 + 1e-6


def test_temperature_from_one_bin_to_all():
    z = states(1, 8).expand(5, 8)
    assert soft_entropy(z, temperature=1e-6).item() == pytest.approx(0, abs=1e-9)
    assert soft_entropy(z, temperature=1e6).item() == pytest.approx(math.log(100), abs=1e-9)


def test_anchors_given_may_have_any_length_and_dtype():
    z, anchors = states(50, 8), soft_anchors(8, 30)
    whole = soft_entropy(z, n_bins=30).item()
    lengths = torch.logspace(-6, 6, 30)[:, None]
    assert soft_entropy(z, anchors=anchors * lengths).item() == pytest.approx(whole, abs=1e-6)
    numbers = (anchors * 9).round()
    expected = plain_entropy(plain_assignments(z, numbers, calibrate_temperature(8, 30)).mean(0))
    for dtype in (torch.float64, torch.bfloat16, torch.int64):
        assert soft_entropy(z, anchors=numbers.to(dtype)).item() == pytest.approx(expected, abs=1e-12)


def test_arrays_are_tensors():
    z, label = labelled_states()
    for rows in (z, z.float()):
        found = soft_mutual_information(rows.numpy(), label, anchors=soft_anchors(16, 30).numpy())
        expected = soft_mutual_information(rows, label, n_bins=30)
        assert found.information.item() == pytest.approx(expected.information.item(), abs=1e-6)
        assert soft_entropy(rows.numpy()).item() == soft_entropy(rows).item()
    assert soft_entropy(z.numpy()[::2, ::-1]).item() == pytest.approx(soft_entropy(z[::2].flip(1)).item())


def test_center_subtracts_a_state():
    z = states(60, 8) + 3
    plain = soft_entropy(z).item()
    centred = soft_entropy(z, center=True).item()
    assert centred == pytest.approx(soft_entropy(z - z.mean(0)).item(), abs=1e-12)
    assert centred > plain + 0.5
    state = torch.arange(8.0)
    assert soft_entropy(z, center=state).item() == pytest.approx(soft_entropy(z - state).item(), abs=1e-12)
    assert soft_entropy(z, center=torch.zeros(8)).item() == pytest.approx(plain, abs=1e-12)
    label = np.arange(60) % 4
    assert soft_mutual_information(z, label, center=True).plug_in.item() == pytest.approx(
        soft_mutual_information(z - z.mean(0), label).plug_in.item(), abs=1e-12
    )


@pytest.mark.parametrize("options", [{}, {"center": True}, {"normalize": True}, {"temperature": 0.3}])
def test_gradients_of_entropy_are_finite_differences(options):
    z = states(5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: soft_entropy(v, n_bins=6, **options), (z,), eps=1e-6, atol=1e-7)


def test_gradients_stay_finite_where_bins_are_empty():
    z = torch.eye(4, dtype=torch.float32).requires_grad_()
    soft_entropy(z, n_bins=50, temperature=1e-3).backward()
    assert z.grad.isfinite().all()


def test_no_graph_where_none_is_asked_for():
    z = states(20, 4)
    assert not soft_entropy(z).requires_grad
    with torch.no_grad():
        assert not soft_entropy(z.requires_grad_()).requires_grad
    found = soft_mutual_information(z, [0, 1] * 10, documents=[0, 1, 2, 3] * 5)
    assert found.plug_in.requires_grad
    assert found.entropy.requires_grad
    assert not found.label_information.requires_grad
    assert {type(getattr(found, name)) for name in ("null", "jackknife", "se", "plug_in_se")} == {float}


def test_states_that_are_no_rows_are_refused():
    for z, message in (
        (torch.zeros(2, 3, 4), r"z must be \[row, d\].*got \[2, 3, 4\]; flatten"),
        (torch.zeros(5), r"got \[5\]"),
        (torch.ones(5, 1), "d of at least 2"),
        (torch.ones(0, 4), "no row with a direction; got 0 rows"),
    ):
        with pytest.raises(InputError, match=message):
            soft_entropy(z)
    for z in (np.zeros((3, 4), dtype=int), torch.ones(3, 4).long(), [[1.0, 2.0]]):
        with pytest.raises(InputTypeError, match="z must be a tensor or an array of floats"):
            soft_entropy(z)


def test_rows_without_a_direction_are_named_or_dropped_and_counted():
    z, label = states(30, 8), np.arange(30) % 3
    for row in (4, 9):
        z[row] = 0
    with pytest.raises(InputError, match=r"no direction in rows 4, 9: zero; leave it out, or pass invalid='drop'"):
        soft_entropy(z)
    z[[1, 2, 3, 5, 6, 7, 8], 2] = torch.tensor([math.nan, math.inf, -math.inf, math.nan, math.nan, math.nan, math.nan]).double()
    with pytest.raises(NonFiniteError, match=r"NaN or an infinity in rows 1, 2, 3, 5, 6 and 2 more; repair it"):
        soft_mutual_information(z, label)
    good = torch.tensor([0, *range(10, 30)])
    for center in (False, torch.ones(8)):
        kept = good if center is False else torch.tensor([0, 4, *range(9, 30)])  # seen from there, zero has a direction
        dropped = soft_mutual_information(z, label, invalid="drop", center=center, documents=np.arange(30))
        alone = soft_mutual_information(z[kept], label[kept], center=center, documents=kept)
        assert (dropped.dropped, dropped.rows, dropped.coverage) == (30 - len(kept), len(kept), 1.0)
        assert dropped.fold_jackknife == pytest.approx(alone.fold_jackknife, abs=1e-10)
        assert dropped.plug_in_se == pytest.approx(alone.plug_in_se, abs=1e-10)
        h = soft_entropy(z, invalid="drop", center=center).item()
        assert h == pytest.approx(soft_entropy(z[kept], center=center).item(), abs=1e-12)
    assert soft_mutual_information(z[good], label[good]).dropped == 0
    mean = z[z.isfinite().all(1)].mean(0)
    assert soft_entropy(z, invalid="drop", center=True).item() == pytest.approx(
        soft_entropy(z, invalid="drop", center=mean).item(), abs=1e-12
    )
    with pytest.raises(InputError, match="row 0: zero, or not finite, once centred"):
        soft_entropy(torch.eye(3), center=torch.eye(3)[0])
    with pytest.raises(InputError, match="no row with a direction"):
        soft_entropy(torch.zeros(3, 4), invalid="drop")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_bins": 1}, InputError, "n_bins must be an int of at least 2"),
        ({"n_bins": 10.0}, InputTypeError, "n_bins"),
        ({"seed": -1}, InputError, "seed"),
        ({"calibration": "exakt"}, InputError, "'exact', 'leading_order'"),
        ({"invalid": "ignore"}, InputError, "'error', 'drop'"),
        ({"temperature": 0.0}, InputError, "temperature must be a positive number"),
        ({"temperature": math.nan}, InputError, "temperature must be a positive number"),
        ({"temperature": "warm"}, InputTypeError, "temperature must be a positive number; got 'warm'"),
        ({"center": torch.zeros(7)}, InputError, r"shape \[8\].*got \[7\]"),
        ({"center": "mean"}, InputTypeError, r"center must be a tensor of shape \[8\], True or False; got str"),
        ({"anchors": torch.ones(1, 8)}, InputError, "two bins or more"),
        (
            {"anchors": torch.ones(5, 7)},
            InputError,
            r"anchors must be a tensor or an array \[bin, 8\].*got torch.float32 of shape \[5, 7\]",
        ),
        ({"anchors": [[1.0] * 8] * 5}, InputError, "got list"),
        ({"anchors": torch.zeros(5, 8)}, InputError, "finite and not zero"),
        ({"anchors": torch.full((5, 8), math.nan)}, InputError, "finite and not zero"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        soft_entropy(states(5, 8), **options)
    with pytest.raises(error, match=message):
        soft_mutual_information(states(5, 8), [0, 0, 1, 1, 1], **options)


@pytest.mark.parametrize("argument", ["labels", "documents"])
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (["a", "b", "a", "b"], InputTypeError, "must be whole numbers; got <U1"),
        ([0, None, 1, 1], InputTypeError, "must be whole numbers; got object"),
        ([0.0, 1.0, 0.0, 1.0], InputTypeError, "must be whole numbers; got float64"),
        (torch.zeros(4), InputTypeError, "must be whole numbers; got torch.float32"),
        ([0, 1, 0], InputError, r"each of the 4 rows of z; got shape \[3\]"),
        (torch.zeros(2, 2).long(), InputError, r"got shape \[2, 2\]"),
        ([], InputError, r"got shape \[0\]"),
        (3, InputError, r"got shape \[\]"),
        ([[0, 1], [0]], InputTypeError, "lists of unequal length"),
        (np.full(4, 2**63, dtype=np.uint64), InputError, r"must be below 2\*\*63"),
    ],
)
def test_labels_and_documents_that_are_no_whole_numbers_are_refused(argument, values, error, message):
    with pytest.raises(error, match=f"{argument} .*{message}"):
        soft_mutual_information(states(4, 8), **{"labels": [0, 1, 0, 1], argument: values})


def test_folds_and_missing_labels_are_refused():
    with pytest.raises(InputError, match="folds must be an int of at least 2"):
        soft_mutual_information(states(4, 8), [0, 1, 0, 1], folds=1)
    with pytest.raises(InputError, match="labels: no row has one"):
        soft_mutual_information(states(4, 8), [-1, -1, -2, -1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("d", "n_bins"), [(16, 40), (64, 100)])
def test_every_value_is_that_of_the_definition(dtype, d, n_bins):
    z, label = labelled_states(d=d)
    z = z.to(dtype)
    found = soft_mutual_information(z, label, n_bins=n_bins, seed=2)
    p = plain_assignments(z, soft_anchors(d, n_bins, seed=2), calibrate_temperature(d, n_bins))
    near = {"abs": 1e-7 if dtype == torch.float64 else 2e-6}
    assert found.plug_in.item() == pytest.approx(plain_plug_in(p, label), **near)
    assert found.entropy.item() == pytest.approx(plain_entropy(p.mean(0)), **near)
    assert found.ceiling.item() == pytest.approx(plain_ceiling(p), **near)
    assert found.entropy.item() == pytest.approx(soft_entropy(z, n_bins=n_bins, seed=2).item(), abs=1e-6)
    values, counts = np.unique(label, return_counts=True)
    assert found.labels.tolist() == values.tolist()
    assert found.counts.tolist() == counts.tolist()
    for x, gain in zip(values, found.label_information, strict=True):
        q = p[label == x].mean(0)
        assert gain.item() == pytest.approx(float((q * np.log(q / p.mean(0))).sum()), **near)
    average = (found.counts * found.label_information).sum() / found.counts.sum()
    assert average.item() == pytest.approx(found.plug_in.item(), abs=1e-12)
    adjusted = found.ceiling * (found.plug_in - found.null) / (found.ceiling - found.null)
    assert found.chance_adjusted.item() == pytest.approx(adjusted.item(), abs=1e-12)
    assert (found.n_bins, found.temperature) == (n_bins, calibrate_temperature(d, n_bins))
    assert (found.rows, found.coverage, found.dropped, found.reason) == (400, 1.0, 0, "")
    assert found.singletons == (counts == 1).mean()
    assert found.efficiency == pytest.approx(found.entropy.item() / math.log(n_bins))
    assert found.share == pytest.approx(found.information.item() / found.corrected_ceiling.item())
    assert found.in_two_folds == counts[counts > 1].sum() / 400
    assert found.regularity == pytest.approx(found.plug_in.item() / found.entropy.item())
    assert 0 < found.se < 0.2
    assert 0 < found.plug_in_se < 0.2
    assert 0 < found.anchors_se < 0.2


def test_of_two_anchors_no_error_over_anchors_is_given():
    z, label = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)), torch.arange(300) % 5
    two, three = (soft_mutual_information(z + torch.eye(5, 8)[label], label, n_bins=m) for m in (2, 3))
    assert math.isnan(two.anchors_se)
    assert 0 < two.se < 0.1
    assert 0 < three.anchors_se < 0.2


@pytest.mark.parametrize("seed", range(4))
def test_errors_over_anchors_do_not_hang_on_the_rounding_of_rows_that_are_alike(seed):
    label = torch.arange(72) % 9  # whose rows have no spread at all, whatever the anchors
    z = torch.randn(9, 32, generator=torch.Generator().manual_seed(seed))[label]
    single, double = (soft_mutual_information(rows, label, documents=torch.arange(72) // 8) for rows in (z, z.double()))
    assert single.anchors_se == pytest.approx(double.anchors_se, rel=1e-5)


@given(st.integers(1, 90), st.integers(1, 50), st.floats(0.01, 10), st.integers(0, 1000))
def test_information_lies_between_0_and_the_ceiling(rows, types, temperature, seed):
    label = np.random.default_rng(seed).integers(0, types, rows)
    found = soft_mutual_information(states(rows, 6, seed, torch.float32), label, n_bins=12, temperature=temperature)
    assert -1e-12 <= found.plug_in.item() <= found.ceiling.item() + 1e-12
    assert (found.label_information >= 0).all()
    average = (found.counts * found.label_information).sum() / rows
    assert average.item() == pytest.approx(found.plug_in.item(), abs=1e-12)
    assert bool(found.reason) == found.information.isnan()


def test_the_null_is_the_mean_over_permutations():
    z, label = labelled_states(types=60)
    found = soft_mutual_information(z, label)
    p = plain_assignments(z, soft_anchors(16, 100), found.temperature)
    rng = np.random.default_rng(1)
    shuffled = np.array([plain_plug_in(p, rng.permutation(label)) for _ in range(200)])
    assert abs(found.null - shuffled.mean()) < 4 * shuffled.std(ddof=1) / math.sqrt(200) + 0.003 * found.null


@pytest.mark.parametrize("spread", [0.1, 0.01, 0.003])
def test_the_null_is_right_where_all_states_point_nearly_one_way(spread):
    """As in the later layers of many models. Then information is of second order in the spread, and entropy of first."""
    z, label = states(1, 64, 1) + spread * states(1000, 64, 2), np.arange(1000) // 50
    for rows in (z, z.float()):
        found = soft_mutual_information(rows, label)
        assert found.null / found.ceiling.item() == pytest.approx(19 / 999, rel=0.05)  # as of states that differ a little
        assert abs(found.share) < 0.005


def test_labels_that_are_all_different_reach_the_ceiling_and_say_nothing():
    for dtype in (torch.float32, torch.float64):
        found = soft_mutual_information(states(300, 16, dtype=dtype), np.arange(300))
        assert found.plug_in.item() == pytest.approx(found.ceiling.item(), abs=1e-12)
        assert found.null == pytest.approx(found.ceiling.item(), abs=1e-12)
        assert found.information.isnan()
        assert found.reason == "labels too rare: 0 rows have a label that two folds of documents hold, 50 are needed"
        assert found.chance_adjusted.isnan()
        assert found.singletons == 1
        assert found.reason in str(found)


def test_one_label_says_nothing():
    found = soft_mutual_information(states(300, 16), [7] * 300)
    assert [found.plug_in.item(), found.null, found.chance_adjusted.item()] == pytest.approx([0, 0, 0], abs=1e-12)
    assert abs(found.information.item()) < 0.003
    assert found.label_information.item() == pytest.approx(0, abs=1e-12)
    assert found.jackknife == pytest.approx(0, abs=1e-9)


def test_equal_states_have_no_ceiling():
    for z in (torch.ones(50, 8), torch.arange(1.0, 51)[:, None] * torch.ones(8), torch.ones(1, 8)):
        found = soft_mutual_information(z, np.arange(len(z)) % 2)
        assert found.ceiling.item() == pytest.approx(0, abs=1e-9)
        assert found.information.isnan()
        assert found.reason == "the ceiling is 0: all states are assigned alike"
        assert found.null == pytest.approx(0, abs=1e-9)


def test_labels_that_say_everything_reach_the_ceiling():
    label = np.arange(300) % 3
    found = soft_mutual_information(states(3, 16)[label], label)
    assert found.plug_in.item() == pytest.approx(found.ceiling.item(), abs=1e-9)
    assert found.chance_adjusted.item() == pytest.approx(found.ceiling.item(), abs=1e-9)
    assert found.information.item() == pytest.approx(found.corrected_ceiling.item(), abs=1e-3)
    assert found.share == pytest.approx(1, abs=1e-3)


def test_jackknife_leaves_out_every_row():
    z, label = labelled_states(rows=60, types=20)
    found = soft_mutual_information(z, label, n_bins=15)
    p = plain_assignments(z, soft_anchors(16, 15), found.temperature)
    rest = [plain_plug_in(np.delete(p, i, 0), np.delete(label, i)) for i in range(60)]
    assert found.jackknife == pytest.approx(60 * plain_plug_in(p, label) - 59 * np.mean(rest), abs=1e-6)


def test_rows_without_a_label_are_left_out():
    z, label = labelled_states()
    document = np.arange(1000) // 10
    alone = soft_mutual_information(z, label, documents=np.concatenate([document[:100], document[700:]]))
    more = torch.cat([z[:100], states(600, 16, 9) + 5, z[100:]])
    number = np.concatenate([label[:100], [-1] * 300, [-7] * 300, label[100:]])
    found = soft_mutual_information(more, number, documents=document)
    assert found.coverage == 0.4
    assert (found.rows, found.dropped) == (400, 0)
    for name in ("information", "plug_in", "ceiling", "entropy", "jackknife", "null", "singletons"):
        assert float(getattr(found, name)) == pytest.approx(float(getattr(alone, name)), abs=1e-10)
    assert torch.equal(found.labels, alone.labels)


def test_what_labels_are_called_and_come_in_does_not_matter():
    z, label = labelled_states()
    whole = soft_mutual_information(z, label)
    names = np.random.default_rng(0).choice(2**62, 30, replace=False)[label]
    read_only = np.array(label)
    read_only.flags.writeable = False
    forms = [label.tolist(), tuple(label), torch.tensor(label), torch.tensor(label, dtype=torch.int16), label.astype(np.uint8)]
    for same in (*forms, label[::-1].copy()[::-1], read_only, names, torch.tensor(label).to(torch.uint64)):
        found = soft_mutual_information(z, same)
        assert found.plug_in.item() == pytest.approx(whole.plug_in.item(), abs=1e-12)
        assert found.null == pytest.approx(whole.null, abs=1e-12)
        assert found.counts.sort().values.tolist() == whole.counts.sort().values.tolist()
    assert soft_mutual_information(z, label < 3).labels.tolist() == [0, 1]


def test_the_default_device_and_seed_do_not_matter():
    z, label = labelled_states(rows=120)
    whole, h = soft_mutual_information(z, label.tolist(), documents=np.arange(120) // 3), soft_entropy(z)
    torch.manual_seed(5)
    with torch.device("meta"):
        found = soft_mutual_information(z, label.tolist(), documents=np.arange(120) // 3)
        assert soft_entropy(z).item() == pytest.approx(h.item(), abs=1e-12)
    assert found.information.item() == pytest.approx(whole.information.item(), abs=1e-12)
    assert found.se == pytest.approx(whole.se, abs=1e-12)


def test_gradients_of_information():
    z, label = labelled_states(rows=8, d=4, types=3)
    z.requires_grad_()
    differentiable = attrgetter("plug_in", "ceiling", "entropy")
    assert torch.autograd.gradcheck(
        lambda v: differentiable(soft_mutual_information(v, label, n_bins=6)), (z,), eps=1e-6, atol=1e-7
    )
    found = soft_mutual_information(z, label, n_bins=6)
    chance = found.null / found.ceiling.item()  # held fixed
    expected = torch.autograd.grad((found.plug_in - chance * found.ceiling) / (1 - chance), z, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(found.chance_adjusted, z)[0], expected)


def test_gradients_stay_finite_where_a_fold_leaves_one_row():
    z = states(60, 8).requires_grad_()
    found = soft_mutual_information(z, [0, 0, *[1] * 58], documents=[*[0] * 59, 1])
    found.information.backward()
    assert z.grad.isfinite().all()
    assert z.grad.abs().max() > 0


@pytest.fixture(scope="module")
def tokens():
    """8000 independent tokens by Zipf's law, and states that are a function of the current one, plus noise."""
    rng = np.random.default_rng(0)
    token = zipf(rng, 8000, 5000)
    codes = rng.normal(size=(5000, 256)).astype(np.float32)
    return token, torch.tensor(codes[token] + 0.5 * rng.standard_normal((8000, 256), dtype=np.float32))


def test_shuffled_labels_say_nothing(tokens):
    token, z = tokens
    assert 1800 < len(np.unique(token)) < 2200
    found = soft_mutual_information(z, np.random.default_rng(1).permutation(token))
    assert found.plug_in.item() / math.log(100) > 0.1
    assert abs(found.information.item()) / math.log(100) < 0.01


@pytest.mark.long
def test_independent_tokens_are_not_expected(tokens):
    """The next two tokens are independent of the state; yet without a correction they seem to be nearly all that it knows."""
    token, z = tokens
    before, after = token[:-3] * 5000 + token[1:-2], token[2:-1] * 5000 + token[3:]
    complexity, expressivity = (soft_mutual_information(z[1:-2], label) for label in (before, after))
    assert expressivity.plug_in.item() / complexity.plug_in.item() > 0.8
    assert abs(expressivity.information.item() / complexity.information.item()) < 0.02


def debiased_truth(codes, noise, weights, rng, n_bins):
    """I(X;Z) in nats from 400 states of every label, each conditional entropy freed of bias by leaving out one row."""
    d = codes.shape[1]
    anchors, temperature = soft_anchors(d, n_bins), calibrate_temperature(d, n_bins)
    means, conditional = [], 0.0
    for code, weight in zip(codes, weights, strict=True):
        p = plain_assignments(code + noise * rng.normal(size=(400, d)), anchors, temperature)
        without = (p.sum(0) - p) / 399
        rest = float(-(without * np.log(np.maximum(without, 1e-300))).sum(1).mean())
        means.append(p.mean(0))
        conditional += weight * (400 * plain_entropy(p.mean(0)) - 399 * rest)
    return plain_entropy(weights @ np.array(means)) - conditional


def test_cross_fitting_is_the_best_estimate():
    """RMSE against the truth, as a share of log m, over signals from none to strong and labels from even to Zipf's."""
    rng, types, d, n_bins = np.random.default_rng(0), 300, 16, 50
    errors = {"cross-fitted": [], "adjusted": [], "plug-in": [], "minus null": []}
    for exponent in (0.0, 1.0):
        weights = np.arange(1, types + 1.0) ** -exponent
        weights /= weights.sum()
        for signal in (0.0, 0.5, 1.0, 2.0):
            codes = signal * rng.normal(size=(types, d))
            truth = debiased_truth(codes, 1.0, weights, rng, n_bins)
            if signal == 0:
                assert truth == pytest.approx(0, abs=0.002)
            for _ in range(2):
                label = rng.choice(types, 900, p=weights)
                z = torch.tensor(codes[label] + rng.normal(size=(900, d)))
                found = soft_mutual_information(z, label, n_bins=n_bins)
                errors["cross-fitted"].append(found.information.item() - truth)
                errors["adjusted"].append(found.chance_adjusted.item() - truth)
                errors["plug-in"].append(found.plug_in.item() - truth)
                errors["minus null"].append(found.plug_in.item() - found.null - truth)
    rmse = {name: float(np.sqrt(np.mean(np.square(e)))) / math.log(n_bins) for name, e in errors.items()}
    assert rmse["cross-fitted"] < 0.4 * rmse["adjusted"], rmse
    assert rmse["adjusted"] < 0.4 * min(rmse["plug-in"], rmse["minus null"]), rmse


@pytest.mark.long
def test_errors_over_documents_match_replicates():
    """40 documents of 50 rows with a state and labels of their own: errors are the spread over 40 such corpora."""
    rng, d, types = np.random.default_rng(0), 32, 8
    codes = rng.normal(size=(types, d))
    document = np.arange(2000) // 50
    found, independent = [], []
    for replicate in range(40):
        taste = rng.dirichlet(np.full(types, 0.3), size=40)
        label = np.array([rng.choice(types, p=taste[i]) for i in document])
        z = torch.tensor(codes[label] + 1.2 * rng.normal(size=(40, d))[document] + 0.5 * rng.normal(size=(2000, d)))
        found.append(soft_mutual_information(z, label, documents=document, n_bins=50))
        if replicate < 4:
            independent.append(soft_mutual_information(z, label, documents=np.arange(2000), n_bins=50))
    for value, error in (("information", "se"), ("plug_in", "plug_in_se")):
        spread = np.std([float(getattr(f, value)) for f in found], ddof=1)
        assert np.mean([getattr(f, error) for f in found]) == pytest.approx(spread, rel=0.35)
        assert np.mean([getattr(f, error) for f in independent]) < 0.35 * spread


def test_one_document_is_one_fold():
    z, label = labelled_states(rows=120, types=10)
    one = soft_mutual_information(z, label, documents=[3] * 120)
    assert one.information.isnan()
    assert one.reason.startswith("one fold of documents: a label can't be told from its document; ")
    assert one.reason in str(one)
    assert math.isnan(one.se)
    assert math.isnan(one.plug_in_se)
    assert one.plug_in.item() == pytest.approx(soft_mutual_information(z, label).plug_in.item(), abs=1e-12)


@pytest.fixture(scope="module")
def digits():
    z, label = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    return torch.tensor(z, dtype=torch.float32), label


def published_anchors(seed):
    return torch.nn.functional.normalize(torch.randn(100, 64, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("seed", [0, 1])
def test_digits_equal_the_published_package(digits, seed):
    package = pytest.importorskip("soft_entropy.pytorch")
    temperature = pytest.importorskip("soft_entropy.temp_calibration").find_eps(100, 64)
    accumulator = pytest.importorskip("soft_entropy.accumulator").SoftEntropyAccumulator(64, seed=seed, backend="numpy")
    z, label = digits
    accumulator.w = published_anchors(seed).numpy()
    for start in range(0, len(z), 500):
        accumulator.update(z.numpy()[start : start + 500], label[start : start + 500])
    found = soft_mutual_information(z, label, anchors=published_anchors(seed), temperature=temperature)
    h = soft_entropy(z, anchors=published_anchors(seed), temperature=temperature, normalize=True).item()
    assert h == pytest.approx(float(package.soft_entropy(z, seed=seed)), abs=1e-6)
    assert h == pytest.approx(accumulator.results()["H(Z)"], abs=1e-6)
    information = found.plug_in.item() / math.log(100)
    assert information == pytest.approx(accumulator.results()["I(X;Z)/labels"], abs=1e-6)
    assert found.regularity == pytest.approx(accumulator.results()["regularity/labels"], abs=1e-6)
    if seed == 0:  # the only one that its function for information knows
        assert information == pytest.approx(float(package.soft_mutual_information(z, torch.tensor(label))), abs=1e-6)


@pytest.mark.parametrize(
    ("seed", "efficiency", "information", "ceiling"), [(0, 0.3585, 0.0607, 0.1319), (1, 0.5760, 0.0946, 0.2191)]
)
def test_digits_are_pinned(digits, seed, efficiency, information, ceiling):
    z, label = digits
    found = soft_mutual_information(z, label, anchors=published_anchors(seed), temperature=0.036229879115)
    assert found.efficiency == pytest.approx(efficiency, abs=1e-4)
    assert found.plug_in.item() / math.log(100) == pytest.approx(information, abs=1e-4)
    assert found.ceiling.item() / math.log(100) == pytest.approx(ceiling, abs=1e-4)


@pytest.mark.long
def test_seeds_matter_less_once_centred_and_as_a_share_of_the_ceiling(digits):
    z, label = digits
    plain = [soft_mutual_information(z, label, seed=seed) for seed in range(8)]
    centred = [soft_entropy(z, seed=seed, center=True, normalize=True).item() for seed in range(8)]
    spread = np.std([f.efficiency for f in plain], ddof=1)
    assert 0.03 < spread < 0.15
    assert np.std(centred, ddof=1) < 0.3 * spread
    shares = [f.plug_in.item() / f.ceiling.item() for f in plain]
    assert np.mean(shares) == pytest.approx(0.41, abs=0.03)
    assert np.std(shares, ddof=1) < 0.05
    for n_bins in (10, 1000):
        found = soft_mutual_information(z, label, n_bins=n_bins)
        assert found.share == pytest.approx(np.mean([f.share for f in plain]), abs=0.05)
