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
from matplotlib.colors import to_hex

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots import heatmap, profile
from tl_entropy.plots.cells import ink, visible
from tl_entropy.results import LensEntropy, LensSummary, Provenance
from tl_entropy.sites import expand_sites

ORIGIN = {"weights": "0", "processing": "none", "dtype": "float32", "device": "cpu", "versions": {}, "created": "then"}
STRINGS = {
    0: "def",
    1: " f",
    2: "\n        ",
    3: "$x$",
    4: "\t",
    5: "a_very_long_identifier_indeed",
    6: "\x00",
    7: " $y",
    8: "@" * 20,
}


def lens(
    *,
    site_names=("embed", "resid_post"),
    layers=3,
    orders=(1.0,),
    lengths=(5, 4),
    top=False,
    model="tiny",
    unit="nats",
    seed=0,
    **rest,
):
    draw = torch.Generator().manual_seed(seed)
    sites, rows = expand_sites(site_names, layers), sum(lengths)
    document = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return LensEntropy(
        entropy=torch.rand(rows, len(sites), len(orders), generator=draw) * 5,
        document=document,
        position=torch.cat([torch.arange(n) for n in lengths]),
        token=torch.arange(rows) % len(STRINGS),
        sites=sites,
        orders=orders,
        strings=STRINGS,
        provenance=Provenance(model=model, **ORIGIN),
        top_tokens=torch.randint(0, len(STRINGS), (rows, len(sites), 2), generator=draw) if top else None,
        unit=unit,
        **rest,
    )


def summary(result, ceiling=7.0):
    """The sums that ``result`` would have given."""
    values, document = result.entropy.double(), result.document
    sums = torch.stack([values[document == d].sum(0) for d in result.documents])
    n = torch.tensor([float((document == d).sum()) for d in result.documents])[:, None, None].double().expand_as(sums)
    moments = torch.stack([n.sum(0), sums.sum(0), (n * n).sum(0), (n * sums).sum(0), (sums * sums).sum(0)])
    return LensSummary(
        sites=result.sites,
        orders=result.orders,
        tokens=result.n_tokens,
        documents=len(result.documents),
        sums=moments,
        squares=(values**2).sum(0),
        counts=torch.zeros(*values.shape[1:], 8, dtype=torch.long),
        ceiling=ceiling,
        provenance=result.provenance,
    )


# --- profile: what is drawn


def test_the_line_is_the_mean_over_all_tokens_from_the_embedding_on():
    result = lens()
    axes = profile(result)
    (line,) = axes.get_lines()
    assert line.get_xdata().tolist() == [-1, 0, 1, 2]
    np.testing.assert_allclose(line.get_ydata(), result.entropy[:, :, 0].double().mean(0), rtol=1e-6)
    assert ticks(axes.xaxis) == ["embed", "0", "1", "2"]
    assert axes.get_xticks().tolist() == [-1, 0, 1, 2]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Layer", "Entropy (nats)")
    assert axes.get_legend() is None
    assert axes.get_ylim()[0] == 0


def test_the_band_is_1_96_standard_errors_to_either_side():
    result = lens(lengths=(5, 4, 7))
    axes = profile(result)
    (band,) = of_kind(axes, PolyCollection)
    frame = result.mean_profile()
    corners = band.get_paths()[0].vertices
    for depth, mean, se in zip((-1, 0, 1, 2), frame["mean"], frame["se"], strict=True):
        heights = corners[corners[:, 0] == depth, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [mean - 1.96 * se, mean + 1.96 * se])


def test_no_band_for_one_document_or_on_request():
    assert not of_kind(profile(lens(lengths=(5,))), PolyCollection)
    assert not of_kind(profile(lens(), band=None), PolyCollection)
    assert len(of_kind(profile(lens(orders=(1.0, 2.0))), PolyCollection)) == 2


def test_a_summary_draws_what_its_positions_would():
    result = lens(orders=(1.0, 2.0), lengths=(5, 4, 7))
    one, two = profile(result), profile(summary(result))
    for a, b in zip(one.get_lines(), two.get_lines(), strict=True):
        np.testing.assert_allclose(a.get_xydata(), b.get_xydata(), rtol=1e-6)
    for a, b in zip(of_kind(one, PolyCollection), of_kind(two, PolyCollection), strict=True):
        np.testing.assert_allclose(a.get_paths()[0].vertices, b.get_paths()[0].vertices, rtol=1e-6)


def test_units_and_orders_name_the_axis():
    assert profile(lens(unit="bits")).get_ylabel() == "Entropy (bits)"
    assert profile(lens(orders=(2.0,))).get_ylabel() == "Rényi entropy of order 2 (nats)"
    assert profile(lens(orders=(math.inf,))).get_ylabel() == "Rényi entropy of order ∞ (nats)"
    axes = profile(lens(orders=(0.5, 1.0, math.inf)))
    assert axes.get_ylabel() == "Rényi entropy (nats)"
    assert legend(axes) == ["order 0.5", "order 1", "order ∞"]
    assert profile(lens(orders=(0.5, 1.0)), orders=1).get_ylabel() == "Entropy (nats)"


def test_bits_are_nats_over_log_2():
    result = summary(lens())
    nats, bits = (profile(r, ceiling=True).get_lines() for r in (result, result.to("bits")))
    for a, b in zip(nats, bits, strict=True):
        np.testing.assert_allclose(np.asarray(a.get_ydata()) / math.log(2), b.get_ydata())
    assert list(nats[-1].get_ydata()) == [7.0, 7.0]


def test_sites_inside_a_block_stand_between_its_ends():
    names = ("embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    axes = profile(lens(site_names=names, layers=2))
    depths = {line.get_label(): line.get_xdata().tolist() for line in axes.get_lines()}
    assert depths == {
        "resid_post": [-1, 0, 1],
        "resid_pre": [-1, 0],
        "attn_out": [-0.75, 0.25],
        "resid_mid": [-0.5, 0.5],
        "mlp_out": [-0.25, 0.75],
    }


@pytest.mark.parametrize(
    ("names", "chosen", "expected"),
    [
        (("embed", "resid_mid"), None, {"resid_mid": [-1, -0.5, 0.5]}),
        (("embed", "attn_out"), None, {"embed": [-1], "attn_out": [-0.75, 0.25]}),
        (("embed", "resid_mid", "resid_post"), "resid_post", {"resid_post": [0, 1]}),
        (("embed", "resid_mid", "resid_post"), ["embed", "resid_mid"], {"resid_mid": [-1, -0.5, 0.5]}),
    ],
)
def test_the_embedding_begins_the_residual_stream_and_nothing_else(names, chosen, expected):
    axes = profile(lens(site_names=names, layers=2, lengths=(5,)), sites=chosen)
    labels = legend(axes) if axes.get_legend() else list(expected)
    assert dict(zip(labels, (line.get_xdata().tolist() for line in axes.get_lines()), strict=True)) == expected


@pytest.mark.parametrize("layers", [12, 13, 26, 80])
def test_ticks_of_deep_models_stay_apart(layers):
    axes = profile(lens(layers=layers))
    shown = axes.get_xticks()
    assert len(shown) <= 13
    assert np.diff(shown).min() >= layers // 13
    assert ticks(axes.xaxis) == ["embed", *(f"{x:g}" for x in shown[1:])]


def test_layers_without_the_embedding_have_their_own_numbers():
    axes = profile(lens(layers=6).select(layers=[3, 4, 5]))
    assert ticks(axes.xaxis) == ["3", "4", "5"]
    assert axes.get_lines()[0].get_xdata().tolist() == [3, 4, 5]


def test_several_results_by_name_by_label_and_by_model():
    a, b = lens(model="one"), lens(model="two", seed=1)
    assert legend(profile([a, b])) == ["one", "two"]
    assert legend(profile([a, a], labels=["x", "y"])) == ["x", "y"]
    axes = profile({"left": a, "right": summary(b)})
    assert legend(axes) == ["left", "right"]
    for line, result in zip(axes.get_lines(), (a, b), strict=True):
        np.testing.assert_allclose(line.get_ydata(), result.entropy[:, :, 0].double().mean(0), rtol=1e-6)


def test_lines_differ_in_more_than_colour():
    look = [
        (to_hex(x.get_color()), x.get_linestyle(), x.get_marker())
        for x in profile(lens(orders=(0.5, 1.0, 2.0, 5.0))).get_lines()
    ]
    assert all(len(set(kind)) == 4 for kind in zip(*look, strict=True))
    lightness = [np.mean(mpl.colors.to_rgb(colour)) for colour, *_ in look]
    assert lightness == sorted(lightness)  # orders stay apart, and in order, in a grey print
    result = lens(site_names=("resid_mid", "resid_post"), orders=(1.0, 2.0))
    axes = profile({"a": result, "b": result})
    look = [(to_hex(x.get_color()), x.get_linestyle(), x.get_marker()) for x in axes.get_lines()]
    assert len(set(look)) == 8
    assert "b, resid_mid, order 2" in legend(axes)


def test_traces_are_evenly_chosen_tokens():
    result = lens(site_names=("embed", "attn_out", "resid_post"), lengths=(5, 4))
    axes = profile(result, traces=3, sites=("embed", "resid_post"))
    (traces,) = of_kind(axes, LineCollection)
    columns = [i for i, site in enumerate(result.sites) if site.name != "attn_out"]
    for row, segment in zip((0, 4, 8), traces.get_segments(), strict=True):
        assert segment[:, 0].tolist() == [-1, 0, 1, 2]
        np.testing.assert_allclose(segment[:, 1], result.entropy[row, columns, 0])
        assert segment[:, 1].max() <= axes.get_ylim()[1]
    (few,) = of_kind(profile(result, traces=99, sites="resid_post"), LineCollection)
    assert len(few.get_segments()) == 9
    (own,) = of_kind(profile(result, traces=99, sites="resid_post", document=1), LineCollection)
    assert len(own.get_segments()) == 4


def test_a_given_canvas_is_used_and_keeps_its_style():
    before = mpl.rcParams.copy()
    _, ax = plt.subplots()
    assert profile(lens(), ax=ax) is ax
    higher = dataclasses.replace(lens(), entropy=lens().entropy * 10)
    assert profile(higher, ax=ax) is ax
    assert ax.get_ylim()[1] > higher.entropy.mean(0).max()  # the second call widens the axis
    own = profile(lens())
    assert own.figure is not ax.figure
    assert own.yaxis.label.get_size() == 11
    assert mpl.rcParams == before


# --- profile: what is refused


@pytest.mark.parametrize(
    ("results", "options", "error", "match"),
    [
        (lambda: [lens(), lens(unit="bits", model="b")], {}, InputError, "one unit"),
        (lambda: [lens(), lens()], {}, InputError, "labels must be 2 different names"),
        (lambda: [lens(), lens()], {"labels": ["a"]}, InputError, "labels must be 2"),
        (lambda: {"a": lens()}, {"labels": ["a"]}, InputError, "leave labels out"),
        (list, {}, InputError, "results is empty"),
        (dict, {}, InputError, "results is empty"),
        (lambda: torch.zeros(3), {}, InputTypeError, "got Tensor"),
        (lambda: [lens(), 3], {}, InputTypeError, "got int"),
        (lens, {"orders": 3}, InputError, "orders must be one of 1.0; got 3"),
        (lens, {"sites": "mlp_out"}, InputError, "sites: mlp_out not in this result; it has embed, resid_post"),
        (lens, {"sites": []}, InputError, "sites is empty"),
        (lens, {"band": "iqr"}, InputError, "band must be one of"),
        (lens, {"traces": -1}, InputError, "traces must be an int"),
        (lens, {"traces": True}, InputTypeError, "traces must be an int"),
        (lens, {"document": 0}, InputError, "traces="),
        (lens, {"document": 7, "traces": 2}, InputError, "documents: 7 not in this result"),
        (lens, {"ceiling": True}, InputError, "keep='summary'"),
        (lambda: summary(lens()), {"traces": 2}, InputError, "keep='positions'"),
        (lambda: without_rows(lens()), {}, InputError, "no position"),
    ],
)
def test_profile_refuses(results, options, error, match):
    with pytest.raises(error, match=match):
        profile(results(), **options)
    assert not plt.get_fignums()  # nothing half drawn is left behind


# --- heatmap: what is drawn


def test_the_map_is_token_by_layer_with_the_output_on_top():
    result = lens()
    axes = heatmap(result, document=1)
    (mesh,) = of_kind(axes, QuadMesh)
    np.testing.assert_array_equal(mesh.get_array(), result.entropy[result.document == 1, :, 0].T)
    assert ticks(axes.yaxis) == ["embed", "0", "1", "2"]
    assert axes.get_yticks().tolist() == [0.5, 1.5, 2.5, 3.5]
    bottom, top = axes.get_ylim()
    assert bottom < top
    assert mesh.get_clim() == (0, pytest.approx(float(result.entropy[result.document == 1].max())))
    assert ticks(axes.xaxis) == ["a_very_long_ide…", "\\x00", "␣$y", "@" * 15 + "…"]
    assert axes.get_title() == ""
    assert axes.figure.axes[-1].get_ylabel() == "Entropy (nats)"
    assert not axes.texts
    assert not any(label.get_parse_math() for label in axes.get_xticklabels())


def test_the_colour_bar_says_order_and_unit():
    axes = heatmap(lens(orders=(1.0, 2.0), unit="bits", lengths=(3,)), order=2)
    assert flat(axes.figure.axes[-1].get_ylabel()) == "Rényi entropy of order 2 (bits)"


def test_top_tokens_stand_in_their_cells_in_legible_ink():
    result = lens(top=True, lengths=(6,))
    axes = heatmap(result, top_tokens=True)
    (mesh,) = of_kind(axes, QuadMesh)
    colours = mesh.cmap(mesh.norm(mesh.get_array()))
    assert len(axes.texts) == 6 * 4
    for text in axes.texts:
        x, y = text.get_position()
        row, site = int(x), int(y)
        assert text.get_text() == visible(STRINGS[int(result.top_tokens[row, site, 0])], 9)
        assert text.get_color() == ink(colours[site, row])
        assert not text.get_parse_math()  # "$x$" is a token, not mathematics
    assert "most probable next token" in axes.get_xlabel()


@pytest.mark.parametrize(("lengths", "layers"), [((4,), 3), ((24,), 7)])
def test_text_stays_inside_its_cell(lengths, layers):
    axes = heatmap(lens(top=True, lengths=lengths, layers=layers), top_tokens=True)
    figure = axes.figure
    figure.draw_without_rendering()
    wide, high = (axes.transData.transform((1, 1)) - axes.transData.transform((0, 0))).tolist()
    for text in axes.texts:
        box = text.get_window_extent()
        assert box.width <= wide * 1.02
        assert box.height <= high * 1.02
        assert text.get_fontsize() >= 5.5


@pytest.mark.parametrize(("layers", "sites"), [(6, ("embed", "resid_post")), (80, ("resid_post",))])
def test_labels_do_not_overlap_nor_leave_the_figure(layers, sites):
    axes = heatmap(lens(lengths=(40,), layers=layers, site_names=sites))
    axes.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))
    assert min(box.y0 for box in boxes) >= 0
    rows = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(a.y1 <= b.y0 for a, b in itertools.pairwise(rows))


def test_a_long_text_is_cut_and_the_title_says_so():
    result = lens(lengths=(100, 50), site_names=("resid_post",), names={1: "b.py"})
    axes = heatmap(result, document=0)
    assert len(ticks(axes.xaxis)) == 40
    assert axes.get_title() == "Text: 40 of 100 tokens, positions 0 to 39"
    axes = heatmap(result, document=1, start=45, max_tokens=10)
    (mesh,) = of_kind(axes, QuadMesh)
    np.testing.assert_array_equal(mesh.get_array(), result.entropy[145:150, :, 0].T)
    assert flat(axes.get_title()) == "b.py: 5 of 50 tokens, positions 45 to 49"
    assert heatmap(result, document=1, max_tokens=50).get_title() == "b.py"


def test_sites_with_several_names_are_spelled_out():
    axes = heatmap(lens(site_names=("embed", "attn_out", "resid_post"), layers=2, lengths=(3,)))
    assert ticks(axes.yaxis) == ["embed", "attn_out.0", "resid_post.0", "attn_out.1", "resid_post.1"]
    assert ticks(heatmap(lens(site_names=("attn_out", "embed"), lengths=(3,)), sites="attn_out").yaxis) == ["0", "1", "2"]


def test_the_map_of_a_deep_model_labels_every_kth_layer():
    axes = heatmap(lens(site_names=("resid_post",), layers=80, lengths=(3,)))
    step = int(ticks(axes.yaxis)[1])
    assert step > 1
    assert ticks(axes.yaxis) == [str(layer) for layer in range(0, 80, step)]
    assert axes.get_yticks().tolist() == [layer + 0.5 for layer in range(0, 80, step)]


def test_a_given_canvas_holds_the_map_and_its_colour_bar():
    figure, axes = plt.subplots(1, 2, figsize=(10, 3))
    assert heatmap(lens(top=True, lengths=(5,)), top_tokens=True, ax=axes[1]) is axes[1]
    assert len(figure.axes) == 3
    assert not axes[0].has_data()
    part = plt.figure(figsize=(10, 3), layout="constrained").subfigures(1, 2)[1].subplots()
    assert heatmap(lens(top=True, lengths=(5,)), top_tokens=True, ax=part) is part


def test_a_certain_model_is_drawn_all_the_same():
    certain = dataclasses.replace(lens(lengths=(3,)), entropy=torch.zeros(3, 4, 1))
    (mesh,) = of_kind(heatmap(certain), QuadMesh)
    assert float(mesh.get_array().max()) == 0


# --- heatmap: what is refused


@pytest.mark.parametrize(
    ("result", "options", "error", "match"),
    [
        (lens, {}, InputError, r"document: choose one of the 2 in this result \(0, 1\)"),
        (lambda: lens(lengths=(1,) * 30), {}, InputError, r"the 30 in this result \(0, .*19, ...\)"),
        (lens, {"document": 2}, InputError, "documents: 2 not in this result; it has 0, 1"),
        (lambda: lens(orders=(1.0, 2.0)), {"document": 0}, InputError, r"order: choose one of the 2 .*1.0, 2.0"),
        (lens, {"document": 0, "order": 3}, InputError, "orders: 3 not in this result"),
        (lens, {"document": 0, "sites": "z"}, InputError, "sites: z not in this result"),
        (lens, {"document": 0, "top_tokens": True}, InputError, "top_k=1"),
        (lens, {"document": 0, "start": 5}, InputError, "start=5 lies behind .* 4"),
        (lens, {"document": 0, "start": -1}, InputError, "start must be an int"),
        (lens, {"document": 0, "max_tokens": 0}, InputError, "max_tokens must be an int"),
        (lambda: summary(lens()), {}, InputTypeError, "got LensSummary"),
        (lambda: None, {}, InputTypeError, "got NoneType"),
        (lambda: without_rows(lens()), {}, InputError, "document: choose one of the 0"),
    ],
)
def test_heatmap_refuses(result, options, error, match):
    with pytest.raises(error, match=match):
        heatmap(result(), **options)
    assert not plt.get_fignums()


# --- tokens as text


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "␣the"),
        ("\n", "↵"),
        ("\r\n", "↵"),
        ("\n   ", "↵␣␣␣"),
        ("\n    ", "↵␣×4"),
        ("\t\tx", "→→x"),
        ("\r", "\\r"),
        ("\x1b", "\\x1b"),
        ("é", "é"),
        ("", ""),
        ("abcdefghij", "abcdefghij"),
        ("abcdefghijk", "abcdefghi…"),
    ],
)
def test_tokens_are_one_visible_line(token, shown):
    assert visible(token, 10) == shown


def test_the_marks_have_glyphs_in_the_default_font():
    font = mpl.font_manager.get_font(mpl.font_manager.findfont("DejaVu Sans"))
    assert all(font.get_char_index(ord(mark)) for mark in "↵→␣×…∞")


@pytest.mark.parametrize("colour", [(0, 0, 0), (1, 1, 1), (0.267, 0.005, 0.329), (0.993, 0.906, 0.144), (0.128, 0.567, 0.551)])
def test_ink_has_the_higher_contrast(colour):
    def luminance(rgb):
        return sum(
            w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
            for w, c in zip((0.2126, 0.7152, 0.0722), rgb, strict=True)
        )

    def contrast(rgb):
        high, low = sorted((luminance(colour), luminance(rgb)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    assert ink(colour) == ("black" if contrast((0, 0, 0)) > contrast((1, 1, 1)) else "white")
