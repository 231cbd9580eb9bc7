"""What hooks see of streams with cells and chunks: tokens at their positions, and what they return goes back there."""

from __future__ import annotations

import math

import pytest
import torch

from tl_entropy.estimation.showing import Showing

CASES = [(0, 1, 4), (2, 1, 4), (0, 3, 11), (2, 3, 11), (1, 2, 5)]


def streams(cells, chunks, length):
    """Rows [2, length, 3] of tokens, and their stream."""
    t = -(-length // chunks)
    whole = torch.arange(2 * chunks * t * 3.0).reshape(2, chunks * t, 3)
    stream = torch.cat([torch.full((2 * chunks, cells, 3), -1.0), whole.reshape(2 * chunks, t, 3)], 1)
    return whole[:, :length], stream


@pytest.mark.parametrize("case", CASES)
def test_hooks_see_tokens_at_their_positions_and_edits_go_back(case):
    tokens, stream = streams(*case)
    showing, seen = Showing(*case), []

    def point(x):
        seen.append(x)
        return x + 100

    after = showing.past(point, stream)
    assert torch.equal(seen[0], tokens)
    assert torch.equal(showing.tokens(after), tokens + 100)
    assert torch.equal(after[:, : case[0]], stream[:, : case[0]]), "cells stay"


@pytest.mark.parametrize("case", CASES)
def test_patterns_are_shown_by_token_and_edits_go_back(case):
    cells, chunks, length = case
    n = cells + -(-length // chunks)
    scores = torch.randn(2 * chunks, 3, n, n, generator=torch.Generator().manual_seed(0))
    showing, seen = Showing(*case), []
    same = showing.past_pattern(lambda x: seen.append(x) or x, scores, nothing=-math.inf)
    assert torch.equal(same, scores)
    assert seen[0].shape == (2, 3, length, length)
    t = n - cells
    for q in range(length):
        for k in range(length):
            inside = q // t == k // t
            right = scores[q // t, :, cells + q % t, cells + k % t] if inside else torch.full((3,), -math.inf)
            assert torch.equal(seen[0][0, :, q, k], right)
    doubled = showing.past_pattern(lambda x: 2 * x, scores, nothing=0.0)
    assert torch.equal(doubled[:, :, :cells], scores[:, :, :cells])
    assert torch.equal(doubled[:, :, :, :cells], scores[:, :, :, :cells])
    assert torch.equal(doubled[0, :, cells:, cells:], 2 * scores[0, :, cells:, cells:])


def test_scores_for_cells_alone_pass_their_hook():
    scores = torch.zeros(1, 2, 5, 5)
    hidden = Showing(cells=2).past_cells(lambda x: x.new_full(x.shape, -1.0), scores)
    assert hidden[0, 0].tolist() == [[0] * 5] * 2 + [[-1, -1, 0, 0, 0]] * 3
