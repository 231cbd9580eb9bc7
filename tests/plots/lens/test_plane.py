"""The plane of a lens's predictions: what is drawn, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from drawn import legend
from gallery import lens, summary
from matplotlib.collections import PathCollection

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots import information_plane, lens_plane


def points(axes):
    return [part.get_offsets() for part in axes.collections if isinstance(part, PathCollection)]


def without_last(result):
    """As it is measured: the last token of a document has no next one."""
    surprisal = result.surprisal.clone()
    surprisal[result.position == result.position.max()] = torch.nan
    return dataclasses.replace(result, surprisal=surprisal)


def test_points_are_means_over_tokens_that_have_a_next_one():
    result = without_last(lens(3, 5, high=False))
    axes = lens_plane(result)
    known = ~result.surprisal[:, 0].isnan()
    [at] = points(axes)
    np.testing.assert_allclose(at[:, 0], result.entropy[known, :, 0].double().mean(0), rtol=1e-6)
    np.testing.assert_allclose(at[:, 1], result.mean_profile("surprisal")["mean"], rtol=1e-6)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Entropy (nats)", "Surprisal of the next token (nats)")
    assert {"embed", "layer 2"} <= {text.get_text() for text in axes.texts}
    assert len(axes.figure.axes) == 1
    assert lens_plane(result.to("bits")).get_xlabel() == "Entropy (bits)"


def test_several_results_and_orders():
    results = {"a": lens(3, 5, high=False, orders=(1.0, 2.0)), "b": lens(4, 5, 1, high=False, orders=(1.0, 2.0))}
    axes = lens_plane(results, order=2, sites="resid_post")
    assert legend(axes) == ["a", "b"]
    assert [len(at) for at in points(axes)] == [3, 4]
    np.testing.assert_allclose(points(axes)[0][:, 0], results["a"].entropy[:, 1:, 1].double().mean(0), rtol=1e-6)
    assert axes.get_xlabel() == "Rényi entropy of order 2 (nats)"
    assert axes.figure.axes[-1].get_ylabel() == "Layer"


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda: dataclasses.replace(lens(2, 5), surprisal=None), {}, InputError, r"holds no surprisal; ask for it with"),
        (lambda: without_last(lens(2, 1)), {}, InputError, "holds no token with a next one"),
        (lambda: [lens(2, 5), lens(2, 5, 1).to("bits")], {}, InputError, "one unit"),
        (lambda: lens(2, 5), {"order": 3}, InputError, "order must be one of 1.0; got 3"),
        (lambda: lens(2, 5, orders=(2.0, 3.0)), {}, InputError, "order: choose one of the 2"),
        (lambda: summary(2, 5), {}, InputTypeError, "lens_entropy of every position; got LensSummary"),
    ],
)
def test_what_it_refuses(make, options, error, message):
    with pytest.raises(error, match=message):
        lens_plane(make(), **options)


def test_the_plane_of_soft_information_names_it():
    with pytest.raises(InputTypeError, match=r"plots\.lens_plane"):
        information_plane(lens(2, 5))
