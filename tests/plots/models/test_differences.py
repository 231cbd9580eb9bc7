"""Figures of contrasts: what is drawn, what the axes say, and what is refused."""

from __future__ import annotations

import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from drawn import flat, legend
from matplotlib.collections import PolyCollection, QuadMesh

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots import contrast as plot, contrast_map
from tl_entropy.results import Contrast, Provenance
from tl_entropy.sites import expand_sites

ORIGIN = Provenance("tiny", "0", "none", "float32", "cpu", versions={}, created="then")


def made(
    *, lengths=(5, 4, 6), site_names=("embed", "resid_post"), quantities=("entropy",), units=("nats",), seed=0, run="", **rest
):
    draw, rows, sites = torch.Generator().manual_seed(seed), sum(lengths), expand_sites(site_names, 3)
    after = dataclasses.replace(ORIGIN, settings={"interventions": (run,)} if run else {})
    parts = {
        "difference": torch.randn(rows, len(sites), len(quantities), generator=draw),
        "document": torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)),
        "position": torch.cat([torch.arange(n) for n in lengths]),
        "token": torch.arange(rows) % 2,
        "strings": {0: "def", 1: " f"},
    }
    return Contrast(sites=sites, quantities=quantities, units=units, before=ORIGIN, after=after, **{**parts, **rest})


def curves(axes):
    return [line for line in axes.get_lines() if len(line.get_xdata()) > 2]


def test_the_line_is_the_mean_difference_and_the_band_its_error():
    result = made()
    axes = plot(result)
    (line,) = curves(axes)
    assert line.get_xdata().tolist() == [-1, 0, 1, 2]
    np.testing.assert_allclose(line.get_ydata(), result.difference[:, :, 0].double().mean(0), rtol=1e-6)
    (band,) = [artist for artist in axes.get_children() if isinstance(artist, PolyCollection)]
    corners, frame = band.get_paths()[0].vertices, result.mean_profile()
    for depth, mean, se in zip((-1, 0, 1, 2), frame["mean"], frame["se"], strict=True):
        heights = corners[corners[:, 0] == depth, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [mean - 1.96 * se, mean + 1.96 * se])
    (zero,) = [line for line in axes.get_lines() if len(line.get_xdata()) == 2]
    assert list(zero.get_ydata()) == [0, 0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Layer", "Change in entropy (nats)")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["embed", "0", "1", "2"]
    assert axes.get_legend() is None


def test_no_band_for_one_document_or_on_request():
    for axes in (plot(made(lengths=(5,))), plot(made(), band=None)):
        assert not [artist for artist in axes.get_children() if isinstance(artist, PolyCollection)]


def test_several_runs_and_sites_are_told_apart():
    axes = plot([made(run="ablate heads 1.0"), made(run="ablate heads 1.1", seed=1)])
    assert legend(axes) == ["tiny, ablate heads 1.0", "tiny, ablate heads 1.1"]
    assert legend(plot({"zero": made(), "mean": made(seed=1)})) == ["zero", "mean"]
    assert legend(plot([made(), made(seed=1)], labels=["a", "b"])) == ["a", "b"]
    both = made(site_names=("embed", "resid_mid", "resid_post"))
    axes = plot(both)
    assert legend(axes) == ["resid_post", "resid_mid"]
    assert curves(axes)[1].get_xdata().tolist() == [-0.5, 0.5, 1.5]
    assert [line.get_xdata().tolist() for line in curves(plot(both, sites="resid_mid"))] == [[-0.5, 0.5, 1.5]]


def test_quantities_and_units_name_the_axis():
    several = made(quantities=("kl", "total_variation"), units=("bits", ""))
    assert plot(several, quantity="kl").get_ylabel() == "Change in kl (bits)"
    axes = plot(several, quantity="total_variation")
    assert axes.get_ylabel() == "Change in total variation"
    np.testing.assert_allclose(curves(axes)[0].get_ydata(), several.difference[:, :, 1].double().mean(0), rtol=1e-6)


def test_it_draws_on_given_axes():
    _, ax = plt.subplots()
    assert plot(made(), ax=ax) is ax
    assert contrast_map(made(), document=0, ax=ax) is ax


def test_refusals():
    several = made(quantities=("kl", "jsd"), units=("nats", "nats"))
    with pytest.raises(InputError, match="quantity: choose one of the 2 in this result"):
        plot(several)
    with pytest.raises(InputError, match="quantity: rank not in this result; it has kl, jsd"):
        plot(several, quantity="rank")
    with pytest.raises(InputError, match=r"results differ in quantity or unit: .*bits.*nats"):
        plot({"a": made(), "b": made().to("bits")})
    with pytest.raises(InputError, match="labels must be 2 different names"):
        plot([made(), made()])
    with pytest.raises(InputTypeError, match="results must be one or several results of contrast; got int"):
        plot(3)
    with pytest.raises(InputError, match=r"sites: .* not in this result; it has "):
        plot(made(), sites="mlp_out")
    with pytest.raises(InputError, match="band must be one of"):
        plot(made(), band="sd")


# --- the map


def mesh(axes):
    (found,) = [artist for artist in axes.get_children() if isinstance(artist, QuadMesh)]
    return found


def test_the_map_shows_one_document_with_colours_centred_at_zero():
    result = made()
    axes = contrast_map(result, document=1)
    expected = result.values("entropy")[result.document == 1].T
    np.testing.assert_allclose(mesh(axes).get_array(), expected)
    largest = float(expected.abs().max())
    assert mesh(axes).get_clim() == pytest.approx((-largest, largest))
    assert axes.figure.axes[-1].get_ylabel() == "Change in entropy (nats)"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["embed", "0", "1", "2"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["␣f", "def", "␣f", "def"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Token read", "Layer")


def test_no_change_is_white_and_the_sides_differ_in_lightness_order():
    colours = mesh(contrast_map(made(), document=0)).cmap
    assert min(colours(0.5)[:3]) > 0.95
    up, down = np.array(colours(0.85)[:3]), np.array(colours(0.15)[:3])
    assert up[0] > up[2], "growth is orange"
    assert down[2] > down[0], "decrease is purple"


def test_decreases_carry_a_minus():
    values = torch.tensor([[1.0, -1.0, -0.11, -0.09], [0.5, 0.0, -0.2, 0.3]])[:, :, None]
    axes = contrast_map(made(lengths=(2,), difference=values))
    written = {tuple(text.get_position()) for text in axes.texts if text.get_text() == "−"}
    assert written == {(0.5, 1.5), (0.5, 2.5), (1.5, 2.5)}


def test_parts_of_a_text_and_cells_without_a_value():
    values = torch.randn(6, 4, 1)
    values[-1] = math.nan
    result = made(lengths=(6,), difference=values, names={0: "x.py"})
    assert contrast_map(result).get_title() == "x.py"
    axes = contrast_map(result, start=2, max_tokens=4, sites="resid_post")
    assert flat(axes.get_title()) == "x.py: 4 of 6 tokens, positions 2 to 5"
    assert np.ma.getmaskarray(mesh(axes).get_array()).sum() == 3
    with pytest.raises(InputError, match="quantity: entropy has no value at the positions shown"):
        contrast_map(result, start=5)
    zero = made(lengths=(3,), difference=torch.zeros(3, 4, 1))
    assert mesh(contrast_map(zero)).get_clim()[1] > 0


def test_refusals_of_the_map():
    with pytest.raises(InputError, match="document: choose one of the 3"):
        contrast_map(made())
    with pytest.raises(InputError, match="quantity: choose one of the 2"):
        contrast_map(made(quantities=("kl", "jsd"), units=("nats", "nats")), document=0)
    with pytest.raises(InputError, match="start=9 lies behind the last position"):
        contrast_map(made(), document=0, start=9)
    with pytest.raises(InputTypeError, match="result must be a Contrast; got str"):
        contrast_map("x")


def test_a_setting_shared_by_both_runs_still_tells_two_contrasts_apart():
    tuned = {"lens": "tuned lens of tiny"}
    second = made(run="ablate heads 0.1")
    before, after = (dataclasses.replace(o, settings={**o.settings, **tuned}) for o in (second.before, second.after))
    axes = plot([made(run="ablate heads 0.1"), dataclasses.replace(second, before=before, after=after)])
    assert legend(axes) == ["tiny, ablate heads 0.1, logit lens", "tiny, ablate heads 0.1, tuned lens of tiny"]
    with pytest.raises(InputError, match="results is empty"):
        plot([])
