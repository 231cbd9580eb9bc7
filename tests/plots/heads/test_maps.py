"""Maps of head entropies; those of soft information are tested with the other figures of soft information."""

from __future__ import annotations

import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from drawn import flat, ticks
from hand_made import without_rows
from matplotlib.collections import QuadMesh

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots import heads
from tl_entropy.results import HeadEntropy, HeadSummary, Provenance, SoftInformation

ORIGIN = Provenance("tiny", "abc", "raw", "float32", "cpu", versions={}, created="then")


def heads_result(*, layers=(0, 2, 3), n_heads=4, orders=(1.0, 2.0), of="pattern", **changes):
    rng = torch.Generator().manual_seed(0)
    rows, shape = 6, (6, len(layers), n_heads)
    parts = {
        "entropy": torch.rand(*shape, len(orders), generator=rng) * 2,
        "document": torch.tensor([0, 0, 0, 1, 1, 1]),
        "position": torch.tensor([0, 1, 2] * 2),
        "token": torch.zeros(rows, dtype=torch.long),
        "layers": tuple(layers),
        "heads": tuple(range(n_heads)),
        "orders": orders,
        "of": of,
        "norm": None if of == "pattern" else "frozen",
        "strings": {0: "a"},
        "provenance": ORIGIN,
    }
    if of == "pattern":
        parts["visible"] = torch.full(shape[:2], 8)
        parts |= {name: torch.rand(shape, generator=rng) for name in ("bos_share", "sink_share")}
    return HeadEntropy(**{**parts, **changes})


def mesh_of(axes):
    [mesh] = [artist for artist in axes.get_children() if isinstance(artist, QuadMesh)]
    return mesh


@pytest.mark.parametrize(
    ("of", "order", "name"),
    [
        (None, 1.0, "Entropy (nats)"),
        ("entropy", 2.0, "Entropy (nats)"),
        ("normalized", 1.0, "Entropy / log of keys"),
        ("bos_share", None, "Share on BOS"),
        ("sink_share", None, "Share on sinks"),
    ],
)
def test_a_map_is_the_mean_of_every_head_with_the_last_layer_on_top(of, order, name):
    result = heads_result()
    axes = heads(result, of=of, order=order)
    profile = result.mean_profile(of or "entropy")
    profile = profile if order is None else profile[profile["order"] == order]
    expected = profile.pivot_table("mean", "layer", "head").to_numpy()
    np.testing.assert_allclose(mesh_of(axes).get_array(), expected, atol=1e-9 if order else 6e-4)
    assert mesh_of(axes).get_clim() == (0, pytest.approx(expected.max(), abs=6e-4))
    assert axes.figure.axes[-1].get_ylabel() == name
    assert (ticks(axes.xaxis), ticks(axes.yaxis)) == (["0", "1", "2", "3"], ["0", "2", "3"])
    assert axes.get_ylim()[0] < axes.get_ylim()[1]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == (
        "Head",
        "Layer",
        "Attention" + ", order 2" * (order == 2),
    )
    written = [float(text.get_text()) for text in axes.texts]
    np.testing.assert_allclose(written, expected.flatten(), atol=0.006)


def test_units_and_readouts_are_named():
    result = heads_result(of="readout", orders=(1.0,)).to("bits")
    axes = heads(result)
    assert axes.figure.axes[-1].get_ylabel() == "Entropy (bits)"
    assert axes.get_title() == "Head readouts, frozen norm"
    np.testing.assert_allclose(mesh_of(axes).get_array(), result.entropy[..., 0].double().mean(0))


def test_a_summary_gives_the_same_map():
    result = heads_result(orders=(1.0,))
    n = torch.full((1, 3, 4, 1), 3.0, dtype=torch.float64)
    s = torch.stack([result.entropy[result.document == d].double().sum(0) for d in (0, 1)])
    sums = torch.cat([0 * n + 2, 2 * n, s.sum(0)[None], 2 * n * n, (n * s).sum(0)[None], (s * s).sum(0)[None]])
    total = HeadSummary((0, 2, 3), (0, 1, 2, 3), (1.0,), "pattern", None, sums, ORIGIN)
    np.testing.assert_allclose(mesh_of(heads(total)).get_array(), mesh_of(heads(result)).get_array())


def test_rounding_in_place_of_sinks_is_not_drawn():
    axes = heads(heads_result(sink_share=torch.full((6, 3, 4), -3e-8)), of="sink_share")
    assert {text.get_text() for text in axes.texts} == {"0.00"}
    assert mesh_of(axes).colorbar.extend == "neither"


def test_heads_without_a_value_are_hatched():
    visible = torch.full((6, 3), 8)
    visible[:, 1] = 1
    axes = heads(heads_result(visible=visible, orders=(1.0,)), of="normalized")
    assert np.ma.getmaskarray(mesh_of(axes).get_array())[1].all()
    assert flat(axes.get_title()) == "Attention; hatched: no value, its queries see a single key"
    assert axes.patch.get_hatch()


def test_given_axes_and_colours_are_used():
    _, ax = plt.subplots()
    assert heads(heads_result(), order=1.0, vmin=0.8, vmax=5, ax=ax) is ax
    assert mesh_of(ax).get_clim() == (0.8, 5)
    assert mesh_of(ax).colorbar.extend == "min"


@pytest.mark.thinned
@pytest.mark.parametrize(("n_layers", "n_heads", "written"), [(12, 12, True), (32, 32, False)])
def test_large_maps_are_not_written_into_unless_asked(n_layers, n_heads, written):
    result = heads_result(layers=range(n_layers), n_heads=n_heads, orders=(1.0,))
    assert len(heads(result).texts) == (n_layers * n_heads if written else 0)
    assert len(heads(result, annotate=not written).texts) == (0 if written else n_layers * n_heads)


@pytest.mark.parametrize(
    ("result", "options", "error", "match"),
    [
        (heads_result, {}, InputError, r"order: choose one of the 2 in this result \(1.0, 2.0\)"),
        (heads_result, {"order": 3.0}, InputError, r"order must be one of 1\.0, 2\.0"),
        (heads_result, {"of": "bos_share", "order": 1.0}, InputError, "order: bos_share has none"),
        (heads_result, {"of": "share"}, InputError, "of must be one of 'entropy', 'normalized'"),
        (heads_result, {"order": 1.0, "label": "token"}, InputError, "label and site belong to results of soft_information"),
        (heads_result, {"order": 1.0, "site": "z"}, InputError, "label and site belong"),
        (
            heads_result,
            {"order": 1.0, "vmax": -1},
            InputError,
            "vmin must be less than vmax; the colours would go from 0 to -1",
        ),
        (heads_result, {"order": 1.0, "vmin": 2, "vmax": 2}, InputError, "vmin must be less than vmax"),
        (heads_result, {"order": 1.0, "vmin": math.nan}, InputError, "vmin must be a finite number"),
        (lambda: heads_result(of="readout"), {"of": "normalized"}, InputError, "belongs to attention patterns"),
        (lambda: heads_result(bos_share=torch.full((6, 3, 4), math.nan)), {"of": "bos_share"}, InputError, "no position"),
        (lambda: without_rows(heads_result()), {"order": 1.0}, InputError, "no position"),
        (lambda: [heads_result()], {}, InputTypeError, r"what head_entropy or soft_information returned; got list"),
    ],
)
def test_heads_refuses(result, options, error, match):
    with pytest.raises(error, match=match):
        heads(result(), **options)
    assert not plt.get_fignums()


def test_soft_information_has_no_order():
    fields = {item.name: None for item in dataclasses.fields(SoftInformation)}
    with pytest.raises(InputError, match="order belongs to results of head_entropy"):
        heads(SoftInformation(**fields), order=1.0)
