"""The figure of layer geometry: what is drawn is what the result says."""

from __future__ import annotations

import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.states.geometry import geometry
from tl_entropy.plots.style import NORMAL_95
from tl_entropy.results import Provenance
from tl_entropy.results.states.geometry import MEASURES, OF_DOCUMENTS, LayerGeometry
from tl_entropy.sites import expand_sites


def result_of(*, site_names=("embed", "resid_post"), layers=3, model="tiny", seed=0, measures=tuple(MEASURES), **rest):
    draw = torch.Generator().manual_seed(seed)
    sites = expand_sites(site_names, layers)
    shape = (len(measures), len(sites))
    errors = torch.rand(shape, generator=draw, dtype=torch.float64)
    errors[[i for i, name in enumerate(measures) if name in ("two_nn", "lidar")]] = math.nan
    parts = sum(name in OF_DOCUMENTS for name in measures)
    fields = {
        "sites": sites,
        "measures": measures,
        "values": torch.rand(shape, generator=draw, dtype=torch.float64) + 2,
        "errors": errors,
        "by_document": torch.zeros(0, parts, len(sites), dtype=torch.float64),
        "document": torch.zeros(0, dtype=torch.long),
        "tokens": 9,
        "documents": 2,
        "order": 1.0,
        "provenance": Provenance(model, "0", "none", "float32", "cpu", versions={}, created="then"),
        "notes": ("two_nn is nan: too few",),
    }
    return LayerGeometry(**{**fields, **rest})


def with_rows(result, normalise):
    return dataclasses.replace(result, provenance=dataclasses.replace(result.provenance, settings={"normalise": normalise}))


def bands(axes):
    return [item for item in axes.collections if isinstance(item, PolyCollection)]


@pytest.mark.parametrize("measure", list(MEASURES))
def test_the_line_and_its_band_are_the_result(measure):
    result = result_of()
    axes = geometry(result, measure=measure)
    [line] = axes.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), [-1, 0, 1, 2])
    np.testing.assert_array_equal(line.get_ydata(), result.value(measure).numpy())
    assert axes.get_legend() is None
    if measure in ("two_nn", "lidar"):
        assert not bands(axes)
        return
    [band] = bands(axes)
    drawn = {(round(x, 9), round(y, 9)) for x, y in band.get_paths()[0].vertices}
    half = NORMAL_95 * result.error(measure)
    for i, depth in enumerate([-1, 0, 1, 2]):
        for edge in (result.value(measure)[i] - half[i], result.value(measure)[i] + half[i]):
            assert (depth, round(edge.item(), 9)) in drawn
    assert not bands(geometry(result, measure=measure, band=False))


def test_axes_say_what_is_shown():
    result = result_of()
    shown = {name: geometry(result, measure=name).get_ylabel() for name in MEASURES}
    assert shown["prompt_entropy"] == "Prompt entropy (nats)"
    assert shown["normalized_prompt_entropy"] == "Prompt entropy / maximum"
    assert shown["curvature"] == "Curvature (rad)"
    assert shown["two_nn"] == "Intrinsic dimension (TwoNN)"
    assert geometry(result.to("bits")).get_ylabel() == "Prompt entropy (bits)"
    second = dataclasses.replace(result, order=2.0)
    assert geometry(second, measure="dataset_entropy").get_ylabel() == "Dataset entropy of order 2 (nats)"
    assert (
        geometry(with_rows(result, "length"), measure="dataset_entropy").get_ylabel()
        == "Dataset entropy (rows of length 1, nats)"
    )
    assert geometry(with_rows(result, None)).get_ylabel() == "Prompt entropy (rows as they are, nats)"
    assert geometry(second, measure="info_nce").get_ylabel() == "InfoNCE bound (nats)"
    axes = geometry(result)
    assert axes.get_xlabel() == "Layer"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["embed", "0", "1", "2"]
    assert axes.get_ylim()[0] == 0


def test_several_results_and_sites_are_told_apart():
    a, b = result_of(), result_of(model="other", seed=1)
    texts = [text.get_text() for text in geometry([a, b]).get_legend().get_texts()]
    assert texts == ["tiny", "other"]
    texts = [text.get_text() for text in geometry({"A $x$": a, "B": b}).get_legend().get_texts()]
    assert texts == ["A $x$", "B"]
    texts = [text.get_text() for text in geometry([a, a], labels=["one", "two"]).get_legend().get_texts()]
    assert texts == ["one", "two"]
    wide = result_of(site_names=("embed", "resid_post", "attn_out"))
    axes = geometry(wide)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["resid_post", "attn_out"]
    assert len(geometry(wide, sites="attn_out").get_lines()) == 1
    with pytest.raises(InputError, match=r"sites: .* not in this result; it has "):
        geometry(wide, sites="mlp_out")


def test_values_below_0_are_shown_with_the_0():
    result = result_of()
    values = result.values.clone()
    values[result.measures.index("info_nce")] = torch.tensor([-1.0, math.nan, 0.5, 1.0])
    axes = geometry(dataclasses.replace(result, values=values), measure="info_nce")
    assert axes.get_ylim()[0] < -1
    assert any(set(line.get_ydata()) == {0} for line in axes.get_lines())


def test_it_draws_on_the_axes_given():
    _, axes = plt.subplots()
    assert geometry(result_of(), ax=axes) is axes


def test_what_is_refused():
    result = result_of(measures=("prompt_entropy", "two_nn"))
    with pytest.raises(InputError, match="measure: lidar not in this result"):
        geometry(result, measure="lidar")
    with pytest.raises(InputError, match=r"different things .*bits.*nats"):
        geometry([result, dataclasses.replace(result.to("bits"))], labels=["a", "b"])
    with pytest.raises(InputError, match="different things"):
        geometry([result, dataclasses.replace(result, order=2.0)], labels=["a", "b"])
    with pytest.raises(InputError, match=r"different things .*Prompt entropy .nats.*rows as they are.* with one normalise"):
        geometry([result, with_rows(result, None)], labels=["a", "b"])
    assert geometry([result, with_rows(result, None)], labels=["a", "b"], measure="two_nn").get_lines()
    assert geometry([result, result.to("bits")], labels=["a", "b"], measure="two_nn").get_lines()
    missing = dataclasses.replace(result, values=torch.full_like(result.values, math.nan))
    with pytest.raises(InputError, match="tiny has no two_nn to draw; its notes say why: two_nn is nan: too few"):
        geometry(missing, measure="two_nn")
    with pytest.raises(InputTypeError, match="results must be one or several results of layer_geometry; got int"):
        geometry(3)
    with pytest.raises(InputError, match="labels must be 2 different names"):
        geometry([result, result])
