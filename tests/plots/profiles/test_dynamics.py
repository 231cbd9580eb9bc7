"""Figures of layer dynamics: what is drawn, what the axes say, and what is refused."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.patches import FancyArrowPatch

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.profiles.dynamics import importance, velocity
from tl_entropy.results import Provenance
from tl_entropy.results.profiles.dynamics import LayerDynamics
from tl_entropy.sites import expand_sites

CURVE = {
    "entropy": "nats", "velocity": "nats", "fisher_rao_velocity": "rad", "distance_to_output": "rad", "jsd_to_output": "nats",
}  # fmt: skip


def made(n_layers=4, *, model="tiny", seed=0, curve=True, metrics=("kl", "jsd", "fisher_rao"), names=("embed", "resid_post"),
         documents=3, **changes):  # fmt: skip
    draw, sites = torch.Generator().manual_seed(seed), expand_sites(names, n_layers)
    keys = [(name, "curve", unit) for name, unit in CURVE.items()] if curve else []
    keys += [(f"{m}_{what}", "vocabulary", {"fisher_rao": "rad", "total_variation": ""}.get(m, "nats"))
             for what in ("velocity", "to_output") for m in metrics]  # fmt: skip
    values = torch.rand(len(keys), len(sites), generator=draw, dtype=torch.float64) + 0.1
    errors = 0.05 * torch.rand(values.shape, generator=draw, dtype=torch.float64)
    for i, (name, *_) in enumerate(keys):
        if name.endswith("velocity"):
            values[i, 0] = errors[i, 0] = math.nan
        if name.endswith("to_output"):
            values[i, -1] = errors[i, -1] = 0.0
    quantities, families, units = zip(*keys, strict=True)
    parts = {
        "values": values,
        "errors": errors if documents > 1 else torch.full_like(values, math.nan),
        "chance": torch.full_like(values, math.nan),
        "order": 1.0 if curve else None,
        "provenance": Provenance(model, str(seed), "raw", "float32", "cpu"),
    }
    return LayerDynamics(
        sites=sites, quantities=quantities, families=families, units=units, tokens=50, documents=documents, n_bins=50,
        **{**parts, **changes},
    )  # fmt: skip


def texts(axes):
    return [text.get_text() for text in axes.texts if text.get_text()]


def meshes(axes):
    return [artist for artist in axes.get_children() if isinstance(artist, QuadMesh)]


# --- the plane


@pytest.mark.parametrize(
    ("options", "quantity", "family", "xlabel"),
    [
        ({}, "fisher_rao_velocity", "vocabulary", "Velocity: Fisher-Rao distance to previous (rad)"),
        ({"quantity": "kl_velocity"}, "kl_velocity", "vocabulary", "Velocity: KL(previous ‖ layer) (nats)"),
        ({"family": "curve"}, "velocity", "curve", "Velocity: Wasserstein-1 of entropies (nats)"),
        ({"quantity": "velocity"}, "velocity", "curve", "Velocity: Wasserstein-1 of entropies (nats)"),
        (
            {"quantity": "fisher_rao_velocity", "family": "curve"},
            "fisher_rao_velocity",
            "curve",
            "Velocity: angle between entropy curves (rad)",
        ),
    ],
)
def test_points_are_velocity_and_entropy_of_all_sites_but_the_first(options, quantity, family, xlabel):
    result = made()
    axes = velocity(result, **options)
    (line,) = axes.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), result.value(quantity, family)[1:])
    np.testing.assert_array_equal(line.get_ydata(), result.value("entropy")[1:])
    assert (axes.get_xlabel(), axes.get_ylabel()) == (xlabel, "Entropy (nats)")
    assert axes.get_xlim()[0] == 0
    assert axes.get_legend() is None
    assert {"layer 0", "layer 3"} <= set(texts(axes))


def test_error_bars_are_95_percent_and_can_be_left_out():
    result = made()
    across, up = (artist for artist in velocity(result).get_children() if isinstance(artist, LineCollection))
    for bars, axis, name in ((across, 0, "fisher_rao_velocity"), (up, 1, "entropy")):
        ends = np.array([segment[:, axis] for segment in bars.get_segments()])
        value, half = result.value(name)[1:].numpy(), 1.96 * result.error(name)[1:].numpy()
        np.testing.assert_allclose(ends, np.stack([value - half, value + half], 1))
    for axes in (velocity(result, errors=False), velocity(made(documents=1))):
        assert not [artist for artist in axes.get_children() if isinstance(artist, LineCollection)]


def test_arrows_point_from_a_layer_to_the_next():
    axes = velocity(made(errors=torch.zeros(11, 5, dtype=torch.float64)))
    (line,) = axes.get_lines()
    at = np.stack(line.get_data(), 1)
    heads = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    assert len(heads) == 3
    for head, start, end in zip(heads, at[:-1], at[1:], strict=True):
        tail, tip = (np.asarray(point) for point in head._posA_posB)
        np.testing.assert_allclose(tail, start)
        assert ((tip - start) @ (end - start)) > 0
        assert 0 < np.hypot(*(tip - start)) < np.hypot(*(end - start))


def test_steps_too_short_for_a_head_have_none():
    values = made().values.clone()
    values[:, 1:] = 0.5 + 1e-6 * values[:, 1:]
    values[:, 1] = 2.0
    axes = velocity(made(values=values), family="curve")
    assert len([patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]) == 1


def test_several_models_share_a_figure():
    axes = velocity({"small": made(4), "large": made(12, seed=1)}, family="curve")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["small", "large"]
    one, other = axes.get_lines()
    assert (len(one.get_xdata()), len(other.get_xdata())) == (4, 12)
    assert one.get_linestyle() != other.get_linestyle()
    assert [text.get_text() for text in velocity([made(), made(model="b")]).get_legend().get_texts()] == ["tiny", "b"]
    named = velocity([made(), made(seed=1)], labels=["$\\nope$", "b"]).get_legend().get_texts()
    assert [text.get_text() for text in named] == ["$\\nope$", "b"]
    named[0].figure.draw_without_rendering()


def test_sites_of_several_kinds_are_named_in_full():
    axes = velocity(made(2, names=("embed", "resid_mid", "resid_post")))
    assert {"resid_mid.0", "resid_post.1"} <= set(texts(axes))


def test_it_draws_on_given_axes():
    _, ax = plt.subplots()
    assert velocity(made(), ax=ax) is ax


def test_the_plane_refuses():
    with pytest.raises(InputError, match="tiny holds no entropies; give layer_dynamics what lens_entropy returned"):
        velocity(made(curve=False))
    with pytest.raises(InputError, match=r"differ in their velocities \(fisher_rao_velocity, kl_velocity\); choose one"):
        velocity([made(), made(model="b", metrics=("kl",))])
    with pytest.raises(InputError, match=r"results differ in quantity, order or unit: .*bits.*nats"):
        velocity([made(), made(model="b").to("bits")], family="curve")
    with pytest.raises(InputError, match=r"order or unit: Entropy \(nats\), Rényi entropy of order 2"):
        velocity([made(), made(model="b", order=2.0)])
    with pytest.raises(InputError, match="quantity must be a velocity"):
        velocity(made(), quantity="distance_to_output")
    with pytest.raises(InputTypeError, match="name of a velocity"):
        velocity(made(), quantity=[])
    with pytest.raises(InputError, match="quantity: reverse_kl_velocity not in this result"):
        velocity(made(), quantity="reverse_kl_velocity")
    with pytest.raises(InputError, match="labels must be 2 different names"):
        velocity([made(), made()])
    with pytest.raises(InputTypeError, match="results of layer_dynamics; got int"):
        velocity(3)


def without(quantity, sites=slice(None), **options):
    """A result in which one quantity of the family "curve" has no value at these sites."""
    result = made(metrics=(), **options)
    values, errors = result.values.clone(), result.errors.clone()
    values[result.quantities.index(quantity), sites] = errors[result.quantities.index(quantity), sites] = math.nan
    return made(metrics=(), **options, values=values, errors=errors)


def test_layers_without_a_velocity_are_no_points():
    axes = velocity(without("fisher_rao_velocity", 3), quantity="fisher_rao_velocity")
    assert {"layer 0", "layer 3"} <= set(texts(axes))
    assert "2" not in texts(axes)
    both = velocity(
        {"dead": without("fisher_rao_velocity"), "alive": made(seed=1)}, quantity="fisher_rao_velocity", family="curve"
    )
    assert [text.get_text() for text in both.get_legend().get_texts()] == ["dead", "alive"]


def test_a_velocity_without_any_value_is_refused():
    with pytest.raises(
        InputError, match=r"fisher_rao_velocity has no value at any site, .*; choose another, such as 'velocity'"
    ):
        velocity(without("fisher_rao_velocity"), quantity="fisher_rao_velocity")
    assert not plt.get_fignums(), "a refusal leaves no empty figure behind"
    assert velocity(without("fisher_rao_velocity")).get_xlabel() == "Velocity: Wasserstein-1 of entropies (nats)"


# --- the maps


PANELS = {
    "vocabulary": {
        "Entropy": ("entropy", "nats"),
        "Velocity: Fisher-Rao distance to previous": ("fisher_rao_velocity", "rad"),
        "Fisher-Rao distance to output": ("fisher_rao_to_output", "rad"),
        "JSD to output": ("jsd_to_output", "nats"),
    },
    "curve": {
        "Entropy": ("entropy", "nats"),
        "Velocity: Wasserstein-1 of entropies": ("velocity", "nats"),
        "Distance to output of entropy curves": ("distance_to_output", "rad"),
        "JSD to output of entropy histograms": ("jsd_to_output", "nats"),
    },
}


@pytest.mark.thinned
@pytest.mark.parametrize("family", ["vocabulary", "curve", None])
def test_every_layer_is_a_cell_of_its_own_width_and_value(family):
    results = {"small": made(4), "large": made(9, seed=1)}
    panels = importance(results, family=family)
    expected = PANELS[family or "vocabulary"]
    assert [axes.get_title() for axes in panels] == list(expected)
    for axes, (quantity, unit), bar in zip(panels, expected.values(), panels[0].figure.axes[4:], strict=True):
        assert bar.get_ylabel() == unit
        assert [text.get_text() for text in axes.get_yticklabels()] in (["small", "large"], [""] * 2)
        both = [r.value(quantity, "curve" if quantity == "entropy" else family).numpy() for r in results.values()]
        for row, (mesh, values) in enumerate(zip(meshes(axes), both, strict=True)):
            np.testing.assert_array_equal(np.ma.filled(mesh.get_array(), np.nan)[0], values)
            corners = mesh.get_coordinates()
            np.testing.assert_allclose(corners[0, :, 0], np.linspace(0, 1, len(values) + 1))
            assert corners[:, 0, 1].tolist() == [row, row + 1]
            assert mesh.get_clim() == (0, np.nanmax(np.concatenate(both)))
    assert panels[-1].get_xlabel() == "Relative depth"
    assert panels[0].yaxis_inverted(), "the first result is on top"
    assert panels[0].patch.get_hatch(), "what has no value is hatched"


def test_of_one_model_the_layers_are_named():
    panels = importance(made(3))
    assert [text.get_text() for text in panels[0].get_xticklabels()] == ["embed", "0", "1", "2"]
    np.testing.assert_allclose(panels[0].get_xticks(), [0.125, 0.375, 0.625, 0.875])
    assert panels[-1].get_xlabel() == "Layer"
    deep = [text.get_text() for text in importance(made(24))[0].get_xticklabels()]
    assert deep == ["embed", *(str(layer) for layer in range(3, 24, 3))]
    mixed = [text.get_text() for text in importance(made(2, names=("resid_mid", "resid_post")))[0].get_xticklabels()]
    assert mixed == ["0", "1"]


def test_the_panels_are_what_all_results_have():
    one_metric = importance(made(metrics=("kl",)))
    assert [axes.get_title() for axes in one_metric] == ["Entropy", "Velocity: KL(previous ‖ layer)", "KL(output ‖ layer)"]
    without_curve = importance(made(curve=False))
    assert [axes.get_title() for axes in without_curve] == list(PANELS["vocabulary"])[1:]
    mixed = importance([made(), made(model="b", metrics=())])
    assert [axes.get_title() for axes in mixed] == list(PANELS["curve"])
    share = made(metrics=("total_variation",), curve=False)
    assert [axes.get_title() for axes in importance(share)] == [
        "Velocity: total variation to previous",
        "Total variation to output",
    ]


def test_the_colours_are_read_in_grey():
    from matplotlib import colormaps

    (mesh,) = meshes(importance(made())[0])
    lightness = mesh.get_cmap()(np.linspace(0, 1, 64))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()
    assert mesh.get_cmap().name == colormaps["viridis"].name


def test_it_draws_maps_on_given_axes():
    _, grid = plt.subplots(2, 2)
    assert importance(made(), axes=grid) == list(grid.flat)
    assert [text.get_text() for text in grid[1, 1].get_yticklabels()] == ["tiny"]
    with pytest.raises(InputError, match="there are 4 panels to draw, and 3 axes"):
        importance(made(), axes=list(grid.flat)[:3])


def test_the_maps_refuse():
    with pytest.raises(InputError, match="not all results have a quantity of 'vocabulary'"):
        importance([made(), made(model="b", metrics=())], family="vocabulary")
    with pytest.raises(InputError, match="not all results have a quantity of 'curve'"):
        importance([made(curve=False), made(model="b", metrics=())])
    with pytest.raises(InputError, match="family must be one of"):
        importance(made(), family="words")
    with pytest.raises(InputError, match="results differ in quantity, order or unit"):
        importance([made(), made(model="b").to("bits")])
    with pytest.raises(InputTypeError, match="results of layer_dynamics; got str"):
        importance("tiny")


def test_a_map_without_any_value_is_hatched():
    panel = importance(without("distance_to_output"))[2]
    (mesh,) = meshes(panel)
    assert np.ma.getmaskarray(mesh.get_array()).all()
    low, high = mesh.get_clim()
    assert (low, math.isfinite(high), high > 0) == (0, True, True)
    assert panel.patch.get_hatch()
    panel.figure.draw_without_rendering()
    rows = importance({"dead": without("distance_to_output"), "alive": made(seed=1, metrics=())})[2]
    alive = made(seed=1, metrics=()).value("distance_to_output").max().item()
    assert {mesh.get_clim() for mesh in meshes(rows)} == {(0, alive)}
