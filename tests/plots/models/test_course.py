"""The course of training as a figure: what is drawn, and what is refused."""

from __future__ import annotations

import gallery
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.models.course import MOST_NAMED, course
from tl_entropy.results import Provenance, SoftInformation
from tl_entropy.sites import Site

SITES = (Site("embed", -1), Site("resid_post", 0), Site("resid_post", 1), Site("z", 0))


def result(level, *, labels=("token", "next_token"), sites=SITES, unit="nats", null=0.2):
    shape = (4, len(sites), len(labels), 2)  # the whole and three folds; two draws of anchors
    draw = torch.Generator().manual_seed(int(level * 100))
    plug_in = level + 0.01 * torch.randn(shape, generator=draw, dtype=torch.float64)
    full = torch.ones(shape, dtype=torch.float64)
    n = len(labels)
    return SoftInformation(
        sites=sites, heads=tuple(0 if site.name == "z" else -1 for site in sites), labels=labels, sides=("input", "output")[:n],
        n_bins=(100, 100), seeds=(0, 1), entropy=4 * full, plug_in=plug_in, null=null * full, ceiling=2 * full,
        temperatures=torch.full((len(sites), 2), 0.05), fold_tokens=torch.full((3, n), 10.0), tokens=torch.tensor([30] * n),
        coverage=torch.ones(n), classes=torch.tensor([5] * n), singletons=torch.zeros(n), documents=3, unit=unit,
        provenance=Provenance("m", "w", "p", "float32", "cpu"),
    )  # fmt: skip


def test_each_line_is_a_site_over_sorted_steps():
    results = {100: result(1.0), 0: result(0.3), 10: result(0.6)}
    axes = course(results, label="token")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["embed", "resid_post.0", "resid_post.1"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Training step", "I(token;Z) (nats)")
    for place, line in enumerate(axes.lines[:3]):
        assert list(line.get_xdata()) == [0, 10, 100]
        expected = [results[step].value()[place, 0].mean().item() for step in (0, 10, 100)]
        np.testing.assert_allclose(line.get_ydata(), expected)
    assert axes.get_ylim()[0] == 0
    assert axes.get_xscale() == "symlog"


def test_bands_are_errors_of_the_mean_over_draws():
    results = {0: result(0.3), 10: result(0.6)}
    axes = course(results, label="token", sites="embed")
    [band] = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    values = [r.values().mean(-1, keepdim=True) for r in results.values()]
    half = [1.96 * r.error_of(v)[0, 0, 0].item() for r, v in zip(results.values(), values, strict=True)]
    top = [v[0, 0, 0, 0].item() + h for v, h in zip(values, half, strict=True)]
    assert np.isclose(heights.max(), max(top))
    assert not course(results, label="token", band=None, ax=plt.figure().subplots()).collections


def test_other_quantities_axes_and_units():
    results = {1: result(0.3, unit="bits"), 2: result(0.6, unit="bits")}
    axes = plt.figure().subplots()
    assert course(results, of="entropy", label="token", log=False, xlabel="Epoch", ax=axes) is axes
    assert (axes.get_ylabel(), axes.get_xlabel(), axes.get_xscale()) == ("H(Z) (bits)", "Epoch", "linear")
    assert course(results, of="share", label="next_token").get_ylabel() == "I(next_token;Z) / ceiling"


@pytest.mark.parametrize(
    ("results", "options", "error", "message"),
    [
        ({0: result(0.3)}, {"label": "token"}, InputError, "two steps or more"),
        ([result(0.3), result(0.4)], {"label": "token"}, InputTypeError, "mapping from numbers"),
        ({"a": result(0.3), "b": result(0.4)}, {"label": "token"}, InputTypeError, "mapping from numbers"),
        ({0: result(0.3), 1: result(0.4)}, {}, InputError, "label: choose one of the 2"),
        ({0: result(0.3), 1: result(0.4)}, {"label": "word"}, InputError, "label must be one of 'token'"),
        (
            {0: result(0.3), 1: result(0.4, sites=SITES[:2])},
            {"label": "token"},
            InputError,
            "same places, quantity and unit; step 0 has",
        ),
        ({0: result(0.3), 1: result(0.4, unit="bits")}, {"label": "token"}, InputError, "nats and in bits"),
        ({0: result(0.3), 1: result(0.4)}, {"label": "token", "of": "height"}, InputError, "of must be one of"),
        ({0: result(0.3), 1: result(0.4)}, {"label": "token", "of": ["height"]}, InputTypeError, "of must be the name of a"),
        ({0: result(2.0, null=2.0), 1: result(2.0, null=2.0)}, {"label": "token"}, InputError, "labels too rare"),
        ({0: 1, 1: 2}, {"label": "token"}, InputTypeError, "soft_information"),
    ],
)
def test_what_it_refuses(results, options, error, message):
    with pytest.raises(error, match=message):
        course(results, **options)


def lines(axes):
    return [line.get_ydata() for line in axes.lines]


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize(
    ("make", "options", "quantity", "axis"),
    [
        (gallery.lens, {}, None, "Entropy (nats)"),
        (gallery.lens, {"of": "surprisal"}, "surprisal", "Surprisal of the next token (nats)"),
        (gallery.divergence, {}, "jsd", "JSD to output (nats)"),
        (gallery.divergence, {"of": "decided"}, "decided", "Decided (share of tokens)"),
        (gallery.divergence, {"of": "rank of 'def'"}, "rank of 'def'", "Rank of 'def' (1 is first)"),
    ],
)
def test_lens_entropies_and_divergences_over_steps(make, options, quantity, axis):
    results = {step: make(2, 5, i) for i, step in enumerate((0, 10, 100))}
    axes = course(results, **options)
    assert axes.get_ylabel() == axis
    assert legend_of(axes) == ["embed", "resid_post.0", "resid_post.1"]
    profiles = [r.mean_profile() if quantity is None else r.mean_profile(quantity) for r in results.values()]
    for place, line in enumerate(lines(axes)):
        shift = 1 if "rank" in axis.lower() else 0
        np.testing.assert_allclose(line, [profile["mean"].iloc[place] + shift for profile in profiles])


def test_summaries_and_orders():
    results = {step: gallery.summary(2, 5 + step) for step in (1, 2)}
    [first, *_] = lines(course(results))
    np.testing.assert_allclose(first, [r.mean_profile()["mean"].iloc[0] for r in results.values()])
    several = {step: gallery.lens(2, 5, step, orders=(1.0, 2.0)) for step in (1, 2)}
    axes = course(several, order=2, sites="embed")
    assert (axes.get_ylabel(), legend_of(axes)) == ("Rényi entropy of order 2 (nats)", ["embed"])
    np.testing.assert_allclose(lines(axes)[0], [r.entropy[:, 0, 1].double().mean() for r in several.values()], rtol=1e-6)


def test_heads_over_steps():
    results = {step: gallery.head_entropy(2, 5 + step) for step in (1, 2)}
    axes = course(results, of="normalized")
    assert axes.get_ylabel() == "Entropy / log of keys"
    assert len(axes.lines) == 24
    assert legend_of(axes)[0] == "head 0.0"
    assert legend_of(axes)[-1] == "head 1.11"
    assert len(legend_of(axes)) == MOST_NAMED
    chosen = {step: r.select(layers=1, heads=[3]) for step, r in results.items()}
    assert legend_of(course(chosen, of="bos_share")) == ["head 1.3"]


def test_geometry_over_steps():
    results = {step: gallery.geometry(2, step) for step in (1, 2)}
    axes = course(results)
    assert axes.get_ylabel() == "Curvature (rad)"
    np.testing.assert_allclose(lines(axes)[1], [r.value("curvature")[1] for r in results.values()])


@pytest.mark.parametrize(
    ("results", "options", "error", "message"),
    [
        ({0: gallery.lens(2, 5), 1: gallery.divergence(2, 5)}, {}, InputTypeError, "one kind.*LayerDivergence, LensEntropy"),
        ({0: gallery.lens(2, 5), 1: gallery.lens(3, 5)}, {}, InputError, "at 3 places .*, another .* at 4 places"),
        ({0: gallery.lens(2, 5), 1: gallery.lens(2, 5).to("bits")}, {}, InputError, "same places, quantity and unit"),
        ({0: gallery.lens(2, 5), 1: gallery.lens(2, 5)}, {"label": "token"}, InputError, "label belongs to results of soft"),
        ({0: gallery.divergence(2, 5), 1: gallery.divergence(2, 5)}, {"order": 2}, InputError, "order belongs to results of"),
        ({0: gallery.head_entropy(2, 5), 1: gallery.head_entropy(2, 5)}, {"sites": "z"}, InputError, "sites: heads have none"),
        ({0: gallery.summary(2, 5), 1: gallery.summary(2, 5)}, {"of": "surprisal"}, InputError, "a summary holds no surprisal"),
    ],
)
def test_what_it_refuses_of_other_kinds(results, options, error, message):
    with pytest.raises(error, match=message):
        course(results, **options)


def test_it_is_public():
    assert tle.plots.course is course
