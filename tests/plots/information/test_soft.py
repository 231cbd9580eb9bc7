import dataclasses
import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from drawn import legend, of_kind, ticks
from matplotlib.collections import LineCollection, PathCollection, PolyCollection, QuadMesh

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots import heads, heatmap, information, information_plane
from tl_entropy.plots.cells import ink
from tl_entropy.results import Provenance, SoftInformation
from tl_entropy.results.information.soft import QUANTITIES
from tl_entropy.sites import HEAD_SITES, expand_sites

ORIGIN = {"weights": "0", "processing": "none", "dtype": "float32", "device": "cpu", "versions": {}, "created": "then"}
SIDES = {"token": "input", "bigram": "input", "next_token": "output", "next_bigram": "output", "language": "other"}
RARE = "labels too rare"


def soft(
    *,
    site_names=("embed", "resid_post"),
    layers=3,
    labels=("token", "next_token"),
    draws=((20, 0), (30, 1)),
    folds=4,
    n_heads=2,
    rare=(),
    own=False,
    model="tiny",
    unit="nats",
    seed=0,
):
    """A result whose values are random; ``rare`` label sets have no information, ``own`` positions no common H(Z)."""
    rng = torch.Generator().manual_seed(seed)
    places = [(s, h) for s in expand_sites(site_names, layers) for h in (range(n_heads) if s.name in HEAD_SITES else [-1])]
    shape = (1 + folds if folds > 1 else 1, len(places), len(labels), len(draws))

    def near(low, high, share=0.02):
        whole = low + (high - low) * torch.rand(1, *shape[1:], generator=rng, dtype=torch.float64)
        return whole * (1 + share * torch.rand(shape, generator=rng, dtype=torch.float64))

    entropy, ceiling = (x if own else x[:, :, :1].expand(shape).clone() for x in (near(2.5, 2.9), near(1.5, 2.0)))
    null = 0.3 * near(0.8, 1.0)
    null[:, :, [labels.index(label) for label in rare]] = ceiling[:, :, [labels.index(label) for label in rare]]
    counts = torch.arange(1.0, folds + 1, dtype=torch.float64)[:, None].expand(folds, len(labels)).contiguous()
    return SoftInformation(
        sites=tuple(s for s, _ in places),
        heads=tuple(h for _, h in places),
        labels=tuple(labels),
        sides=tuple(SIDES[label] for label in labels),
        n_bins=tuple(bins for bins, _ in draws),
        seeds=tuple(s for _, s in draws),
        entropy=entropy,
        plug_in=null + near(0.2, 0.9),
        null=null,
        ceiling=ceiling,
        temperatures=torch.full((len(places), len(draws)), 0.1, dtype=torch.float64),
        fold_tokens=counts,
        tokens=torch.full((len(labels),), int(counts[:, 0].sum())),
        coverage=torch.ones(len(labels), dtype=torch.float64),
        classes=torch.full((len(labels),), 5),
        singletons=torch.zeros(len(labels), dtype=torch.float64),
        documents=folds,
        provenance=Provenance(model=model, **ORIGIN),
        unit=unit,
    )


def cross_fitted(result):
    """The same with what later versions measure: anchors, and the information that is not made of the other values."""
    rng = torch.Generator().manual_seed(1)

    def with_anchors(value):
        return torch.cat([value, value[:1] * (1 + 0.02 * torch.rand(3, *value.shape[1:], generator=rng, dtype=torch.float64))])

    columns = {name: with_anchors(getattr(result, name)) for name in ("entropy", "plug_in", "null", "ceiling")}
    information = with_anchors(result.plug_in - 0.1)
    return dataclasses.replace(
        result, **columns, information=information, corrected_ceiling=1.1 * result.ceiling[0], lower=0.7 * information[0],
        fold_jackknife=1.01 * information[0], in_two_folds=torch.ones(len(result.labels), dtype=torch.float64),
        provenance=dataclasses.replace(result.provenance, settings={"estimator": "cross_fitted"}),
    )  # fmt: skip


def changed(result, label, draw_value, places=slice(None)):
    """``result`` with the plug-in value of one label set replaced, at all folds."""
    plug_in = result.plug_in.clone()
    plug_in[:, places, result.labels.index(label)] = draw_value
    return dataclasses.replace(result, plug_in=plug_in)


def whole(result, of, label):
    """Mean over draws, by place: computed one by one from the table."""
    frame = result.to_pandas()
    frame = frame[frame["label"] == label]
    return frame.groupby(["layer", "head"], sort=True)[of].mean().to_numpy()


def named_lines(axes):
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


# --- information: what is drawn


@pytest.mark.parametrize("of", QUANTITIES)
def test_a_line_is_the_mean_over_draws_by_depth(of):
    result = cross_fitted(soft())
    axes = information(result, of=of)
    lines = axes.get_lines()
    assert len(lines) == (1 if of in ("entropy", "efficiency", "ceiling", "corrected_ceiling") else 2)
    for line, label in zip(lines, result.labels, strict=False):
        assert line.get_xdata().tolist() == [-1, 0, 1, 2]
        np.testing.assert_allclose(line.get_ydata(), whole(result, of, label))
    assert axes.get_xlabel() == "Layer"
    assert ticks(axes.xaxis) == ["embed", "0", "1", "2"]
    lowest, highest = axes.dataLim.intervaly
    assert axes.get_ylim()[0] == 0 if lowest <= 2 / 3 * highest else 0 < axes.get_ylim()[0] < lowest


@pytest.mark.thinned
@pytest.mark.parametrize(
    ("of", "name"),
    [
        ("information", "I(X;Z) (nats)"),
        ("share", "I(X;Z) / ceiling"),
        ("entropy", "H(Z) (nats)"),
        ("plug_in", "Plug-in I(X;Z) (nats)"),
        ("null", "Plug-in I(X;Z) of shuffled labels (nats)"),
        ("ceiling", "Ceiling of plug-in I(X;Z) (nats)"),
        ("regularity", "Plug-in I(X;Z) / H(Z)"),
        ("corrected_ceiling", "Ceiling of I(X;Z) (nats)"),
        ("lower", "Lower bound of I(X;Z) (nats)"),
        ("fold_jackknife", "Fold jackknife of I(X;Z) (nats)"),
        ("chance_adjusted", "Chance-adjusted I(X;Z) (nats)"),
    ],
)
def test_the_axis_names_the_quantity_and_its_unit(of, name):
    assert information(cross_fitted(soft()), of=of).get_ylabel() == name
    assert information(cross_fitted(soft()).to("bits"), of=of).get_ylabel() == name.replace("nats", "bits")


def test_bands_hold_documents_and_anchors():
    result = cross_fitted(soft(draws=((20, 0), (30, 0))))
    [band, *_] = of_kind(information(result), PolyCollection)
    mean = result.values().mean(-1)[:, :, 0]
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(
        (mean[0] + 1.96 * (mean[1:] - mean[0]).norm(dim=0)).max().item()
    )
    plain = result.values()[:5].mean(-1)[:, :, 0]
    assert (mean[1:] - mean[0]).norm(dim=0).max() > (plain[1:] - plain[0]).norm(dim=0).max()


def test_a_ceiling_is_that_of_what_is_drawn():
    result = cross_fitted(soft(labels=("token",)))
    for of, expected in (("information", "corrected_ceiling"), ("plug_in", "ceiling"), ("chance_adjusted", "ceiling")):
        line = named_lines(information(result, of=of, ceiling=True))["ceiling"]
        np.testing.assert_allclose(line.get_ydata(), whole(result, expected, "token"))


@pytest.mark.parametrize("of", ["information", "share"])
def test_values_that_are_no_finding_have_a_ring(of):
    result = cross_fitted(soft())
    plain = information(result, of=of)
    assert "unsure" not in legend(plain)
    open_part = result.fold_jackknife.clone()
    open_part[[0, 2], 1] *= 2.5  # what few positions a label leave open is more than there is
    doubtful = dataclasses.replace(result, fold_jackknife=open_part)
    axes = information(doubtful, of=of)
    assert legend(axes) == [*legend(plain), "unsure"]
    ring, line = named_lines(axes)["unsure"], named_lines(axes)["next_token"]
    assert ring.get_xdata().tolist() == line.get_xdata()[[0, 2]].tolist()
    assert ring.get_ydata().tolist() == line.get_ydata()[[0, 2]].tolist()
    assert tuple(ring.get_color()) == tuple(line.get_color())
    assert ["unsure" in row for row in repr(doubtful).splitlines()[2:6]] == [True, False, True, False]
    assert "unsure" not in legend(information(doubtful, of="plug_in"))


def test_the_only_label_set_stands_on_the_axis():
    axes = information(soft(), labels="token", of="plug_in", null=True)
    assert axes.get_ylabel() == "Plug-in I(token;Z) (nats)"
    assert legend(axes) == ["Plug-in I(token;Z)", "chance level"]
    assert information(soft(), labels="token").get_legend() is None
    assert information(soft(), of="entropy").get_ylabel() == "H(Z) (nats)"  # no label set is drawn, only what all share


def test_a_selected_draw_is_drawn_alone():
    result = soft()
    one = information(result.select(seeds=1), labels="token").get_lines()[0].get_ydata()
    np.testing.assert_allclose(one, result.value()[:, 0, 1])
    assert not np.allclose(one, information(result, labels="token").get_lines()[0].get_ydata())


def test_the_band_is_1_96_standard_errors_of_the_mean_over_draws():
    result = soft()
    axes = information(result, labels="next_token")
    (band,) = of_kind(axes, PolyCollection)
    means = result.values().mean(-1, keepdim=True)
    errors = result.error_of(means)[:, 1, 0]
    assert not np.allclose(errors, result.error()[:, 1].mean(-1))  # draws are correlated: errors are not simply averaged
    corners = band.get_paths()[0].vertices
    for depth, mean, se in zip((-1, 0, 1, 2), means[0, :, 1, 0], errors, strict=True):
        heights = corners[corners[:, 0] == depth, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [mean - 1.96 * se, mean + 1.96 * se])
    assert not of_kind(information(result, band=None), PolyCollection)
    assert not of_kind(information(soft(folds=1)), PolyCollection)


def test_bits_are_nats_over_log_2():
    nats, bits = (information(r, ceiling=True).get_lines() for r in (soft(), soft().to("bits")))
    for a, b in zip(nats, bits, strict=True):
        np.testing.assert_allclose(np.asarray(a.get_ydata()) / np.log(2), b.get_ydata())


def test_label_sets_share_one_entropy_only_where_they_share_positions():
    assert information(soft(), of="entropy").get_legend() is None
    axes = information(soft(own=True), of="entropy")
    assert legend(axes) == ["token", "next_token"]
    for line, label in zip(axes.get_lines(), ("token", "next_token"), strict=True):
        np.testing.assert_allclose(line.get_ydata(), whole(soft(own=True), "entropy", label))
    assert legend(information({"a": soft(), "b": soft(own=True)}, of="ceiling"))[0] == "a, token"


def test_sites_results_and_label_sets_make_lines():
    result = soft(site_names=("embed", "attn_out", "resid_mid", "resid_post"))
    axes = information({"old": result, "new": soft(seed=1)}, labels="token", sites=None)
    assert legend(axes) == ["old, resid_post", "old, attn_out", "old, resid_mid", "new, resid_post"]
    depths = {name: line.get_xdata().tolist() for name, line in named_lines(axes).items()}
    assert depths["old, attn_out"] == [-0.75, 0.25, 1.25]
    assert depths["old, resid_mid"] == [-0.5, 0.5, 1.5]
    assert depths["new, resid_post"] == [-1, 0, 1, 2]
    look = [(tuple(x.get_color()), x.get_linestyle(), x.get_marker()) for x in axes.get_lines()]
    assert len(set(look)) == 4
    assert legend(information([soft(model="a"), soft(model="b")], of="efficiency")) == ["a", "b"]


def test_heads_are_left_to_their_own_map():
    axes = information(soft(site_names=("embed", "z", "resid_post")), labels="token")
    (line,) = axes.get_lines()
    assert line.get_xdata().tolist() == [-1, 0, 1, 2]


def test_one_ceiling_for_label_sets_that_share_it():
    result = soft()
    axes = information(result, ceiling=True)
    assert legend(axes) == ["token", "next_token", "ceiling"]
    np.testing.assert_allclose(named_lines(axes)["ceiling"].get_ydata(), whole(result, "ceiling", "token"))
    assert len(axes.get_lines()) == 3
    axes = information(soft(own=True), ceiling=True)
    assert len(axes.get_lines()) == 4
    np.testing.assert_allclose(axes.get_lines()[3].get_ydata(), whole(soft(own=True), "ceiling", "next_token"))
    share = named_lines(information(result, of="share", ceiling=True))["ceiling"]
    assert share.get_ydata().tolist() == [1, 1, 1, 1]


def test_a_chance_level_for_each_label_set():
    result = soft()
    axes = information(result, of="plug_in", null=True, ceiling=True)
    assert legend(axes) == ["token", "next_token", "ceiling", "chance level"]
    dotted = axes.get_lines()[3:]
    for line, label in zip(dotted, result.labels, strict=True):
        np.testing.assert_allclose(line.get_ydata(), whole(result, "null", label))


def test_many_entries_stand_above_the_lines():
    axes = information(soft(labels=("token", "bigram", "next_token", "next_bigram")), of="plug_in", null=True, ceiling=True)
    axes.figure.draw_without_rendering()
    assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1
    assert axes.get_legend().get_window_extent().y1 <= axes.figure.bbox.y1


def test_gaps_where_there_is_no_value_and_a_reason_where_there_is_none_at_all():
    result = soft(rare=("token",))
    axes = information(result)
    assert legend(axes) == [f"token (nan: {RARE})", "next_token"]
    one_gap = dataclasses.replace(soft(), null=soft().null.clone())
    one_gap.null[:, 1, 0] = one_gap.ceiling[:, 1, 0]
    axes = information(one_gap)
    assert legend(axes) == ["token", "next_token"]
    assert np.isnan(axes.get_lines()[0].get_ydata()).tolist() == [False, True, False, False]


def test_values_below_chance_are_drawn_below_0():
    result = soft(labels=("token",))
    below = changed(result, "token", result.null[:, 1, 0] - 0.1, places=1)
    axes = information(below)
    assert axes.get_ylim()[0] < axes.get_lines()[0].get_ydata().min() < 0
    assert axes.get_lines()[-1].get_ydata() == [0, 0]  # 0 is marked where the axis does not begin there


def test_given_axes_are_used_and_nothing_is_set_globally():
    before = mpl.rcParams.copy()
    _, ax = plt.subplots()
    assert information(soft(), ax=ax) is ax
    assert information_plane(soft(), ax=ax) is ax
    _, ax = plt.subplots()
    assert heads(soft(site_names=("z",)), label="token", ax=ax) is ax
    assert information(soft()).yaxis.label.get_size() == 11
    assert mpl.rcParams == before


@pytest.mark.parametrize(
    ("results", "options", "error", "match"),
    [
        (soft, {"of": "entropies"}, InputError, "of must be one of 'information', 'share'"),
        (soft, {"band": "sd"}, InputError, "band must be one of"),
        (soft, {"labels": "bigram"}, InputError, "labels must be one of 'token', 'next_token'; got 'bigram'"),
        (soft, {"sites": "attn_out"}, InputError, "sites: attn_out not in this result; it has embed, resid_post"),
        (soft, {"sites": []}, InputError, "sites is empty"),
        (soft, {"of": "entropy", "ceiling": True}, InputError, "ceiling: bounds information"),
        (soft, {"null": True}, InputError, "draw it with of='plug_in'"),
        (lambda: soft(site_names=("z", "embed")), {"sites": "z"}, InputError, "sites: z not in this result; it has embed"),
        (lambda: soft(site_names=("z",)), {}, InputError, r"tiny holds nothing but heads; draw them with plots.heads"),
        (lambda: [soft(), soft()], {}, InputError, r"a mapping, whose keys must be 2 different names.*\['tiny', 'tiny'\]"),
        (lambda: {"a": soft(), "b": soft().to("bits")}, {}, InputError, "one unit"),
        (lambda: soft(rare=("token", "next_token")), {}, InputError, f"no value to draw; {RARE}"),
        (dict, {}, InputError, "results is empty"),
        (lambda: torch.zeros(3), {}, InputTypeError, "soft_information; got Tensor"),
    ],
)
def test_information_refuses(results, options, error, match):
    with pytest.raises(error, match=match):
        information(results(), **options)
    assert not plt.get_fignums()


def test_shares_of_results_in_two_units_go_together():
    axes = information({"a": soft(), "b": soft().to("bits")}, of="share", labels="token")
    a, b = (line.get_ydata() for line in axes.get_lines())
    np.testing.assert_allclose(a, b)


# --- information_plane


def points(axes):
    return [np.asarray(found.get_offsets()) for found in of_kind(axes, PathCollection)]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_a_path_joins_the_layers_of_a_result():
    result = soft(labels=("token", "next_token"))
    axes = information_plane(result, sites=("embed", "resid_post"))
    (at,) = points(axes)
    means = result.value().mean(-1)
    np.testing.assert_allclose(at, means)
    np.testing.assert_allclose(np.asarray(axes.get_lines()[0].get_xydata()), means)
    assert axes.get_xlabel() == "Complexity I(token;Z) (nats)"
    assert axes.get_ylabel() == "Expressivity I(next_token;Z) (nats)"
    shades = of_kind(axes, PathCollection)[0].get_facecolors()
    lightness = shades[:, :3].mean(1).tolist()
    assert lightness == sorted(lightness)
    assert len(set(lightness)) == 4
    assert {"embed", "layer 2", "optimality 1"} <= set(texts(axes))
    assert len(axes.figure.axes) == 1


def test_the_residual_stream_is_drawn_and_others_on_request():
    result = soft(site_names=("embed", "attn_out", "resid_post"))
    assert [len(at) for at in points(information_plane(result))] == [3]
    axes = information_plane(result, sites=None)
    assert legend(axes) == ["resid_post", "attn_out"]
    assert [len(at) for at in points(axes)] == [4, 3]
    assert axes.figure.axes[-1].get_ylabel() == "Layer"
    assert "embed" in texts(axes)
    assert texts(axes).count("layer 0") == 1  # that of attn_out, which is named by its block


def test_error_bars_are_1_96_standard_errors_both_ways():
    result = soft()
    axes = information_plane(result)
    across, up = (np.array(bars.get_segments()) for bars in of_kind(axes, LineCollection))
    errors = result.error_of(result.values().mean(-1, keepdim=True))[1:, :, 0]  # all but embed
    np.testing.assert_allclose(np.ptp(across[:, :, 0], axis=1), 2 * 1.96 * errors[:, 0])
    np.testing.assert_allclose(np.ptp(up[:, :, 1], axis=1), 2 * 1.96 * errors[:, 1])
    np.testing.assert_allclose(across.mean(1), points(axes)[0])
    assert not of_kind(information_plane(result, errors=False), LineCollection)
    assert not of_kind(information_plane(soft(folds=1)), LineCollection)


def bounds(axes):
    """The ceilings (x, y): lines across all of the axes."""
    lines = [line for line in axes.get_lines() if np.asarray(line.get_linestyle() == "--").any()]
    return [line.get_xydata() for line in lines]


@pytest.mark.parametrize("of", ["information", "share", "plug_in"])
def test_the_bounds_are_the_diagonal_and_the_largest_ceilings(of):
    result = soft(own=True)
    axes = information_plane(result, of=of)
    (diagonal,) = (line for line in axes.get_lines() if isinstance(line, mpl.lines.AxLine))
    assert (diagonal.get_xy1(), diagonal.get_slope()) == ((0, 0), 1)
    x, y = [1, 1] if of == "share" else result.value("ceiling").mean(-1)[1:].max(0).values.tolist()
    upright, level = (np.asarray(line) for line in bounds(axes)[-2:])
    np.testing.assert_allclose(upright, [[x, 0], [x, 1]])
    np.testing.assert_allclose(level, [[0, y], [1, y]])
    axes.figure.draw_without_rendering()
    assert axes.get_xlim()[0] == axes.get_ylim()[0] == 0


def test_a_far_ceiling_does_not_squeeze_the_points():
    result = soft()
    far = dataclasses.replace(result, ceiling=result.ceiling * 20)
    axes = information_plane(far)
    axes.figure.draw_without_rendering()
    assert axes.get_xlim()[1] < 1.3 * points(axes)[0][:, 0].max()
    near = dataclasses.replace(result, ceiling=result.plug_in * 1.1)
    axes = information_plane(near, of="plug_in")
    axes.figure.draw_without_rendering()
    assert axes.get_xlim()[1] >= near.value("ceiling").mean(-1)[1:, 0].max()


def test_several_results_are_paths_of_their_own():
    results = {"early": soft(seed=1), "late": soft(seed=2)}
    axes = information_plane(results)
    assert legend(axes) == ["early", "late"]
    for at, result in zip(points(axes), results.values(), strict=True):
        np.testing.assert_allclose(at, result.value().mean(-1)[1:])
    early, late = axes.get_lines()[:2]
    assert early.get_linestyle() != late.get_linestyle()
    assert early.get_marker() != late.get_marker()


@pytest.mark.parametrize("count", [2, 3, 6])
def test_paths_through_results_have_one_line_for_each_layer(count):
    results = {f"step {i}": soft(seed=i) for i in range(count)}
    axes = information_plane(results, path="results")
    lines = [line for line in axes.get_lines() if line.get_linestyle() == "-" and not isinstance(line, mpl.lines.AxLine)]
    values = torch.stack([result.value().mean(-1) for result in results.values()])
    assert len(lines) == 3
    for place, line in enumerate(lines, start=1):
        np.testing.assert_allclose(np.asarray(line.get_xydata()), values[:, place])
    between = {2: [], 3: ["step 1"], 6: ["4 between"]}[count]
    assert legend(axes) == ["step 0", *between, f"step {count - 1}"]
    hollow = [line for line in axes.get_lines() if isinstance(line.get_markerfacecolor(), str) and line.get_marker() == "o"]
    assert len(hollow) == 3
    for place, line in enumerate(hollow, start=1):
        np.testing.assert_allclose(np.asarray(line.get_xydata()), values[[0], place])
    ends = {text.get_text(): text.xy for text in axes.texts if text.get_text().startswith("layer")}
    assert set(ends) == {"layer 0", "layer 2"}
    np.testing.assert_allclose([ends["layer 0"], ends["layer 2"]], values[-1, [1, 3]])
    bar = axes.figure.axes[-1]
    assert (bar.get_ylabel(), ticks(bar.yaxis)) == ("Layer", ["0", "1", "2"])


def test_paths_of_several_sites_through_results_differ_in_dash():
    results = {f"step {i}": soft(site_names=("attn_out", "resid_post"), seed=i) for i in range(2)}
    assert legend(information_plane(results, path="results", sites=None)) == ["attn_out", "resid_post", "step 0", "step 1"]


def test_points_without_a_value_are_skipped():
    result = soft()
    null = result.null.clone()
    null[:, 2, 0] = result.ceiling[:, 2, 0]
    axes = information_plane(dataclasses.replace(result, null=null))
    (at,) = points(axes)
    np.testing.assert_allclose(at, result.value().mean(-1)[[1, 3]])
    axes = information_plane({"good": result, "bad": soft(rare=("token",))})
    assert legend(axes) == ["good", "bad (no value)"]


@pytest.mark.parametrize("layers", [1, 12, 48])
def test_names_in_the_plane_do_not_overlap_nor_leave_it(layers):
    axes = information_plane(soft(layers=layers, seed=3), errors=False)
    axes.figure.draw_without_rendering()
    names = [text for text in axes.texts if text.get_text() not in ("ceiling", "optimality 1")]
    assert {"layer 0", f"layer {layers - 1}"} <= {text.get_text() for text in names}
    assert layers < 12 or len(names) > 4
    boxes = [text.get_window_extent() for text in names]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)
    optional = [box for text, box in zip(names, boxes, strict=True) if not text.get_text().startswith("layer")]
    at = axes.transData.transform(points(axes)[0])
    assert not any(((at >= box.min) & (at <= box.max)).all(1).any() for box in optional)


def test_the_diagonal_is_named_away_from_the_points():
    result = soft(layers=12)
    near = changed(result, "next_token", result.null[:, :, 1] + (result.plug_in - result.null)[:, :, 0])
    for drawn in (
        near,
        dataclasses.replace(near, plug_in=near.null + (near.plug_in - near.null) * torch.linspace(0.7, 1, 13)[:, None, None]),
    ):
        axes = information_plane(drawn, errors=False, annotate=False)
        axes.figure.draw_without_rendering()
        (name,) = (text for text in axes.texts if text.get_text() == "optimality 1")
        x, y = name.get_position()
        assert x == y
        box, at = name.get_window_extent(), axes.transData.transform(points(axes)[0])
        assert not ((at >= box.min) & (at <= box.max)).all(1).any()
        assert 0 < x < min(axes.get_xlim()[1], axes.get_ylim()[1])


def test_without_names_a_colour_bar_tells_the_layers():
    axes = information_plane(soft(), annotate=False)
    assert sorted(texts(axes)) == ["ceiling", "ceiling", "optimality 1"]
    assert ticks(axes.figure.axes[-1].yaxis) == ["0", "1", "2"]


def test_label_sets_of_the_plane_by_name():
    result = soft(labels=("token", "bigram", "next_token", "language"))
    axes = information_plane(result, input="bigram", of="share")
    np.testing.assert_allclose(points(axes)[0], result.value("share").mean(-1)[1:, [1, 2]])
    assert axes.get_xlabel() == "Complexity I(bigram;Z) / ceiling"
    axes = information_plane(result, input="token", output="language", of="plug_in")
    assert axes.get_ylabel() == "Expressivity plug-in I(language;Z) (nats)"


@pytest.mark.parametrize(
    ("results", "options", "error", "match"),
    [
        (soft, {"of": "entropy"}, InputError, "of must be one of 'information', 'share', 'plug_in'"),
        (soft, {"path": "heads"}, InputError, "path must be one of 'layers', 'results'"),
        (soft, {"path": "results"}, InputError, "give at least two"),
        (soft, {"sites": "resid_mid"}, InputError, "sites: resid_mid not in this result; it has embed"),
        (soft, {"input": "bigram"}, InputError, "input must be one of"),
        (lambda: soft(labels=("token",)), {}, InputError, "output: name one of the label sets; this result has none"),
        (lambda: soft(labels=("token", "bigram", "next_token")), {}, InputError, "input: .* token, bigram"),
        (lambda: soft(site_names=("z",)), {}, InputError, "tiny holds nothing but heads"),
        (lambda: soft(rare=("next_token",)), {}, InputError, f"no layer has both values; {RARE}"),
        (lambda: {"a": soft(), "b": soft().to("bits")}, {}, InputError, "one unit"),
        (
            lambda: {"a": soft(), "b": soft(layers=2)},
            {"path": "results"},
            InputError,
            "not all have resid_post at 2; bring them",
        ),
        (
            lambda: {"a": soft(), "b": soft(labels=("bigram", "next_token"))},
            {},
            InputError,
            r"differ between results \(bigram and next_token; token and next_token\)",
        ),
        (lambda: 3, {}, InputTypeError, "got int"),
    ],
)
def test_the_plane_refuses(results, options, error, match):
    with pytest.raises(error, match=match):
        information_plane(results(), **options)
    assert not plt.get_fignums()


# --- heads


def test_the_map_is_head_by_layer_with_the_last_layer_on_top():
    result = soft(site_names=("z", "resid_post"), n_heads=4)
    axes = heads(result, label="token")
    (mesh,) = of_kind(axes, QuadMesh)
    expected = whole(result.select(sites="z"), "information", "token").reshape(3, 4)
    np.testing.assert_allclose(mesh.get_array(), expected)
    assert mesh.get_clim() == (0, pytest.approx(expected.max()))
    assert mesh.get_cmap().name == "viridis"
    assert (ticks(axes.xaxis), ticks(axes.yaxis)) == (["0", "1", "2", "3"], ["0", "1", "2"])
    assert axes.get_ylim()[0] < axes.get_ylim()[1]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("Head", "Layer", "")
    assert axes.figure.axes[-1].get_ylabel() == "I(token;Z) (nats)"
    assert [text.get_text() for text in axes.texts] == [f"{value:.2f}" for value in expected.flatten()]
    colours = mesh.to_rgba(expected).reshape(-1, 4)
    assert [text.get_color() for text in axes.texts] == [ink(colour) for colour in colours]


def test_rows_and_columns_have_their_own_numbers():
    result = soft(site_names=("z", "result"), layers=4, n_heads=3).select(layers=[1, 3], heads=[0, 2])
    axes = heads(result, site="result", label="next_token")
    assert (ticks(axes.xaxis), ticks(axes.yaxis)) == (["0", "2"], ["1", "3"])
    assert axes.get_xlabel() == "Head (result)"
    (mesh,) = of_kind(axes, QuadMesh)
    frame = result.to_pandas().query("site == 'result' and label == 'next_token'")
    np.testing.assert_allclose(mesh.get_array(), frame.pivot_table("information", "layer", "head"))


def test_what_all_label_sets_share_needs_none():
    axes = heads(soft(site_names=("z",)), of="entropy")
    assert axes.figure.axes[-1].get_ylabel() == "H(Z) (nats)"
    with pytest.raises(InputError, match=r"label: choose one of the 2 in this result \(token, next_token\)"):
        heads(soft(site_names=("z",), own=True), of="entropy")


def test_values_below_0_have_the_colour_of_0_and_are_written_as_they_are():
    result = soft(site_names=("z",), draws=((20, 0),))
    null, ceiling = result.null[:, 0, 0], result.ceiling[:, 0, 0]
    below = changed(result, "token", null - 0.5 * (ceiling - null), places=0)
    axes = heads(below, label="token")
    (mesh,) = of_kind(axes, QuadMesh)
    assert axes.texts[0].get_text() == f"{-0.5 * ceiling[0].item():.2f}"
    assert mesh.to_rgba(np.asarray(mesh.get_array()))[0, 0].tolist() == mesh.to_rgba(np.zeros((1, 1)))[0, 0].tolist()
    assert mesh.colorbar.extend == "min"
    assert heads(result, label="token").collections[0].colorbar.extend == "neither"


def test_no_value_reads_minus_zero():
    result = soft(site_names=("z",), draws=((20, 0),))
    nearly = changed(result, "token", result.null[:, 0, 0] - 1e-4, places=0)
    assert heads(nearly, label="token").texts[0].get_text() == "0.00"


def test_small_values_keep_two_digits():
    result = soft(site_names=("z",), draws=((20, 0),))
    small = dataclasses.replace(result, plug_in=result.null + (result.plug_in - result.null) / 100)
    axes = heads(small, label="token", of="information")
    written = [float(text.get_text()) for text in axes.texts]
    np.testing.assert_allclose(written, small.value()[:, 0, 0], atol=0.00051)
    assert all(len(text.get_text()) == 5 for text in axes.texts)


def test_heads_without_a_value_are_hatched_and_said_to_be():
    result = soft(site_names=("z",))
    null = result.null.clone()
    null[:, 1, 0] = result.ceiling[:, 1, 0]
    axes = heads(dataclasses.replace(result, null=null), label="token")
    (mesh,) = of_kind(axes, QuadMesh)
    assert np.ma.getmaskarray(mesh.get_array()).flatten().tolist() == [False, True, False, False, False, False]
    assert axes.texts[1].get_text() == ""
    assert axes.get_title() == f"hatched: no value, {RARE}"
    assert axes.patch.get_hatch()
    assert heads(result, label="next_token").get_title() == ""


@pytest.mark.thinned
@pytest.mark.parametrize(("layers", "n_heads", "written"), [(12, 12, True), (13, 12, False), (12, 13, False), (32, 32, False)])
def test_large_maps_are_not_written_into_unless_asked(layers, n_heads, written):
    result = soft(site_names=("z",), layers=layers, n_heads=n_heads, labels=("token",))
    axes = heads(result)
    assert len(axes.texts) == (layers * n_heads if written else 0)
    axes.figure.draw_without_rendering()
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    wide, high = (axes.transData.transform((1, 1)) - axes.transData.transform((0, 0))).tolist()
    for text in axes.texts:
        box = text.get_window_extent()
        assert box.width <= wide * 1.02
        assert box.height <= high * 1.02
        assert text.get_fontsize() >= 5.5
    assert len(heads(result, annotate=not written).texts) == (0 if written else layers * n_heads)


def test_maps_that_are_compared_share_their_colours():
    result = soft(site_names=("z",))
    for top, end in ((5.0, "neither"), (0.1, "max")):
        (mesh,) = of_kind(heads(result, label="token", vmax=top), QuadMesh)
        assert mesh.get_clim() == (0, top)
        assert mesh.colorbar.extend == end


@pytest.mark.parametrize(
    ("result", "options", "error", "match"),
    [
        (lambda: soft(site_names=("z",)), {}, InputError, r"label: choose one of the 2 in this result \(token, next_token\)"),
        (lambda: soft(site_names=("z",)), {"label": "x"}, InputError, "label must be one of 'token', 'next_token'"),
        (lambda: soft(site_names=("z",)), {"of": "x"}, InputError, "of must be one of"),
        (lambda: soft(site_names=("z",)), {"label": "token", "vmax": 0}, InputError, "vmin must be less than vmax"),
        (lambda: soft(site_names=("z",)), {"label": "token", "site": "result"}, InputError, "site must be one of 'z'"),
        (
            lambda: soft(site_names=("z", "result")),
            {"label": "token"},
            InputError,
            r"site: choose one of the 2 .*\(z, result\)",
        ),
        (lambda: soft(site_names=("z",), rare=("token",)), {"label": "token"}, InputError, f"no value to draw; {RARE}"),
        (soft, {"label": "token"}, InputError, r"no heads; measure them with soft_information\(..., heads=True\)"),
        (lambda: [soft()], {}, InputTypeError, "got list"),
    ],
)
def test_heads_refuses(result, options, error, match):
    with pytest.raises(error, match=match):
        heads(result(), **options)
    assert not plt.get_fignums()


def test_maps_of_tokens_are_of_another_result():
    with pytest.raises(InputTypeError, match="got SoftInformation"):
        heatmap(soft())


@pytest.mark.parametrize("of", ["information", "share"])
def test_heads_that_are_no_finding_have_a_dot(of):
    result = cross_fitted(soft(site_names=("z",), n_heads=4))
    assert not heads(result, label="next_token", of=of).get_title()
    jackknife = result.fold_jackknife.clone()
    jackknife[[1, 6], 1] *= 2.5  # layer 0, head 1; layer 1, head 2
    doubtful = dataclasses.replace(result, fold_jackknife=jackknife)
    for annotate, off in ((True, 0.35), (False, 0.0)):
        axes = heads(doubtful, label="next_token", of=of, annotate=annotate)
        assert axes.get_title() == "dots: unsure"
        [dots] = of_kind(axes, PathCollection)
        assert dots.get_offsets().tolist() == [[1.5 + off, 0.5 + off], [2.5 + off, 1.5 + off]]
    assert not heads(doubtful, label="token", of=of).get_title()
    assert not heads(doubtful, label="next_token", of="plug_in").get_title()


@pytest.mark.parametrize("of", ["information", "share"])
def test_points_that_are_no_finding_in_either_value_have_a_ring(of):
    result = cross_fitted(soft())
    plain = information_plane(result, of=of)
    assert plain.get_legend() is None
    jackknife = result.fold_jackknife.clone()
    jackknife[1, 0] *= 2.5
    jackknife[3, 1] *= 2.5
    doubtful = dataclasses.replace(result, fold_jackknife=jackknife)
    axes = information_plane(doubtful, of=of)
    assert legend(axes) == ["unsure"]
    line, ring = axes.lines[0], named_lines(axes)["unsure"]
    assert ring.get_xydata().tolist() == line.get_xydata()[[0, 2]].tolist(), "the embedding is not among them"
    assert information_plane(doubtful, of="plug_in").get_legend() is None
    both = information_plane({1: result, 2: doubtful}, of=of, path="results")
    assert legend(both) == ["step 1", "step 2", "unsure"]
    assert sorted(named_lines(both)["unsure"].get_xydata().tolist()) == sorted(ring.get_xydata().tolist())
