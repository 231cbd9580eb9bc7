"""Figures of layer divergence: what is drawn is what the result says."""

from __future__ import annotations

import dataclasses
import itertools
import math

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from drawn import flat, legend, of_kind, ticks
from hand_made import without_rows
from matplotlib.collections import LineCollection, PolyCollection, QuadMesh
from matplotlib.colors import LogNorm

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.functional.statistics import document_sums
from tl_entropy.plots import decisions, divergences, heatmap, settling, targets
from tl_entropy.plots.cells import ink, visible
from tl_entropy.results import DivergenceSummary, LayerDivergence, LensEntropy, Provenance
from tl_entropy.sites import expand_sites

ORIGIN = {"weights": "0", "processing": "none", "dtype": "float32", "device": "cpu", "versions": {}, "created": "then"}
STRINGS = {0: "def", 1: " f", 2: "\n        ", 3: "$x$", 4: "\ufffd", 5: "a_very_long_identifier_indeed", 6: "\ufffd", 7: " $y"}
METRICS = ("kl", "jsd", "fisher_rao")


def result_of(
    *, site_names=("embed", "resid_post"), layers=3, lengths=(5, 4), model="tiny", seed=0, against="output", metrics=METRICS,
    **rest,
):  # fmt: skip
    """The last site is the output, as with the logit lens."""
    draw = torch.Generator().manual_seed(seed)
    sites, rows = expand_sites(site_names, layers), sum(lengths)
    n = len(sites)
    divergence = torch.rand(rows, n, len(metrics), generator=draw) + torch.linspace(3, 0.2, n)[:, None]
    divergence[:, -1] = 0
    top = torch.randint(0, 3, (rows, n, 1), generator=draw)
    position = torch.cat([torch.arange(length) for length in lengths])
    ends = position == torch.tensor(lengths).repeat_interleave(torch.tensor(lengths)) - 1
    parts = {
        "divergence": divergence,
        "agreement": top[:, :, 0] == top[:, -1:, 0],
        "document": torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)),
        "position": position,
        "token": torch.arange(rows) % len(STRINGS),
        "output_token": top[:, -1, 0],
        "sites": sites,
        "metrics": metrics,
        "against": against,
        "strings": STRINGS,
        "provenance": Provenance(model=model, **ORIGIN),
        "top_tokens": top,
        "surprisal": (torch.rand(rows, n, generator=draw) * 5).masked_fill(ends[:, None], math.nan),
        "rank": torch.randint(0, 200, (rows, n), generator=draw).masked_fill(ends[:, None], -1),
        "targets": (1, 4, 6),
        "target_surprisal": torch.rand(rows, n, 3, generator=draw) * 5,
        "target_rank": torch.randint(0, 200, (rows, n, 3), generator=draw),
    }
    return LayerDivergence(**{**parts, **rest})


def summary(result):
    """The sums that ``result`` would have given."""
    there = result.quantities()
    columns = tuple(name for name in (*result.metrics, "agreement", "decided") if name in there)
    values = torch.stack([there[name].double() for name in columns], -1)
    _, s, n = document_sums(values, result.document)
    n = n[:, None, None].expand_as(s)
    return DivergenceSummary(
        sites=result.sites, columns=columns, against=result.against, tokens=result.n_tokens, unit="nats",
        documents=len(result.documents), sums=torch.stack([n, s, n * n, n * s, s * s]).sum(1), provenance=result.provenance,
        squares=values.square().sum(0),
    )  # fmt: skip


def entropies():
    return LensEntropy(
        entropy=torch.rand(3, 4, 1), document=torch.zeros(3, dtype=torch.long), position=torch.arange(3),
        token=torch.arange(3), sites=expand_sites(("embed", "resid_post"), 3), orders=(1.0,), strings=STRINGS,
        provenance=Provenance(model="tiny", **ORIGIN),
    )  # fmt: skip


def bar(axes):
    return axes.figure.axes[-1].get_ylabel()


# --- divergences


def test_the_line_is_the_mean_over_all_tokens_from_the_embedding_on():
    result = result_of()
    axes = divergences(result)
    (line,) = axes.get_lines()
    assert line.get_xdata().tolist() == [-1, 0, 1, 2]
    np.testing.assert_allclose(line.get_ydata(), result.metric("kl").double().mean(0), rtol=1e-6)
    assert ticks(axes.xaxis) == ["embed", "0", "1", "2"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Layer", "KL(output ‖ layer) (nats)")
    assert axes.get_legend() is None
    assert -0.05 * line.get_ydata().max() < axes.get_ylim()[0] < 0, "the last mark, at 0, is whole"


def test_the_band_is_1_96_standard_errors_to_either_side():
    result = result_of(lengths=(5, 4, 7))
    (band,) = of_kind(divergences(result, metric="jsd"), PolyCollection)
    corners = band.get_paths()[0].vertices
    frame = result.mean_profile("jsd")
    for depth, mean, se in zip((-1, 0, 1, 2), frame["mean"], frame["se"], strict=True):
        heights = corners[corners[:, 0] == depth, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [mean - 1.96 * se, mean + 1.96 * se], atol=1e-12)
    assert not of_kind(divergences(result, band=None), PolyCollection)
    assert not of_kind(divergences(result_of(lengths=(5,))), PolyCollection)


@pytest.mark.parametrize("metric", ["jsd", "agreement"])
def test_or_one_standard_deviation_over_tokens(metric):
    result = result_of(lengths=(5,))
    bands = [
        of_kind(divergences(one.to("bits"), metric=metric, band="sd"), PolyCollection)[0] for one in (result, summary(result))
    ]
    result, band = result.to("bits"), bands[0]
    np.testing.assert_allclose(bands[1].get_paths()[0].vertices, band.get_paths()[0].vertices, atol=1e-6)
    corners = band.get_paths()[0].vertices
    values = result.quantities()[metric].double().numpy()
    for depth, column in zip((-1, 0, 1, 2), values.T, strict=True):
        heights = corners[corners[:, 0] == depth, 1]
        np.testing.assert_allclose(
            [heights.min(), heights.max()], [column.mean() - column.std(), column.mean() + column.std()], atol=1e-6
        )


@pytest.mark.parametrize("draw", [divergences, decisions])
def test_a_summary_draws_what_its_positions_would(draw):
    result = result_of(lengths=(5, 4, 7))
    one, two = draw(result), draw(summary(result))
    assert len(one.get_lines()) == len(two.get_lines()) > 0
    for a, b in zip(one.get_lines(), two.get_lines(), strict=True):
        np.testing.assert_allclose(a.get_xydata(), b.get_xydata(), rtol=1e-6, atol=1e-9)
    for a, b in zip(of_kind(one, PolyCollection), of_kind(two, PolyCollection), strict=True):
        np.testing.assert_allclose(a.get_paths()[0].vertices, b.get_paths()[0].vertices, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "metric", "name"),
    [
        ({}, "kl", "KL(output ‖ layer) (nats)"),
        ({"against": "previous"}, "kl", "KL(previous ‖ layer) (nats)"),
        ({"metrics": ("reverse_kl",), "against": "resid_post.3"}, None, "KL(layer ‖ resid_post.3) (nats)"),
        ({"unit": "bits"}, "jsd", "JSD to output (bits)"),
        ({"unit": "bits"}, "fisher_rao", "Fisher-Rao distance to output (rad)"),
        ({"metrics": ("total_variation",)}, None, "Total variation to output"),
        ({}, "agreement", "Top token as in the output (share)"),
        ({}, "decided", "Decided (share of tokens)"),
        ({"unit": "bits"}, "surprisal", "Surprisal of the next token (bits)"),
        ({}, "rank", "Rank of the next token (1 is first)"),
        ({}, "surprisal of ' f'", "Surprisal of ' f' (nats)"),
        ({}, "rank of ' f'", "Rank of ' f' (1 is first)"),
        ({}, "rank of '\ufffd' (6)", "Rank of '\ufffd' (6) (1 is first)"),
    ],
)
def test_the_axis_says_what_is_compared_with_what(options, metric, name):
    assert divergences(result_of(**options), metric=metric).get_ylabel() == name


def test_other_quantities_are_those_of_the_profile():
    result = result_of()
    for metric in ("agreement", "decided", "surprisal", "surprisal of ' f'", "rank of ' f'"):
        (line,) = divergences(result, metric=metric).get_lines()
        shift = 1 if metric.startswith("rank") else 0
        np.testing.assert_allclose(line.get_ydata(), result.mean_profile(metric)["mean"] + shift)
    assert divergences(result, metric="agreement").get_ylim() == (-0.03, 1.05)


def test_a_logarithmic_axis_leaves_out_what_is_zero():
    result = result_of()
    axes = divergences(result, log=True)
    (line,) = axes.get_lines()
    assert axes.get_yscale() == "log"
    np.testing.assert_allclose(line.get_ydata()[:-1], result.metric("kl").double().mean(0)[:-1], rtol=1e-6)
    assert np.isnan(line.get_ydata()[-1])
    low, high = axes.get_ylim()
    assert 0.1 < low < high < 10, "zeros don't stretch the axis"
    wide = divergences(dataclasses.replace(result, divergence=result.divergence.double() ** 9), log=True)
    for drawn in (axes, wide):
        drawn.figure.draw_without_rendering()
        low, high = drawn.get_ylim()
        shown = {at: text for text, at in zip(ticks(drawn.yaxis), drawn.get_yticks(), strict=True) if low <= at <= high}
        assert len(shown) > 1
        assert all(float(text.replace(",", "")) == pytest.approx(at) for at, text in shown.items()), "plain numbers"
    assert shown[1000.0] == "1,000"


def test_several_results_share_a_figure():
    a, b = result_of(model="one"), result_of(model="two", seed=1)
    assert legend(divergences([a, b])) == ["one", "two"]
    assert legend(divergences([a, a], labels=["x", "y"])) == ["x", "y"]
    axes = divergences({"logit lens": a, "tuned lens": summary(b)}, metric="jsd")
    assert legend(axes) == ["logit lens", "tuned lens"]
    for line, result in zip(axes.get_lines(), (a, b), strict=True):
        np.testing.assert_allclose(line.get_ydata(), result.metric("jsd").double().mean(0), rtol=1e-6)
    assert len({(tuple(line.get_color()), line.get_linestyle(), line.get_marker()) for line in axes.get_lines()}) == 2
    mixed = divergences({"a": a, "b": result_of(against="previous")})
    assert legend(mixed) == ["a, against output", "b, against previous"]
    assert mixed.get_ylabel() == "KL(reference ‖ layer) (nats)"
    divergences({"a": a, "b": b.to("bits")}, metric="fisher_rao")  # radians in either


def test_sites_inside_a_block_stand_between_its_ends():
    result = result_of(site_names=("embed", "attn_out", "resid_mid", "resid_post"), layers=2)
    depths = {line.get_label(): line.get_xdata().tolist() for line in divergences(result).get_lines()}
    assert depths == {"resid_post": [-1, 0, 1], "attn_out": [-0.75, 0.25], "resid_mid": [-0.5, 0.5]}
    (line,) = divergences(result, sites="attn_out").get_lines()
    columns = [i for i, site in enumerate(result.sites) if site.name == "attn_out"]
    np.testing.assert_allclose(line.get_ydata(), result.metric("kl")[:, columns].double().mean(0), rtol=1e-6)
    labels = {line.get_label() for line in divergences(result, metric="decided").get_lines()}
    assert labels == {"resid_post", "resid_mid"}, "what is written into the stream decides nothing"


def test_deep_models_and_single_sites():
    assert len(divergences(result_of(layers=48)).get_xticks()) <= 13
    axes = divergences(result_of().select(layers=1))
    assert ticks(axes.xaxis) == ["1"]
    assert axes.get_lines()[0].get_xdata().tolist() == [1]


# --- decisions


def test_decisions_are_the_shares_of_the_result():
    result = result_of(lengths=(30, 20))
    axes = decisions(result)
    assert legend(axes) == ["decided", "agrees with the output"]
    decided, agrees = axes.get_lines()
    share = [(result.decided() <= i).double().mean().item() for i in range(4)]
    np.testing.assert_allclose(decided.get_ydata(), share, rtol=1e-6)
    np.testing.assert_allclose(agrees.get_ydata(), result.agreement.double().mean(0), rtol=1e-6)
    assert (np.asarray(decided.get_ydata()) <= np.asarray(agrees.get_ydata())).all()
    assert (axes.get_ylabel(), axes.get_ylim()) == ("Share of tokens", (-0.03, 1.05))
    assert len(of_kind(axes, PolyCollection)) == 2
    assert not of_kind(decisions(result, band=None), PolyCollection)


def test_decisions_follow_the_stream_through_all_its_sites():
    result = result_of(site_names=("embed", "attn_out", "resid_mid", "resid_post"), layers=2)
    decided, agrees = decisions(result).get_lines()
    assert decided.get_xdata().tolist() == agrees.get_xdata().tolist() == [-1, -0.5, 0, 0.5, 1]
    stream = [i for i, site in enumerate(result.sites) if site.name != "attn_out"]
    np.testing.assert_allclose(agrees.get_ydata(), result.agreement[:, stream].double().mean(0), rtol=1e-6)
    names = legend(decisions({"a": result, "b": result, "c": result}))
    assert names == [f"{x}, {y}" for x in "abc" for y in ("decided", "agrees with the output")]


# --- settling


def test_settling_is_the_share_that_has_settled_and_the_line_before_the_deep_layers():
    result = result_of(lengths=(30, 20))
    axes = settling(result, threshold=0.5, unit="bits", rho=0.5)
    curve, dashed = axes.get_lines()
    share = [(result.settled(0.5, unit="bits") <= i).double().mean().item() for i in range(4)]
    np.testing.assert_allclose(curve.get_ydata(), share, rtol=1e-6)
    assert dashed.get_xdata() == [0.5, 0.5]  # of three layers, the second and the third are deep
    assert axes.get_ylabel() == "Share settled (JSD ≤ 0.5 bits)"
    assert len(settling(result, unit="nats", rho=None).get_lines()) == 1
    assert legend(settling({"a": result, "b": result}, unit="bits")) == ["a", "b", "deep from here on (ρ = 0.85)"]


# --- targets


@pytest.mark.parametrize("unit", ["nats", "bits"])
def test_targets_are_those_of_one_position(unit):
    nats = result_of()
    result = nats.to(unit)
    row = 5 + 2  # document 1, position 2
    expected = {
        "rank": nats.target_rank[row] + 1,
        "probability": (-nats.target_surprisal[row].double()).exp(),
        "surprisal": result.target_surprisal[row],
    }
    names = {"rank": "Rank (1 is the most probable)", "probability": "Probability", "surprisal": f"Surprisal ({unit})"}
    for of, values in expected.items():
        axes = targets(result, document=1, position=2, of=of)
        assert axes.get_ylabel() == names[of]
        assert legend(axes) == ["␣f", "\ufffd (4)", "\ufffd (6)"]
        for i, line in enumerate(axes.get_lines()):
            assert line.get_xdata().tolist() == [-1, 0, 1, 2]
            np.testing.assert_allclose(line.get_ydata(), values[:, i], rtol=1e-5)
        assert (axes.get_yscale() == "log") == (of == "rank")
        assert not of_kind(axes, PolyCollection)
    low, high = targets(result, document=1, position=2).get_ylim()
    assert low > high, "the most probable is at the top"
    assert high < 1 < int(expected["rank"].max()) < low


def test_the_title_is_the_text_that_was_read():
    result = result_of(lengths=(3, 20))
    assert targets(result, document=0, position=1).get_title() == "After “def␣f”"
    long = targets(result, document=1, position=12).get_title()
    assert len(long) <= 40 + len("After “”")
    assert long.startswith("After “…")
    assert long.endswith("$y”")
    assert not any(text.get_parse_math() for text in targets(result, document=0, position=1).get_legend().get_texts())
    gap = result.select(documents=1, positions=[2, 4, 5])
    assert targets(gap, position=5).get_title() == f"After “{visible(STRINGS[7] + STRINGS[0], 99)}”", "nothing across a gap"
    only = result.select(documents=0, positions=2)
    assert targets(only).get_title() == "After “↵␣×8”", "the only position needs no choice"


def test_many_targets_stand_above_the_title():
    tokens = tuple(range(8))
    wide = result_of(targets=tokens, target_surprisal=torch.rand(9, 4, 8), target_rank=torch.ones(9, 4, 8, dtype=torch.long))
    axes = targets(wide, document=0, position=0)
    axes.figure.draw_without_rendering()
    box, inside = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert box.y0 >= max(inside.y1, axes.title.get_window_extent().y1)
    assert (box.x0, box.y1) >= (0, 0)
    assert box.x1 <= axes.figure.bbox.x1
    assert box.y1 <= axes.figure.bbox.y1
    assert len({(tuple(x.get_color()), x.get_linestyle(), x.get_marker()) for x in axes.get_lines()}) == 8


def test_targets_at_several_kinds_of_sites():
    result = result_of(site_names=("embed", "attn_out", "resid_post"), layers=2)
    axes = targets(result, document=0, position=0, sites=["embed", "resid_post"])
    assert [line.get_xdata().tolist() for line in axes.get_lines()] == [[-1, 0, 1]] * 3
    assert "␣f, attn_out" in legend(targets(result, document=0, position=0))


# --- the map


def test_the_map_shows_the_first_metric():
    result = result_of()
    axes = heatmap(result, document=1)
    (mesh,) = of_kind(axes, QuadMesh)
    np.testing.assert_array_equal(mesh.get_array(), result.metric("kl")[result.document == 1].T)
    assert mesh.get_clim() == (0, pytest.approx(float(result.metric("kl")[result.document == 1].max())))
    assert ticks(axes.yaxis) == ["embed", "0", "1", "2"]
    assert bar(axes).replace("\n", " ") == "KL(output ‖ layer) (nats)"
    assert not axes.texts
    certain = dataclasses.replace(result, divergence=torch.zeros_like(result.divergence))
    assert of_kind(heatmap(certain, document=0), QuadMesh)[0].get_clim() == (0, 1)


@pytest.mark.thinned
@pytest.mark.parametrize(
    ("of", "name"),
    [
        ("jsd", "JSD to output (bits)"),
        ("fisher_rao", "Fisher-Rao distance to output (rad)"),
        ("agreement", "Top token as in the output (share)"),
        ("decided", "Decided (share of tokens)"),
        ("surprisal", "Surprisal of the next token (bits)"),
        ("surprisal of ' f'", "Surprisal of ' f' (bits)"),
    ],
)
def test_the_map_shows_any_quantity(of, name):
    result = result_of(lengths=(5,)).to("bits")
    axes = heatmap(result, of=of)
    (mesh,) = of_kind(axes, QuadMesh)
    np.testing.assert_array_equal(np.ma.filled(mesh.get_array(), np.nan), result.quantities()[of].T)
    assert bar(axes).replace("\n", " ") == name
    if of in ("agreement", "decided"):
        assert mesh.get_clim() == (0, 1)


def test_ranks_are_counted_from_one_on_a_logarithmic_scale():
    result = result_of(lengths=(5,))
    for of, ranks in (("rank", result.rank.float()), ("rank of ' f'", result.target_rank[:, :, 0].float())):
        (mesh,) = of_kind(heatmap(result, of=of), QuadMesh)
        assert isinstance(mesh.norm, LogNorm)
        known = ~np.ma.getmaskarray(mesh.get_array())
        np.testing.assert_array_equal(mesh.get_array()[known], (ranks.T.numpy() + 1)[known])
        assert known[:, -1].any() == (of != "rank")
        assert mesh.get_clim() == (1, float(ranks.max()) + 1)


def test_cells_without_a_value_are_grey_and_their_text_is_legible():
    axes = heatmap(result_of(lengths=(5,)), of="surprisal", top_tokens=True)
    (mesh,) = of_kind(axes, QuadMesh)
    grey = mesh.to_rgba(mesh.get_array())[:, -1]
    assert (grey == mpl.colors.to_rgba("0.85")).all()
    assert {text.get_color() for text in axes.texts if text.get_position()[0] > 4} == {ink(grey[0])} == {"black"}


def test_the_classic_table_of_the_logit_lens():
    result = result_of(lengths=(6,))
    axes = heatmap(result, top_tokens=True)
    assert len(axes.texts) == 6 * 4
    for text in axes.texts:
        x, y = text.get_position()
        assert text.get_text() == visible(STRINGS[int(result.top_tokens[int(x), int(y), 0])], 9)
    assert axes.get_xlabel() == "Token read\n(in each cell: most probable next token)\n(above the line: decided)"
    assert heatmap(result, decided=False).get_xlabel() == "Token read"


def steps(axes):
    found = [line for line in of_kind(axes, LineCollection) if line.get_path_effects()]
    return [line.get_segments()[0].tolist() for line in found]


def test_the_step_line_runs_below_what_is_decided():
    agreement = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
    rest = {"lengths": (4,), "agreement": agreement}
    axes = heatmap(result_of(**rest))
    assert steps(axes) == [[[0, 0], [1, 0], [1, 3], [2, 3], [2, 2], [3, 2], [3, 4], [4, 4]]]
    assert axes.get_xlim() == (0, 4)
    assert axes.get_ylim() == (0, 4), "the line does not move the limits"
    assert not steps(heatmap(result_of(**rest), decided=False))
    assert steps(heatmap(result_of(**rest), sites="resid_post"))[0][0] == [0, 0]
    written = result_of(lengths=(4,), site_names=("attn_out",), layers=4, agreement=agreement)
    assert not steps(heatmap(written)), "what is written into the stream decides nothing"
    assert not steps(heatmap(entropies()))


@pytest.mark.thinned
@pytest.mark.parametrize(("lengths", "layers"), [((4,), 3), ((24,), 7), ((12,), 48), ((40,), 24)])
def test_text_stays_inside_its_cell_in_a_figure_of_sensible_size(lengths, layers):
    axes = heatmap(result_of(lengths=lengths, layers=layers), top_tokens=True)
    figure = axes.figure
    figure.draw_without_rendering()
    wide, high = (axes.transData.transform((1, 1)) - axes.transData.transform((0, 0))).tolist()
    for text in axes.texts:
        box = text.get_window_extent()
        assert box.width <= wide * 1.02
        assert box.height <= high * 1.02
        assert text.get_fontsize() >= 5.5
    assert max(figure.get_size_inches()) < 25
    label = axes.xaxis.label.get_window_extent()
    assert figure.bbox.x0 <= label.x0 < label.x1 <= figure.bbox.x1


@pytest.mark.thinned
@pytest.mark.parametrize(("layers", "of"), [(1, "kl"), (3, "rank"), (6, "surprisal"), (24, "rank")])
def test_the_bars_name_fits_the_figure(layers, of):
    axes = heatmap(result_of(lengths=(8,), layers=layers, site_names=("resid_post",)), of=of)
    axes.figure.draw_without_rendering()
    label = axes.figure.axes[-1].yaxis.label
    assert axes.figure.bbox.y0 <= label.get_window_extent().y0
    assert label.get_window_extent().y1 <= axes.figure.bbox.y1
    assert not label.get_parse_math()


def test_a_long_text_is_cut_and_the_title_says_so():
    result = result_of(lengths=(100, 50), names={1: "b.py"})
    assert heatmap(result, document=0).get_title() == "Text: 40 of 100 tokens, positions 0 to 39"
    axes = heatmap(result, document=1, start=45, max_tokens=10, of="jsd")
    np.testing.assert_array_equal(of_kind(axes, QuadMesh)[0].get_array(), result.metric("jsd")[145:150].T)
    assert flat(axes.get_title()) == "b.py: 5 of 50 tokens, positions 45 to 49"


# --- canvas and refusals


def test_a_given_canvas_is_used_and_keeps_its_style():
    before = mpl.rcParams.copy()
    _, axes = plt.subplots(1, 4, figsize=(16, 3))
    result = result_of(lengths=(5,))
    for ax, draw in zip(axes, (divergences, decisions, lambda r, ax: targets(r, position=0, ax=ax), heatmap), strict=True):
        assert draw(result, ax=ax) is ax
    higher = dataclasses.replace(result, divergence=result.divergence * 10)
    divergences(higher, ax=axes[0])
    assert axes[0].get_ylim()[1] > higher.metric("kl").mean(0).max(), "the second call widens the axis"
    assert mpl.rcParams == before


def test_targets_from_the_end():
    result = result_of()
    last = int(result.position[result.document == 1][-1])
    drawn = [targets(result, document=1, position=where) for where in (-1, last)]
    first, second = ([line.get_ydata().tolist() for line in axes.get_lines()] for axes in drawn)
    assert first == second
    assert drawn[0].get_title() == drawn[1].get_title()


@pytest.mark.parametrize(
    ("draw", "results", "options", "error", "match"),
    [
        *itertools.chain.from_iterable(
            [
                (draw, lambda: [result_of(), result_of()], {}, InputError, "labels must be 2 different names"),
                (draw, lambda: {"a": result_of()}, {"labels": ["a"]}, InputError, "leave labels out"),
                (draw, list, {}, InputError, "results is empty"),
                (draw, entropies, {}, InputTypeError, "result.* of layer_divergence; got LensEntropy"),
                (draw, result_of, {"band": "iqr"}, InputError, "band must be one of"),
                (draw, lambda: without_rows(result_of()), {}, InputError, "no position"),
            ]
            for draw in (divergences, decisions)
        ),
        (decisions, result_of, {"band": "sd"}, InputError, "band must be one of"),
        (
            divergences,
            lambda: dataclasses.replace(summary(result_of()), squares=None),
            {"band": "sd"},
            InputError,
            "written by a version that kept no squares",
        ),
        (divergences, lambda: [result_of(), result_of(model="b").to("bits")], {}, InputError, "one unit"),
        (divergences, result_of, {"metric": "reverse_kl"}, InputError, "quantities: reverse_kl not in this result; it has kl"),
        (divergences, lambda: summary(result_of()), {"metric": "rank"}, InputError, "quantities: rank not"),
        (divergences, result_of, {"sites": "mlp_out"}, InputError, "sites: mlp_out not in this result; it has embed"),
        (divergences, lambda: result_of().select(layers=2), {"log": True}, InputError, "log: there is no kl above 0"),
        (decisions, lambda: result_of(site_names="mlp_out"), {}, InputError, "tiny holds no state of the residual stream"),
        (targets, lambda: summary(result_of()), {}, InputTypeError, "got DivergenceSummary"),
        (targets, lambda: result_of(targets=(), target_rank=None, target_surprisal=None), {}, InputError, "holds no targets"),
        (targets, result_of, {}, InputError, r"document: choose one of the 2 in this result \(0, 1\)"),
        (targets, result_of, {"document": 0}, InputError, "position: choose one of the 5"),
        (targets, result_of, {"document": 1, "position": 4}, InputError, "positions: 4 not in this result; it has 0, 1, 2, 3"),
        (targets, result_of, {"document": 1, "position": -9}, InputError, "position must be an int of at least -"),
        (targets, result_of, {"document": 1, "position": slice(2)}, InputTypeError, "position must be an int"),
        (targets, result_of, {"document": 0, "position": 0, "of": "odds"}, InputError, "of must be one of"),
        (heatmap, result_of, {}, InputError, "document: choose one of the 2"),
        (heatmap, lambda: summary(result_of()), {}, InputTypeError, "got DivergenceSummary"),
        (heatmap, result_of, {"document": 0, "of": "entropy"}, InputError, "of: entropy not in this result; it has kl, jsd"),
        (heatmap, result_of, {"document": 0, "order": 1.0}, InputError, "order: divergences have none"),
        (heatmap, result_of, {"document": 0, "start": 4, "of": "rank"}, InputError, "none of the tokens shown has a value"),
        (heatmap, lambda: result_of(top_tokens=None), {"document": 0, "top_tokens": True}, InputError, "holds none"),
        (heatmap, lambda: result_of(site_names="mlp_out"), {"document": 0, "decided": True}, InputError, "residual stream"),
        (heatmap, entropies, {"of": "kl"}, InputError, "of must be one of None, 'entropy'"),
        (heatmap, entropies, {"decided": True}, InputError, "decided: entropies do not say"),
    ],
)  # fmt: skip
def test_refused(draw, results, options, error, match):
    with pytest.raises(error, match=match):
        draw(results(), **options)
    assert not plt.get_fignums(), "nothing half drawn is left behind"
