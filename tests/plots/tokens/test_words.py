"""What the figure of words draws: means of sites, the output last, or the words of a text with sums of tokens beside them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from drawn import ticks
from gallery import words as made
from matplotlib.container import ErrorbarContainer

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.tokens.words import words


def test_means_of_sites_with_errors_the_output_last():
    result = made(3, 4)
    axes = words(result)
    assert ticks(axes.xaxis) == ["resid_post.0", "resid_post.1", "resid_post.2", "output"]
    [bars] = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
    profile = result.mean_profile()
    np.testing.assert_allclose(bars.lines[0].get_ydata(), profile["mean"].to_numpy()[[1, 2, 3, 0]])
    ends = bars.lines[2][0].get_segments()
    np.testing.assert_allclose([end[1, 1] - end[0, 1] for end in ends], 2 * 1.96 * profile["se"].to_numpy()[[1, 2, 3, 0]])
    assert axes.get_ylabel() == "Surprisal of a word (nats)"
    assert words(result.to("bits")).get_ylabel().endswith("(bits)")


def test_of_many_sites_every_so_many_have_names_and_the_output_has():
    axes = words(made(96, 2))
    places = axes.get_xticks()
    assert places[-1] == 96
    assert ticks(axes.xaxis)[-1] == "output"
    assert len(set(np.diff(places))) == 1


def test_words_of_a_text():
    result = made(0, 5)
    axes = words(result)
    assert [bar.get_height() for bar in axes.patches] == pytest.approx(result.surprisal[:5, 0].tolist())
    marks = axes.collections[0].get_segments()
    assert [end for mark in marks for end in mark[:, 1]] == pytest.approx(result.pieces[:5, 0].repeat_interleave(2).tolist())
    for mark, bar in zip(marks, axes.patches, strict=True):
        assert mark[:, 0].tolist() == pytest.approx([bar.get_x(), bar.get_x() + bar.get_width()])
    assert len(words(made(2, 5), document=1).patches) == 5
    assert not words(dataclasses.replace(result, corrected=False)).collections
    many = words(made(0, 500))
    assert len(ticks(many.xaxis)) <= 40
    assert {round(bar.get_width(), 9) for bar in many.patches} == {1.0}, "gaps thinner than a dot would be seen as a pattern"


def test_what_it_does_not_draw():
    with pytest.raises(InputTypeError, match="result must be one of word_surprisal; got dict"):
        words({})
    with pytest.raises(InputError, match="document: 7 not in"):
        words(made(0, 5), document=7)
