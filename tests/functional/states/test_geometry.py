"""Measures of clouds of states, against closed forms, brute force, scipy and scikit-dimension."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, strategies as st

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.states.geometry import (
    anisotropy,
    curvature,
    different_rows,
    directed_rows,
    effective_rank,
    effective_rank_of_covariance,
    prompt_entropy,
    turning_angles,
    two_nn,
)
from tl_entropy.functional.states.rows import spread_floor
from tl_entropy.functional.states.views import Discriminant, info_nce, info_nce_scores, lidar, lidar_scores

ORDERS = (0.0, 0.5, 1.0, 1.01, 2.0, 5.0, math.inf)
LABELS = ["a", "b", "c", "a", "b", "c", "a", "c"]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(d, seed=1):
    return torch.linalg.qr(normal(d, d, seed=seed)).Q


def bits_of(eigenvalues, order):
    """Rényi entropy in nats of eigenvalues that are taken for 0 below 1e-12, by numpy."""
    p = eigenvalues[eigenvalues > 1e-12]
    p = p / p.sum()
    if order == 1:
        return -(p * np.log(p)).sum()
    if math.isinf(order):
        return -np.log(p.max())
    return np.log((p**order).sum()) / (1 - order)


# --- prompt entropy


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("normalise", ["length", None])
def test_orthogonal_rows_of_one_length_have_all_the_entropy_there_is(order, normalise):
    x = 7 * rotation(12)[:5]
    assert prompt_entropy(x, order=order, normalise=normalise).item() == pytest.approx(math.log(5), abs=1e-6)
    # Less their mean, they span one direction less, and evenly.
    assert prompt_entropy(x, order=order).item() == pytest.approx(math.log(4), abs=1e-6 if order >= 1 else 1e-4)


def test_lengths_are_weights_unless_they_are_taken_away():
    x = torch.diag(torch.tensor([3.0, 1.0, 1.0, 1.0]))  # eigenvalues 9, 1, 1, 1 of 12
    assert prompt_entropy(x, normalise=None).item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(1 / 12))
    assert prompt_entropy(x, normalise="length").item() == pytest.approx(math.log(4))


def test_equal_rows_have_no_entropy_and_no_direction_once_centred():
    x = 1e3 * normal(1, 64).expand(7, -1)  # of which the mean is not x to the last digit
    for normalise in ("length", None):
        assert prompt_entropy(x, normalise=normalise).item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="x: none of the 7 rows has a direction: they are all equal"):
        prompt_entropy(x)
    with pytest.raises(InputError, match="x: none of the 2 rows has a direction: all are 0"):
        prompt_entropy(torch.zeros(2, 3), normalise="length")


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (6, 6)])
@pytest.mark.parametrize("order", ORDERS[1:])
def test_prompt_entropy_is_that_of_the_gram_matrix_whichever_is_smaller(shape, order):
    x = normal(*shape) + 2
    centred = x - x.mean(0)
    rows = {None: x, "length": x / x.norm(dim=1, keepdim=True), "centred": centred / centred.norm(dim=1, keepdim=True)}
    for normalise, r in rows.items():
        expected = bits_of(scipy.linalg.eigvalsh((r @ r.T).numpy()), order)
        # Below order 1 a zero eigenvalue that rounding made 1e-17 counts.
        tolerance = 1e-9 if order >= 1 else 1e-5
        assert prompt_entropy(x, order=order, normalise=normalise).item() == pytest.approx(expected, abs=tolerance)


def test_a_row_at_the_mean_adds_nothing_rather_than_a_nan():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    with_centre = torch.cat([x, torch.zeros(1, 2)])
    assert prompt_entropy(with_centre).item() == pytest.approx(math.log(2))
    assert prompt_entropy(torch.cat([with_centre + 1e5])).item() == pytest.approx(math.log(2))


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-6, 1e6), n=st.integers(2, 12), shift=st.floats(-3000, 3000))
def test_geometry_does_not_depend_on_rotation_scale_or_where_it_may_not_shift(seed, scale, n, shift):
    x = normal(n, 6, seed=seed)
    turned = scale * x @ rotation(6, seed=seed + 1)
    moved = turned + shift * scale
    close = pytest.approx
    for normalise in ("centred", "length", None):
        assert prompt_entropy(turned, normalise=normalise) == close(prompt_entropy(x, normalise=normalise).item(), abs=1e-7)
    assert prompt_entropy(moved) == close(prompt_entropy(x).item(), abs=1e-6)
    assert anisotropy(turned) == close(anisotropy(x).item(), abs=1e-9)
    assert effective_rank(moved) == close(effective_rank(x).item(), rel=1e-6)
    assert effective_rank(turned, center=False) == close(effective_rank(x, center=False).item(), rel=1e-9)
    if n > 2:
        assert curvature(moved) == close(curvature(x).item(), abs=1e-6)
    assert 0 <= prompt_entropy(x, normalise=None) <= math.log(min(n, 6)) + 1e-9
    assert 1 - 1e-9 <= effective_rank(x) <= min(n - 1, 6) + 1e-9
    assert -1 / (n - 1) - 1e-9 <= anisotropy(x) <= 1 + 1e-9


@given(seed=st.integers(0, 10**6), low=st.floats(0, 4), high=st.floats(0, 4))
def test_prompt_entropy_never_rises_with_the_order(seed, low, high):
    x = normal(7, 5, seed=seed)
    low, high = sorted((low, high))
    assert prompt_entropy(x, order=low, normalise=None) >= prompt_entropy(x, order=high, normalise=None) - 1e-9


# --- effective rank


@pytest.mark.parametrize("k", [1, 3, 6])
def test_k_equal_singular_values_are_an_effective_rank_of_k(k):
    x = (rotation(9)[:, :k] @ rotation(6, seed=2)[:k]) * 4
    assert effective_rank(x, center=False).item() == pytest.approx(k)
    # Pairs ±: their mean is 0, so centring takes nothing.
    assert effective_rank(torch.cat([x, -x])).item() == pytest.approx(k)


@pytest.mark.parametrize("shape", [(40, 6), (5, 12)])
def test_effective_rank_is_that_of_the_covariance_and_of_scipys_singular_values(shape):
    x = normal(*shape) @ torch.diag(torch.arange(1.0, shape[1] + 1, dtype=torch.float64)) + 5
    sigma = scipy.linalg.svdvals((x - x.mean(0)).numpy())
    p = sigma[sigma > 1e-10] / sigma.sum()
    assert effective_rank(x).item() == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert effective_rank_of_covariance(torch.cov(x.T)).item() == pytest.approx(effective_rank(x).item(), rel=1e-6)
    assert effective_rank_of_covariance(17 * torch.cov(x.T)).item() == pytest.approx(effective_rank(x).item(), rel=1e-6)


def test_effective_rank_refuses_what_has_no_spread():
    with pytest.raises(InputError, match="x: the 7 rows are all equal"):
        effective_rank(1e3 * normal(1, 64).expand(7, -1))
    with pytest.raises(InputError, match="x: the 2 rows are 0"):
        effective_rank(torch.zeros(2, 3), center=False)
    assert effective_rank(torch.ones(4, 5), center=False).item() == pytest.approx(1)
    for bad, message in (
        (torch.ones(2, 3), "symmetric"),
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "symmetric"),
        (torch.diag(torch.tensor([1.0, -1.0])), "no eigenvalue below 0"),
        (torch.zeros(2, 2), "not be 0"),
    ):
        with pytest.raises(InputError, match=message):
            effective_rank_of_covariance(bad)


# --- curvature


def test_curvature_of_paths_that_everyone_knows():
    t = torch.arange(6.0)[:, None]
    assert curvature(t * normal(1, 4).float() + 3).item() == pytest.approx(0, abs=1e-6)
    assert curvature(t.double() * torch.tensor([[1.0, 2.0]], dtype=torch.float64)).item() == 0
    zigzag = torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 3)
    assert curvature(zigzag).item() == pytest.approx(math.pi)
    square = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1], [0, 0], [1, 0]])
    assert curvature(square).item() == pytest.approx(math.pi / 2)
    steps = 2 * math.pi * torch.arange(13, dtype=torch.float64) / 12
    assert curvature(torch.stack([steps.cos(), steps.sin()], 1)).item() == pytest.approx(2 * math.pi / 12)


def test_a_tiny_turn_is_not_lost_to_rounding():
    turn = 1e-10
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0 + math.cos(turn), math.sin(turn)]], dtype=torch.float64)
    assert curvature(x).item() == pytest.approx(turn, rel=1e-5)  # the arccos of 1 - 5e-21 is 0


def test_steps_of_length_0_leave_their_angles_out():
    x = torch.tensor([[0.0, 0], [1, 0], [1, 1], [1, 1], [2, 1], [3, 1]])  # π/2, none, none, 0
    assert curvature(x).item() == pytest.approx(math.pi / 4)
    with pytest.raises(InputError, match="no two successive steps"):
        curvature(torch.ones(5, 2))
    with pytest.raises(InputError, match="at least 3 rows"):
        curvature(torch.ones(2, 2))


def test_curvature_is_the_mean_of_arccosines():
    x = normal(30, 8)
    v = np.diff(x.numpy(), axis=0)
    angles = [math.acos(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) for a, b in itertools.pairwise(v)]
    assert curvature(x).item() == pytest.approx(np.mean(angles))
    # Steps between independent states share one of them: a cosine of -1/2 in many dimensions.
    assert curvature(normal(500, 400)).item() == pytest.approx(2 * math.pi / 3, abs=0.01)


# --- anisotropy


def test_anisotropy_is_the_mean_cosine_of_all_pairs():
    x = normal(15, 4) + 1
    cosines = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)
    assert anisotropy(x).item() == pytest.approx(cosines[~torch.eye(15, dtype=torch.bool)].mean().item())


def test_anisotropy_of_one_direction_and_of_opposites():
    v = normal(1, 6)
    assert anisotropy(v * torch.arange(1.0, 6)[:, None]).item() == pytest.approx(1)
    assert anisotropy(torch.cat([v, -v])).item() == pytest.approx(-1)
    pairs = torch.cat([normal(4, 6), -normal(4, 6)])
    assert anisotropy(pairs).item() == pytest.approx(-1 / 7)  # 8 directions that add up to 0
    with pytest.raises(InputError, match="row 1 has length 0"):
        anisotropy(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(InputError, match="at least 2 rows"):
        anisotropy(torch.ones(1, 2))


# --- TwoNN


@pytest.mark.thinned
@pytest.mark.parametrize(("dimension", "slack"), [(2, 0.12), (5, 0.4)])
def test_uniform_data_has_the_dimension_it_was_drawn_in(dimension, slack):
    plane = torch.rand(3000, dimension, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = plane @ rotation(20)[:dimension] + 1000
    assert two_nn(x).item() == pytest.approx(dimension, abs=slack)


@pytest.mark.parametrize("discard", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(300, 20), (200, 40)])
def test_two_nn_is_the_fit_by_numpy(shape, discard):
    x = normal(*shape)
    x[:20] += 1e5  # a cluster so far away that products lose the distances in it
    r = np.sort(torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").numpy(), axis=1)
    mu = np.sort(r[:, 2] / r[:, 1])
    n = len(mu)
    kept = min(int(n * (1 - discard)), n - 1)
    a, b = np.log(mu[:kept]), -np.log(1 - np.arange(1, kept + 1) / n)
    assert two_nn(x, discard=discard).item() == pytest.approx(np.linalg.lstsq(a[:, None], b, rcond=None)[0][0], rel=1e-9)


@pytest.mark.filterwarnings("ignore")  # of that package
@pytest.mark.parametrize("shape", [(500, 3), (300, 30)])
def test_two_nn_of_a_published_package(shape):
    skdim = pytest.importorskip("skdim")
    x = normal(*shape)
    assert two_nn(x).item() == pytest.approx(skdim.id.TwoNN(discard_fraction=0.1).fit(x.numpy()).dimension_, rel=1e-6)


def test_rows_that_repeat_are_taken_once_and_that_is_said():
    x = normal(100, 3)
    with pytest.warns(UserWarning, match="7 of 107 rows repeat others"):
        repeated = two_nn(torch.cat([x, x[:7]]))
    assert repeated.item() == pytest.approx(two_nn(x).item())


def test_states_that_differ_by_the_rounding_of_a_batch_are_one():
    x = 30 * normal(300, 6) + 100
    noise = 1e-6 * normal(300, 6, seed=1)  # as float32 leaves it
    with pytest.warns(UserWarning, match="20 of 320 rows repeat others"):
        repeated = two_nn(torch.cat([x, (x + noise)[40:60]]))
    assert repeated.item() == pytest.approx(two_nn(x).item(), rel=1e-4)
    assert len(different_rows(torch.cat([x, (x + 1e4 * noise)[40:60]]))) == 320


def test_two_nn_refuses_what_leaves_the_dimension_open():
    grid = torch.tensor(list(itertools.product(range(5), range(5))), dtype=torch.float64)
    with pytest.raises(InputError, match="equally far"):
        two_nn(grid)
    with pytest.raises(InputError, match="at least three different rows"):
        two_nn(torch.tensor([[0.0], [1.0]]))
    with pytest.raises(InputError, match=r"discard=0.9 leaves nothing of the 5 different rows"):
        two_nn(normal(5, 3), discard=0.9)
    for discard in (1.0, -0.1, math.nan):
        with pytest.raises(InputError, match="discard must be"):
            two_nn(grid, discard=discard)


@pytest.mark.parametrize("seed", range(3))
def test_two_nn_does_not_depend_on_rotation_scale_or_shift(seed):
    x = normal(200, 5, seed=seed)
    far = 1e-3 * x @ rotation(5, seed=seed) + 1e5
    assert two_nn(far).item() == pytest.approx(two_nn(x).item(), rel=1e-5)


# --- LiDAR


def lidar_by_scipy(x, labels, delta=1e-4):
    """The definition: Σ_w^{-1/2} Σ_b Σ_w^{-1/2}, by its matrices."""
    x, names = x.numpy(), sorted(set(labels))
    groups = [x[[label == name for label in labels]] for name in names]
    means = np.stack([group.mean(0) for group in groups])
    between = np.cov(means.T, bias=True)
    within = np.mean([np.cov(group.T, bias=True) for group in groups], axis=0) + delta * np.eye(x.shape[1])
    root = np.real(scipy.linalg.fractional_matrix_power(within, -0.5))
    values = scipy.linalg.eigvalsh(root @ between @ root)
    return math.exp(bits_of(values / values.sum(), 1.0))


@pytest.mark.parametrize("delta", [1e-4, 0.3])
@pytest.mark.parametrize("d", [3, 20])
def test_lidar_is_the_definition_by_scipy(d, delta):
    x = normal(8, d)
    assert lidar(x, LABELS, delta=delta).item() == pytest.approx(lidar_by_scipy(x, LABELS, delta), rel=1e-7)
    assert lidar(x.float(), torch.tensor([ord(name) for name in LABELS]), delta=delta).item() == pytest.approx(
        lidar_by_scipy(x, LABELS, delta), rel=1e-3
    )


@pytest.mark.parametrize("d", [3, 20])
def test_lidar_of_large_states_and_a_tiny_delta(d):
    """Where delta is lost in the sum Σ_w + delta·I: the definition in 120 digits."""
    x = (normal(8, d) * 1e6).float().double()
    with mpmath.workdps(120):
        groups = [[i for i in range(8) if LABELS[i] == name] for name in "abc"]
        rows = mpmath.matrix(x.tolist())
        means = [[mpmath.fsum(rows[i, k] for i in group) / len(group) for k in range(d)] for group in groups]
        whole = [mpmath.fsum(mean[k] for mean in means) / 3 for k in range(d)]
        b = mpmath.matrix(3, d)
        within = mpmath.eye(d) * mpmath.mpf(1e-18)
        for c, group in enumerate(groups):
            for k in range(d):
                b[c, k] = (means[c][k] - whole[k]) / mpmath.sqrt(3)
            for i in group:
                r = mpmath.matrix([rows[i, k] - means[c][k] for k in range(d)]) / mpmath.sqrt(3 * len(group))
                within += r * r.T
        small = b * mpmath.inverse(within) * b.T  # the eigenvalues but zeros
        values = np.array([float(v / mpmath.fsum(small[i, i] for i in range(3))) for v in mpmath.eigsy(small)[0]])
    found = lidar(x, LABELS, delta=1e-18).item()
    assert found == pytest.approx(math.exp(bits_of(values, 1.0)), rel=1e-6)
    assert lidar(x * 1e140, LABELS, delta=1e-300).isfinite()


def test_lidar_counts_the_directions_in_which_texts_differ():
    centres = 100 * torch.eye(5, dtype=torch.float64)
    x = torch.cat([centres + 0.1 * normal(5, 5, seed=s) * torch.tensor([1.0, 1, 1, 1, 1]) for s in range(200)])
    assert lidar(x, list(range(5)) * 200).item() == pytest.approx(4, abs=0.05)  # five points span four directions, evenly
    two = torch.tensor([[0.0, 1.0], [0.0, -1.0], [5.0, 1.0], [5.0, -1.0]])
    assert lidar(two, ["a", "a", "b", "b"]).item() == pytest.approx(1)


# --- InfoNCE


def info_nce_by_hand(x, labels, temperature):
    n, names = len(x), sorted(set(labels))
    s = [[float(x[i] @ x[j] / (x[i].norm() * x[j].norm())) / temperature for j in range(n)] for i in range(n)]
    of_label = []
    for name in names:
        losses = []
        for i, p in itertools.permutations([i for i in range(n) if labels[i] == name], 2):
            others = [[math.exp(s[i][j]) for j in range(n) if labels[j] == other] for other in names if other != name]
            negative = sum(sum(group) / len(group) for group in others)
            losses.append(-math.log(math.exp(s[i][p]) / (math.exp(s[i][p]) + negative)))
        of_label.append(sum(losses) / len(losses))
    return math.log(len(names)) - sum(of_label) / len(of_label)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_info_nce_is_the_definition_by_brute_force(temperature):
    x = normal(8, 5) + 1
    mine = info_nce(x, LABELS, temperature=temperature).item()
    assert mine == pytest.approx(info_nce_by_hand(x, LABELS, temperature))


def test_two_views_that_are_alike_give_the_classical_cross_entropy():
    x = normal(6, 4)
    directions = torch.nn.functional.normalize(x, dim=1)
    loss = torch.nn.functional.cross_entropy(directions @ directions.T / 0.1, torch.arange(6)).item()
    assert info_nce(torch.cat([x, x]), [*range(6), *range(6)]).item() == pytest.approx(math.log(6) - loss)


def test_info_nce_from_a_sure_find_to_a_guess():
    apart = torch.eye(4, dtype=torch.float64).repeat(3, 1)
    assert info_nce(apart, list(range(4)) * 3, temperature=0.01).item() == pytest.approx(math.log(4))
    alike = torch.ones(6, 3)
    assert info_nce(alike, [0, 1, 2] * 2).item() == pytest.approx(0, abs=1e-12)
    crossed = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert info_nce(crossed, [0, 1, 0, 1]).item() < -8  # a bound that says nothing


def weighted_lidar(x, labels, weights, delta=1e-2):
    """The definition, where a label counts as so many."""
    groups = [x[labels == c] for c in range(len(weights))]
    means = torch.stack([group.mean(0) for group in groups])
    away = means - weights @ means / weights.sum()
    within = torch.stack([torch.cov(group.mT, correction=0) for group in groups])
    between, within = (torch.einsum("c,cij->ij", weights / weights.sum(), one) for one in (outer(away), within))
    values = scipy.linalg.eigh(between.numpy(), (within + delta * torch.eye(x.shape[1])).numpy(), eigvals_only=True)
    return math.exp(bits_of(values / values.sum(), 1.0))


def outer(rows):
    return rows[:, :, None] * rows[:, None, :]


def weighted_info_nce(x, labels, weights, temperature=0.5):
    """The definition, where a label counts as so many, as a candidate as well."""
    x, n = torch.nn.functional.normalize(x, dim=1), len(x)
    s, every, whole = (x @ x.mT / temperature).exp(), range(len(weights)), weights.sum()
    loss = torch.zeros(len(weights), dtype=torch.float64)
    for c in every:
        pairs = list(itertools.permutations([i for i in range(n) if labels[i] == c], 2))
        for i, p in pairs:
            negative = sum(weights[a] * s[i][labels == a].mean() for a in every if a != c)
            loss[c] -= (s[i, p] / (s[i, p] + negative)).log() / len(pairs)
    return float(whole.log() - weights @ loss / whole)


def slopes_of_lidar(x, labels, delta):
    found = Discriminant.of(x, labels, delta)
    return found.rank, found.scores()


@pytest.mark.parametrize(("scores", "weighted", "given"), [
    (slopes_of_lidar, weighted_lidar, {"delta": 1e-2}), (info_nce_scores, weighted_info_nce, {"temperature": 0.5}),
])  # fmt: skip
def test_what_a_label_adds_is_the_change_by_its_weight(scores, weighted, given):
    x, labels, count = normal(19, 4) + 0.5, torch.tensor([*range(8), *range(8), 0, 0, 5]), 8
    even = torch.ones(count, dtype=torch.float64)
    step = 1e-5 * torch.eye(count, dtype=torch.float64)
    change = [(weighted(x, labels, even + one) - weighted(x, labels, even - one)) / 2e-5 for one in step]
    expected = count * (torch.tensor(change, dtype=torch.float64) - np.mean(change))
    value, added = scores(x, labels, **given)
    assert value.item() == pytest.approx(weighted(x, labels, even))
    assert torch.allclose(added, expected, rtol=1e-5, atol=1e-7)
    assert added.sum().abs() < 1e-12


def views_along_axes():
    """Six texts whose eigenvalues are in the ratio of 4 to 1 to 1: two are equal."""
    means = torch.cat([2 * torch.eye(3), -2 * torch.eye(3)]).double()
    means[[0, 3]] *= 2
    turned = torch.linalg.qr(normal(3, 3)).Q
    wide = torch.linspace(0.5, 1.5, 6, dtype=torch.float64)[:, None, None]
    views = means[:, None] + wide * torch.cat([turned, -turned])
    return views.flatten(0, 1), torch.arange(6).repeat_interleave(6)


@pytest.mark.parametrize(
    ("x", "labels"),
    [(normal(24, 4) + 0.5, torch.arange(8).repeat(3)), (normal(12, 7), torch.arange(4).repeat(3)),
     (normal(8, 9), torch.arange(4).repeat(2)), views_along_axes()],
    ids=["many", "fewer texts than dimensions", "fewer rows than dimensions", "equal values"],
)  # fmt: skip
def test_how_lidar_bends_is_its_second_difference(x, labels):
    found, even = Discriminant.of(x, labels, 1e-2), torch.ones(int(labels.max()) + 1, dtype=torch.float64)
    for seed in range(3):
        direction = torch.randn(len(even), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        step = 1e-3 * (direction - direction.mean())
        around = [weighted_lidar(x, labels, even + by) for by in (step, -step, 0 * step)]
        expected = (around[0] + around[1] - 2 * around[2]) / 1e-6
        assert found.bend(direction).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("rows", [24, 80])
def test_what_labels_add_to_lidar_leaves_out_what_pairs_of_them_add(monkeypatch, rows):
    """Of second derivatives H_ab by pairs, ½ Σ_{a ≠ b} H_ab² of the sum of squared slopes."""
    monkeypatch.setattr("tl_entropy.functional.states.views._DRAWS", 3000)
    count = rows // 4
    x = normal(rows, 3) * torch.tensor([2.0, 1.0, 1.0]) + 3 * normal(count, 3, seed=5).repeat(4, 1)
    labels = torch.arange(count).repeat(4)
    found, units = Discriminant.of(x, labels, 1e-2), torch.eye(count, dtype=torch.float64)
    bends = torch.tensor([[found.bend(a + b) - found.bend(a) - found.bend(b) for a in units] for b in units]) / 2
    pairs = (bends.square().sum() - bends.diagonal().square().sum()) / 2
    linear = found.scores().square().sum() / (count * (count - 1))
    assert 0.05 < pairs / linear < 0.7
    _, scores = lidar_scores(x, labels, delta=1e-2)
    assert (scores / found.scores()).square().mean().item() == pytest.approx(1 - (pairs / linear).item(), rel=0.1)


@pytest.mark.parametrize("measure", [lidar, info_nce])
@given(seed=st.integers(0, 10**6))
def test_views_may_come_in_any_order_and_turned(measure, seed):
    x = normal(8, 5, seed=seed)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    value = measure(x, LABELS).item()
    assert measure(x[order], [LABELS[i] for i in order]).item() == pytest.approx(value, rel=1e-7)
    assert measure(x @ rotation(5, seed=seed), LABELS).item() == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize("measure", [lidar, info_nce])
def test_views_that_cannot_be_told_apart_are_refused(measure):
    x = normal(4, 3)
    for labels, message in (
        (["a", "a", "b"], "one for each of the 4 rows of x; got 3"),
        (["a"] * 4, "at least two different"),
        (["a", "a", "a", "b"], "'b' has a single row"),
    ):
        with pytest.raises(InputError, match=message):
            measure(x, labels)
    for labels in ("aabb", 3, [["a"], ["a"], ["b"], ["b"]]):
        with pytest.raises(InputTypeError, match="labels must be a sequence"):
            measure(x, labels)


def test_views_refuse_their_own_options_and_rows():
    x, labels = normal(4, 3), [0, 0, 1, 1]
    for delta in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="delta must be a positive number"):
            lidar(x, labels, delta=delta)
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="temperature must be a positive number"):
            info_nce(x, labels, temperature=temperature)
    with pytest.raises(InputError, match="temperature must be at least 1e-300"):
        info_nce(x, labels, temperature=1e-310)
    assert info_nce(x, labels, temperature=1e-300).isfinite()
    with pytest.raises(InputError, match="means of all 2 labels are equal"):
        lidar(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), labels)
    with pytest.raises(InputError, match="row 2 has length 0"):
        info_nce(torch.tensor([[1.0], [-1.0], [0.0], [-1.0]]), labels)


# --- rounding, and one row far away


def still_up_to_rounding(dtype, rows=24, d=64):
    """One state, some components of which are one step of its dtype away in some rows."""
    step = torch.finfo(dtype).eps * (torch.rand(rows, d, generator=torch.Generator().manual_seed(3)) < 0.3).double()
    return normal(1, d).to(dtype) * (1 + step).to(dtype)


@pytest.mark.filterwarnings("ignore:.*repeat others:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_rows_that_differ_by_rounding_have_no_shape(dtype):
    x = still_up_to_rounding(dtype)
    assert len(x.unique(dim=0)) == 24
    for measure, message in (
        (prompt_entropy, "none of the 24 rows has a direction"),
        (effective_rank, "24 rows are all equal"),
        (curvature, "no two successive steps"),
        (two_nn, "at least three different rows"),
    ):
        with pytest.raises(InputError, match=message):
            measure(x)
    with pytest.raises(InputError, match="means of all 2 labels are equal"):
        lidar(x, [0, 1] * 12)
    if dtype != torch.float64:  # the same numbers, had they come in float64, vary
        assert effective_rank(x.double()) > 2
        assert prompt_entropy(x.double()) > 1
        assert curvature(x.double()) > 1
        assert two_nn(x.double()) > 1


def test_the_floor_is_a_share_of_the_rows_own_length():
    """So that one massive state takes nothing from the others, each of which has its own rounding."""
    x = torch.cat([1e5 * normal(1, 8), normal(20, 8, seed=1)]).bfloat16()
    assert len(different_rows(x)) == 21
    assert not turning_angles(x.double(), spread_floor(x.dtype)).isnan().any()
    half = torch.cat([normal(20, 8), 1e5 * normal(1, 8)])
    y = torch.cat([half, -half]).bfloat16()  # their mean is 0
    y = torch.cat([y, torch.zeros(1, 8)])
    assert (directed_rows(y.double(), "centred", spread_floor(torch.bfloat16)).norm(dim=1) > 0)[:42].all()


def test_a_step_of_rounding_among_others_leaves_its_angles_out():
    x = torch.tensor([[1.0, 1.0], [2.0, 1.0], [2.0, 2.0], [2.0, 2.0], [3.0, 2.0]])
    x[3, 0] += 2 * torch.finfo(torch.float32).eps
    assert curvature(x).item() == pytest.approx(math.pi / 2)


def test_one_huge_component_does_not_make_the_others_equal():
    x = normal(100, 3)
    far = x.clone()
    far[7, 1] = 1e8
    assert len(different_rows(far)) == 100
    r = torch.cdist(far, far, compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1).values
    mu = (r[:, 2] / r[:, 1]).sort().values[:90]
    b = -torch.log1p(-torch.arange(1, 91, dtype=torch.float64) / 100)
    assert two_nn(far).item() == pytest.approx(((mu.log() @ b) / mu.log().square().sum()).item(), rel=1e-9)


# --- what all refuse


@pytest.mark.parametrize(
    "measure",
    [prompt_entropy, effective_rank, effective_rank_of_covariance, curvature, anisotropy, two_nn, lambda x: lidar(x, LABELS)],
)
def test_only_finite_matrices_of_floats_are_measured(measure):
    for bad in ([[1.0]], torch.ones(3, 3, dtype=torch.long), None):
        with pytest.raises(InputTypeError, match="must be a floating-point tensor"):
            measure(bad)
    for bad in (torch.ones(3), torch.ones(2, 3, 4), torch.ones(0, 3), torch.ones(3, 0)):
        with pytest.raises(InputError, match=r"must be \[row, d_model\]"):
            measure(bad)
    for hole in (math.nan, math.inf):
        x = torch.eye(8)
        x[5, 1] = hole
        with pytest.raises(NonFiniteError, match="NaN or an infinity in row 5"):
            measure(x)


def test_numbers_must_be_numbers():
    x, labels = normal(4, 3), [0, 0, 1, 1]
    for call in (
        lambda: two_nn(x, discard="0.1"),
        lambda: lidar(x, labels, delta=None),
        lambda: info_nce(x, labels, temperature=True),
    ):
        with pytest.raises(InputTypeError, match=r"must be a (positive )?number; got"):
            call()


def test_an_unknown_way_to_normalise_lists_the_right_ones():
    with pytest.raises(InputError, match="normalise must be one of 'centred', 'length', None; got 'unit'"):
        prompt_entropy(torch.eye(2), normalise="unit")
    with pytest.raises(InputError, match="order"):
        prompt_entropy(torch.eye(2), order=-1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_measured_in_float64(dtype):
    x = normal(12, 6).to(dtype)
    for measure in (prompt_entropy, effective_rank, curvature, anisotropy, two_nn):
        assert measure(x).dtype == torch.float64
        assert measure(x).item() == measure(x.double()).item()
