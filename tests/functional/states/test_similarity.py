"""Linear CKA against the definition of HSIC over all 4-tuples, and its streaming sums against all rows at once."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, strategies as st

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.states.similarity import cka_table, linear_cka, unbiased_hsic
from tl_entropy.functional.states.similarity_sums import BlockSums, CrossSums

seeds = st.integers(0, 10_000)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(rows, d1, d2, seed=0):
    """Two representations that share some of what they hold."""
    x = normal(rows, d1, seed=seed) * torch.logspace(0, -1, d1, dtype=torch.float64)
    y = torch.tanh(x @ normal(d1, d2, seed=seed + 1) / d1**0.5) + 0.5 * normal(rows, d2, seed=seed + 2)
    return x, y


def rotation(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed=seed)).Q


def close(mine, theirs, atol=1e-10):
    mine, theirs = (torch.as_tensor(value, dtype=torch.float64) for value in (mine, theirs))
    torch.testing.assert_close(mine, theirs, atol=atol, rtol=0, equal_nan=True)


def over_all_tuples(k, l):  # noqa: E741 (the papers' names)
    """E[k(x,x')·l(y,y')] + E[k(x,x')]·E[l(y,y')] - 2·E[k(x,x')·l(y,y'')] over all tuples of different rows."""
    terms = [
        k[i, j] * l[i, j] + k[i, j] * l[q, r] - 2 * k[i, j] * l[i, q] for i, j, q, r in itertools.permutations(range(len(k)), 4)
    ]
    return torch.stack(terms).mean()


# --- the definition


@pytest.mark.parametrize("rows", [4, 6])
def test_the_unbiased_hsic_is_the_mean_over_all_tuples_of_different_rows(rows):
    x, y = related(rows, 5, 3)
    k, l = (x @ x.T).exp().clamp(max=50), y @ y.T  # noqa: E741
    close(unbiased_hsic(k, l), over_all_tuples(k, l))
    close(unbiased_hsic(k, k), over_all_tuples(k, k))
    close(unbiased_hsic(k.fill_diagonal_(100), l), over_all_tuples(k, l))  # whatever the diagonal


@pytest.mark.parametrize(("rows", "d1", "d2"), [(6, 40, 30), (30, 4, 5), (20, 5, 40), (4, 2, 2)])
def test_cka_is_the_ratio_of_hsics_by_kernels_and_by_features(rows, d1, d2):
    x, y = related(rows, d1, d2)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    close(linear_cka(x, y), unbiased_hsic(k, l) / (unbiased_hsic(k, k) * unbiased_hsic(l, l)).sqrt())
    h = torch.eye(rows, dtype=torch.float64) - 1 / rows
    k, l = h @ k @ h, h @ l @ h  # noqa: E741
    close(linear_cka(x, y, debiased=False), (k * l).sum() / (k.norm() * l.norm()))


def test_independent_data_are_not_similar_where_rows_are_few():
    draws = [(normal(32, 768, seed=2 * i), normal(32, 768, seed=2 * i + 1)) for i in range(40)]
    assert abs(torch.stack([linear_cka(x, y) for x, y in draws]).mean()) < 0.05
    close(torch.stack([linear_cka(x, y, debiased=False) for x, y in draws]).mean(), 0.959, 2e-3)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize(("rows", "d"), [(8, 30), (60, 7)])
def test_representations_alike_up_to_rotation_scale_and_shift_are_the_same(rows, d, debiased):
    x = normal(rows, d)
    close(linear_cka(x, -0.01 * x @ rotation(d) + 5, debiased=debiased), 1.0)
    assert linear_cka(x, x.roll(1, 0), debiased=debiased) < 0.9  # but not with rows in another order


@given(seed=seeds, rows=st.integers(4, 40), d1=st.integers(1, 30), d2=st.integers(1, 30), debiased=st.booleans())
def test_rotation_scale_and_shift_change_nothing(seed, rows, d1, d2, debiased):
    x, y = related(rows, d1, d2, seed)
    whole = linear_cka(x, y, debiased=debiased)
    close(linear_cka(x @ rotation(d1, seed), y, debiased=debiased), whole, 1e-8)
    close(linear_cka(1e3 * x, 1e-3 * y, debiased=debiased), whole, 1e-8)
    close(linear_cka(x + 3000, y - 3000, debiased=debiased), whole, 1e-7)
    close(linear_cka(y, x, debiased=debiased), whole, 1e-12)


@given(seed=seeds, rows=st.integers(4, 12), d1=st.integers(1, 12), d2=st.integers(1, 12))
def test_no_value_leaves_its_range(seed, rows, d1, d2):
    x, y = related(rows, d1, d2, seed)
    assert -1 - 1e-9 <= linear_cka(x, y) <= 1 + 1e-9
    assert -1e-9 <= linear_cka(x, y, debiased=False) <= 1 + 1e-9


def test_a_table_holds_every_pair():
    x, y = [normal(20, d, seed=d) for d in (3, 30)], [normal(20, d, seed=d + 50) for d in (8, 2, 40)]
    for debiased in (True, False):
        table = cka_table(x, y, debiased=debiased)
        close(table, torch.stack([torch.stack([linear_cka(a, b, debiased=debiased) for b in y]) for a in x]), 1e-12)
        close(cka_table(x, x, debiased=debiased).diagonal(), torch.ones(2).double(), 1e-12)


@pytest.mark.parametrize("debiased", [True, False])
def test_what_does_not_vary_has_no_cka(debiased):
    for rows in (4, 7, 10, 30):
        x = normal(rows, 4)
        for value, d in ((0.1, 3), (1e5 / 3, 40)):  # means of equal numbers that round
            still = torch.full((rows, d), value, dtype=torch.float64)
            assert linear_cka(x, still, debiased=debiased).isnan()
            assert linear_cka(still, x, debiased=debiased).isnan()
            assert linear_cka(still, still, debiased=debiased).isnan()


def test_rows_at_one_distance_from_each_other_show_no_structure():
    for seed in range(10):
        corners = torch.eye(6).double() @ rotation(6, seed) + 1  # only the kernel's diagonal tells one row from another
        assert linear_cka(corners, normal(6, 4)).isnan()
        assert linear_cka(corners, normal(6, 4), debiased=False).isfinite()
        rows = {"corners": corners, "x": normal(6, 4)}
        for sums in (exact([rows], [("corners", "x")]), BlockSums(rows, 6)):
            sums.update({name: x[:0] for name, x in rows.items()} if sums.rows else rows)
            assert sums.cka(["corners"], ["x"]).isnan()


def test_half_precision_is_read_in_float64():
    x, y = (part.bfloat16() for part in related(20, 6, 5))
    found = linear_cka(x, y)
    assert found.dtype == torch.float64
    close(found, linear_cka(x.double(), y.double()), 1e-15)


def test_refused():
    x = normal(10, 3)
    with pytest.raises(InputError, match="same number of rows, at least 4; got 9 and 10"):
        linear_cka(x, x[:9])
    with pytest.raises(InputError, match="at least 4; got 3"):
        linear_cka(x[:3], x[:3])
    assert linear_cka(x[:3], x[:3], debiased=False) == pytest.approx(1)
    with pytest.raises(InputError, match="at least 2; got 1"):
        linear_cka(x[:1], x[:1], debiased=False)
    with pytest.raises(InputError, match=r"y must be \[row, d_model\].*got \[10\]"):
        linear_cka(x, x[:, 0])
    with pytest.raises(InputTypeError, match="x must be a floating-point tensor; got ndarray"):
        linear_cka(x.numpy(), x)
    with pytest.raises(InputError, match="k must be a symmetric matrix"):
        unbiased_hsic(x, x)
    with pytest.raises(InputError, match="l must be a symmetric matrix"):
        unbiased_hsic(x @ x.T, normal(10, 10))
    with pytest.raises(InputError, match="of one size, at least 4 x 4; got 3 and 3"):
        unbiased_hsic(torch.eye(3), torch.eye(3))
    with pytest.raises(InputError, match="of one size"):
        unbiased_hsic(torch.eye(5), torch.eye(6))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_finite_float_is_refused(bad):
    x = normal(6, 6)
    x = x @ x.T
    for function in (linear_cka, unbiased_hsic):
        with pytest.raises(NonFiniteError, match="NaN or an infinity in row 2"):
            function(x, torch.where(torch.eye(6)[2] > 0, bad, x).T)
        for wrong in (x.to(torch.complex128), x.long()):
            with pytest.raises(InputTypeError, match="must be a floating-point tensor"):
                function(x, wrong)
        assert not function(x.clone().requires_grad_(), x).requires_grad


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("scale", [1e80, 1e-80, 1e150, 1e-150])
def test_no_scale_is_too_large_or_too_small(scale, debiased):
    x, y = related(12, 5, 4)
    close(linear_cka(scale * x, y, debiased=debiased), linear_cka(x, y, debiased=debiased), 1e-13)
    close(linear_cka(scale * x, y / scale, debiased=debiased), linear_cka(x, y, debiased=debiased), 1e-13)


def test_symmetry_is_relative_to_the_kernels_size():
    k = normal(6, 6)
    for scale in (1e-12, 1.0, 1e12):
        with pytest.raises(InputError, match="k must be a symmetric"):
            unbiased_hsic(scale * k, torch.eye(6))
        nearly = scale * (k + k.T) + 1e-7 * scale * k  # as a kernel in float32 is
        assert unbiased_hsic(nearly, nearly).isfinite()


def still_up_to_rounding(dtype, rows=24, d=16):
    """One state of which every other component is one step of its dtype away in some rows."""
    state = normal(1, d).to(dtype).expand(rows, -1)
    step = torch.finfo(dtype).eps * (torch.rand(rows, d, generator=torch.Generator().manual_seed(3)) < 0.3).double()
    return state * (1 + step).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("debiased", [True, False])
def test_rows_that_differ_by_rounding_have_no_cka(dtype, debiased):
    x, still = normal(24, 5).to(dtype), still_up_to_rounding(dtype)
    assert len(still.unique(dim=0)) > 10
    for a, b in ((x, still), (still, x), (still, still)):
        assert linear_cka(a, b, debiased=debiased).isnan()
    rows = {"x": x, "still": still}
    for sizes in ([24], [1, 23], [8, 8, 8], [4] * 6):
        table = exact(cut(rows, sizes), [("x", "still")]).cka(["x", "still"], ["still"], debiased=debiased)
        assert table.isnan().all()
        blocks = BlockSums(rows, 8)
        for part in cut(rows, sizes):
            blocks.update(part)
        assert blocks.cka(["x", "still"], ["still"]).isnan().all()
        assert blocks.cka(["x"], ["x"]).isfinite()
    for first in (cut(rows, [4, 20])[:1], []):
        both = exact(first, [("x", "still")])
        both.merge(exact(cut(rows, [4, 20])[1:], [("x", "still")]))
        assert both.cka(["still"], ["still"]).isnan()


def test_a_spread_above_rounding_counts():
    x = normal(40, 6)
    near = (x + 3e4).float()  # a spread of some 3e-5 of the length
    assert linear_cka(x, near).item() == pytest.approx(1, abs=1e-4)
    close(exact([{"x": x, "near": near}], [("x", "near")]).cka(["x"], ["near"])[0, 0], linear_cka(x, near), 1e-8)


# --- exact sums


def exact(parts, pairs):
    sums = CrossSums(pairs)
    for part in parts:
        sums.update(part)
    return sums


def cut(named, sizes):
    """The rows of every representation in parts of these sizes."""
    return [dict(zip(named, part, strict=True)) for part in zip(*(x.split(sizes) for x in named.values()), strict=True)]


@st.composite
def cuts(draw, rows):
    ends = sorted(draw(st.lists(st.integers(0, rows), max_size=4)))
    return [b - a for a, b in itertools.pairwise([0, *ends, rows])]


@given(seed=seeds, sizes=cuts(25), merged=st.integers(0, 5), d=st.integers(1, 12))
def test_exact_sums_are_those_of_all_rows_whatever_the_batches_and_shards(seed, sizes, merged, d):
    x, y = related(25, d, 7, seed)
    x, y = x + 3000, 50 * y - 3000  # far from 0
    parts = cut({"x": x, "y": y}, sizes)
    pairs = [("x", "y"), ("y", "x")]
    sums = exact(parts[:merged], pairs)
    sums.merge(exact(parts[merged:], pairs))
    assert sums.rows == 25
    for debiased in (True, False):
        found = sums.cka(["x", "y"], ["y", "x"], debiased=debiased)
        close(found, cka_table([x, y], [y, x], debiased=debiased), 1e-8 if debiased and d == 1 else 1e-10)
        close(found, found.flip(0, 1), 1e-14)


def test_exact_sums_of_float32_states():
    x, y = (part.float() for part in related(500, 64, 48))
    x += 3000
    sums = exact(cut({"x": x, "y": y}, [1, 99, 400]), [("x", "y")])
    close(sums.cka(["x"], ["y"])[0, 0], linear_cka(x, y))


def test_a_first_row_far_from_all_others_costs_no_digits_that_matter():
    x, y = related(300, 20, 20)
    x[0] *= 1000
    sums = exact(cut({"x": x, "y": y}, [1, 299]), [("x", "y")])
    close(sums.cka(["x"], ["y"])[0, 0], linear_cka(x, y), 1e-9)


def test_shards_of_other_rows_around_another_origin():
    x, y = related(40, 6, 5)
    x[20:] += 500  # the two halves have different means
    parts = cut({"x": x, "y": y}, [20, 20])
    first, second = (exact([part], [("x", "y")]) for part in parts)
    before = second.cka(["x"], ["y"])
    first.merge(second)
    close(first.cka(["x"], ["y"])[0, 0], linear_cka(x, y))
    close(second.cka(["x"], ["y"]), before, 0)  # as it was
    nothing = CrossSums([("x", "y")])
    nothing.merge(second)
    second.update(parts[0])
    close(nothing.cka(["x"], ["y"])[0, 0], linear_cka(x[20:], y[20:]))
    close(second.cka(["x"], ["y"])[0, 0], linear_cka(x, y))
    with pytest.raises(InputError, match="pairs are not the same"):
        first.merge(CrossSums([("x", "x")]))


def test_a_pair_and_its_reverse_are_kept_once():
    assert CrossSums([("a", "b"), ("b", "a"), ("a", "a")]).pairs == (("a", "a"), ("b", "b"), ("a", "b"))


def test_still_rows_and_few_rows_have_no_value():
    x = normal(9, 3)
    sums = CrossSums([("x", "still")])
    assert sums.cka(["x"], ["still"]).isnan().all()
    still = torch.full((9, 4), 0.1, dtype=torch.float64)
    for part in cut({"x": x, "still": still}, [3, 6]):
        sums.update(part)
        close(sums.cka(["x"], ["x"]).isnan().item(), sums.rows < 4)
    for debiased in (True, False):
        assert sums.cka(["x", "still"], ["still"], debiased=debiased).isnan().all()
    pair = exact([{"x": x[:2]}], [("x", "x")])
    close(pair.cka(["x"], ["x"], debiased=False), torch.ones(1, 1))


@pytest.mark.parametrize("sums", [CrossSums([("x", "y")]), BlockSums(["x", "y"], 4)], ids=["exact", "blocks"])
def test_an_update_is_all_or_nothing(sums):
    x, y = related(12, 3, 3)
    sums.update({"x": x[:6], "y": y[:6]})
    before = sums.cka(["x"], ["y"])
    for wrong in ({"x": x[6:]}, {"x": x[6:], "y": y[7:]}, {"x": x[6:], "y": y[6:, 0]}):
        with pytest.raises(InputError, match="the same number of rows for each of x, y"):
            sums.update(wrong)
    sums.update({"x": x[:0], "y": y[:0]})
    assert sums.rows == 6
    close(sums.cka(["x"], ["y"]), before, 0)


@pytest.mark.parametrize("make", [lambda: CrossSums([("x", "y"), ("y", "z")]), lambda: BlockSums(["x", "y", "z"], 5)])
def test_names_pairs_and_widths_that_are_not_there(make):
    rows = {"x": normal(12, 3), "y": normal(12, 4), "z": normal(12, 3)}
    sums = make()
    sums.update(rows)
    with pytest.raises(InputError, match="rows and columns must be one of 'x', 'y', 'z'; got 'w'"):
        sums.cka(["x"], ["w"])
    if isinstance(sums, CrossSums):
        with pytest.raises(InputError, match="the pair of x and z is not kept"):
            sums.cka(["x"], ["y", "z"])
    wider = rows | {"y": normal(12, 5)}
    other = make()
    other.update(wider)
    before = sums.cka(["x"], ["y"])
    for change in (lambda: sums.update(wider), lambda: sums.merge(other)):
        with pytest.raises(InputError, match="rows: y must keep its width of 4; got 5"):
            change()
    assert sums.rows == 12
    close(sums.cka(["x"], ["y"]), before, 0)
    with pytest.raises(InputTypeError, match="rows must be a floating-point tensor"):
        sums.update(rows | {"x": rows["x"].long()})


# --- blocks


def by_blocks(x, y, block):
    """The ratio of averages over blocks, straight from its definition."""
    parts = [(a, b) for a, b in zip(x.split(block), y.split(block), strict=True) if len(a) >= 4]
    total = torch.zeros(3).double()
    for a, b in parts:
        k, l = a @ a.T, b @ b.T  # noqa: E741
        total += len(a) * torch.stack([unbiased_hsic(k, l), unbiased_hsic(k, k), unbiased_hsic(l, l)])
    return total[0] / (total[1] * total[2]).sqrt()


@given(seed=seeds, sizes=cuts(26), block=st.integers(4, 30))
def test_blocks_are_the_same_whatever_the_batches(seed, sizes, block):
    x, y = related(26, 6, 9, seed)
    sums = BlockSums(["x", "y"], block)
    for part in cut({"x": x, "y": y}, sizes):
        sums.update(part)
    assert sums.left_out == (26 % block if 26 % block < 4 else 0)
    close(sums.cka(["x"], ["y"])[0, 0], by_blocks(x, y, block))
    close(sums.cka(["x"], ["y"])[0, 0], sums.cka(["y"], ["x"])[0, 0])
    close(sums.cka(["x", "y"], ["x", "y"]).diagonal(), torch.ones(2))


def test_one_block_is_all_rows_at_once():
    x, y = related(30, 6, 9)
    sums = BlockSums(["x", "y"], 30)
    sums.update({"x": x + 3000, "y": y})
    close(sums.cka(["x"], ["y"])[0, 0], linear_cka(x, y))


def test_merged_blocks_stay_as_they_were_cut():
    x, y = related(40, 6, 9)
    parts = cut({"x": x, "y": y}, [13, 27])
    first, second = BlockSums(["x", "y"], 8), BlockSums(["x", "y"], 8)
    first.update(parts[0])
    second.update(parts[1])
    first.merge(second)
    order = torch.tensor([*range(8), *range(13, 37), *range(8, 13), *range(37, 40)])  # waiting rows go together
    assert (first.rows, first.left_out) == (40, 0)
    close(first.cka(["x"], ["y"])[0, 0], by_blocks(x[order], y[order], 8))
    with pytest.raises(InputError, match="blocks are not the same"):
        first.merge(BlockSums(["x", "y"], 9))
    with pytest.raises(InputError, match="block must be an int of at least 4; got 3"):
        BlockSums(["x"], 3)


def test_blocks_come_close_to_all_rows_where_rows_are_independent():
    x, y = related(6000, 10, 8)
    sums = BlockSums(["x", "y"], 100)
    sums.update({"x": x, "y": y})
    close(sums.cka(["x"], ["y"])[0, 0], linear_cka(x, y), 0.01)
    slow = torch.linspace(-3, 3, 6000, dtype=torch.float64)[:, None]  # a drift, which no block shows
    sums = BlockSums(["x", "y"], 100)
    sums.update({"x": x + 2 * slow, "y": y - 2 * slow})
    assert linear_cka(x + 2 * slow, y - 2 * slow) - sums.cka(["x"], ["y"])[0, 0] > 0.1


# --- others' code


def test_the_biased_form_is_that_of_a_published_package():
    analysis = pytest.importorskip("entropy_profiler.analysis")
    for rows, d in ((30, 8), (8, 30)):
        x, y = related(rows, d, 12)
        close(linear_cka(x, y, debiased=False), analysis._linear_cka(x.numpy(), y.numpy()), 1e-12)
