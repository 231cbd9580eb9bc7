"""What the figure of features of spans shows: medians and middle halves, apart for labels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from drawn import legend
from gallery import span_values

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.tokens.features import features


def test_the_middle_half_of_all_spans_or_of_those_of_either_label():
    result, labels = span_values(4)
    values, label = result.values.numpy(), np.array(labels)
    axes = features(result)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.median(values, 0))
    [ends] = axes.collections
    np.testing.assert_allclose(np.array(ends.get_segments())[:, :, 1].T, np.quantile(values, [0.25, 0.75], 0))
    assert axes.get_legend() is None
    axes = features(result, labels)
    assert legend(axes) == ["True", "False"]
    for line, part in zip(axes.lines, (values[label], values[~label]), strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.median(part, 0))
    assert not set(axes.lines[0].get_xdata()) & set(axes.lines[1].get_xdata())


def test_spans_without_a_value_do_not_count():
    result, _ = span_values(2, spans=5)
    values = result.values.clone()
    values[1, 0], values[:, 1] = torch.nan, torch.nan
    [line] = features(dataclasses.replace(result, values=values)).lines
    known = values[:, 0].numpy()
    np.testing.assert_allclose(line.get_ydata(), [np.median(known[[0, 2, 3, 4]]), np.nan])
    with pytest.raises(InputError, match="no span with a finite value"):
        features(dataclasses.replace(result, values=torch.full_like(values, torch.nan)))


def test_what_it_does_not_draw():
    result, labels = span_values(2)
    with pytest.raises(InputTypeError, match="result must be one of span_features; got list"):
        features([])
    with pytest.raises(InputError, match=r"features in nats, no unit; choose those of one with result.select"):
        features(dataclasses.replace(result, units=("nats", "")))
    with pytest.raises(InputError, match="labels must be one for each of 12 spans"):
        features(result, labels[1:])
