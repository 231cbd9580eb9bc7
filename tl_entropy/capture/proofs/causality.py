"""That a model looks back only, and that neither a mask of ones, padding that it hides nor other rows tell it anything.

What a measurement says of a *next* token, it says before the model has seen that token. A model whose earlier states move when
the last token of a row changes has seen it: attention in both directions, or a decoder whose memory holds the whole text. And
passes hand on a mask: a model that a mask of ones changes is not the one that its user runs without. And texts of several
lengths share a pass, the shorter ones padded: a model that gives a padded row other states than the row alone has read padding.
And texts that share a pass are read by themselves: a model that normalises over a batch, or whose experts take so many tokens
of a batch and no more, gives a row other states beside other rows.

All is seen on two short passes. One is with a mask, over a row, the same with another last token, and its first half padded,
and one without; in front of these, each has a crowd of rows, in which one token each is repeated, so that the experts of the
row's first tokens are full in one pass, and those of its last in the other. Where states move, further passes tell by what.

Refused: lenses, losses and everything else that speaks of a next token, where the model looks ahead; caches padded on the left,
where that matters, and those of several rows, where rows matter to each other. Where padding on the right matters, batches are
of one length; where a mask of ones does, they are, too, and no mask is handed on; where other rows do, a pass has one row.

A limit that only a fuller batch reaches is not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tl_entropy.capture.condition import quantised
from tl_entropy.capture.hooks import modules_of
from tl_entropy.capture.runner import Runner
from tl_entropy.errors import ModelError

# Largest movement allowed, relative to the states' size. Rows of one batch round alike; passes with and without a mask may not.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
_OF_A_BATCH = {torch.float64: 1e-7, torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}
PROVED = 12
"""Tokens of the longest row of these passes."""

_THREE, _CROWD = 3, 5
"""Rows that are looked at, and those in front of them."""


class Sight(NamedTuple):
    """How far states move, in units of what rounding may do: above 1 they do move.

    Attributes:
        later: states before the last token, when that token changes; without a mask, where a mask of ones matters.
        mask: states of a row, when a mask of ones is handed on.
        padding: states of a row, when it is padded on the right behind its mask; infinite where no mask can hide it.
        neighbours: states of a row at most of its positions, when other rows of its batch change: rounding, which is another
            where experts have other tokens, may send single ones to other experts.
    """

    later: float
    mask: float
    padding: float
    neighbours: float


class Unmasked(NamedTuple):
    """What a model makes of the proofs' rows without a mask.

    Attributes:
        states: the last ones of the three rows [row, pos, d_model]; None where there is no hook that fires.
        logits: of the first of them [1, pos, d_vocab].
    """

    states: Tensor | None
    logits: Tensor


def unmasked(runner: Runner) -> Unmasked:
    """The pass without a mask, which the readout's proof looks at, too."""
    rows = _crowded(_rows(runner)[0], first=False)
    with runner.proving():
        states, logits = runner.state_and_logits(rows, runner.last_site)
    behind = len(rows) - _THREE
    return Unmasked(None if states is None else states[behind:], logits[behind : behind + 1].clone())


def sight(runner: Runner, without: Unmasked) -> Sight:
    """What moves a model's last states on a short pass; 0 where it has no state to look at."""
    rows, mask = _rows(runner)
    n = int(mask[2].sum())
    with runner.proving():
        crowded, crowded_mask = _crowded(rows), _crowded(mask, ones=True)
        masked, plain = _states(runner, crowded, crowded_mask), _like_tokens(without.states, rows)
        if masked is None or plain is None:
            return Sight(0.0, 0.0, 0.0, 0.0)
        masked = masked[-_THREE:]
        alike, apart = _tolerances(runner, masked.dtype)
        fine = _of_dtype(_TOLERANCE, masked.dtype)
        moved, neighbours = _movement(masked[:2], plain[:2]), 0.0
        if moved > fine and (again := _states(runner, crowded)) is not None:  # by the mask, or by the crowd, another one there
            neighbours = _movement(again[-_THREE:][:2], plain[:2], typical=True) / fine
            if neighbours > 1:
                return _alone(runner, rows[:2], neighbours)
            moved = _movement(masked[:2], again[-_THREE:][:2])
        moved /= apart
        if moved > 1:
            return Sight(_movement(plain[0][:-1], plain[1][:-1]) / alike, moved, math.inf, neighbours)
        first, second, third = masked
        later = _movement(first[:-1], second[:-1]) / alike
        if later <= 1:  # then the row's first half is what the half gives alone
            padding = _movement(third[:n], first[:n]) / alike
        else:
            alone = _states(runner, rows[:1, :n])
            padding = 0.0 if alone is None else _movement(third[:n], alone[0]) / apart
    return Sight(later, moved, padding, neighbours)


def _alone(runner: Runner, rows: Tensor, neighbours: float) -> Sight:
    """What moves the states of a model that reads one row at a time, which none is padded for."""
    first, second = (_states(runner, row[None]) for row in rows)
    masked = _states(runner, rows[:1], torch.ones_like(rows[:1]))
    if first is None or second is None or masked is None:
        return Sight(0.0, 0.0, math.inf, neighbours)
    alike, apart = _tolerances(runner, first.dtype)
    return Sight(_movement(first[0, :-1], second[0, :-1]) / alike, _movement(masked, first) / apart, math.inf, neighbours)


def last_moves(runner: Runner, row: Tensor, *, together: bool) -> float:
    """How far the earlier states of a row [1, pos] move when its last token changes, in the same units.

    Args:
        runner: of the model.
        row: any tokens.
        together: whether both rows share a pass, so that they are rounded alike whatever the model does.
    """
    rows = torch.cat([row, _with_another_end(runner, row)])
    with runner.proving():
        passes = [_states(runner, some) for some in rows.split(2 if together else 1)]
    seen = [states for states in passes if states is not None]
    if len(seen) < len(passes):
        return 0.0
    one, other = torch.cat(seen)
    return _movement(one[:-1], other[:-1]) / _tolerances(runner, one.dtype)[0]


def left_padding(runner: Runner) -> float:
    """How far states of a row move when it is padded on the left behind its mask, in the same units."""
    row = runner.short_row()
    short = row[:, : (row.shape[1] + 1) // 2]
    n = short.shape[1]
    padded, mask = _padded(runner, short, row.shape[1] - n, left=True)
    with runner.proving():
        both = _states(runner, torch.cat([row, padded]), torch.cat([torch.ones_like(row), mask]))
        alone = _states(runner, short)
    if both is None or alone is None:
        return 0.0
    return _movement(both[1, -n:], alone[0]) / _tolerances(runner, both.dtype)[1]


def _tolerances(runner: Runner, dtype: torch.dtype) -> tuple[float, float]:
    """The largest movements allowed between rows of one batch, and between batches."""
    if any(map(quantised, modules_of(runner.model))):
        return (_TOLERANCE[torch.bfloat16],) * 2  # it may round what it reads, too, in steps that depend on all that it reads
    return _of_dtype(_OF_A_BATCH, dtype), _of_dtype(_TOLERANCE, dtype)


def _of_dtype(table: dict[torch.dtype, float], dtype: torch.dtype) -> float:
    return table.get(dtype, table[torch.bfloat16])


def _rows(runner: Runner) -> tuple[Tensor, Tensor]:
    """A short row, the same with another last token, and its first half, padded; and their mask."""
    row = runner.short_row()
    n = (row.shape[1] + 1) // 2
    padded, mask = _padded(runner, row[:, :n], row.shape[1] - n, left=False)
    ones = torch.ones_like(row)
    return torch.cat([row, _with_another_end(runner, row), padded]), torch.cat([ones, ones, mask])


def _with_another_end(runner: Runner, row: Tensor) -> Tensor:
    other = row.clone()
    other[0, -1] = runner.another(row[0, -1])
    return other


def _crowded(rows: Tensor, *, first: bool = True, ones: bool = False) -> Tensor:
    """Rows [row, pos] behind a crowd: rows of one of their first tokens each, or of their last; or behind so many ones."""
    row = rows[:1]
    n = min(_CROWD, row.shape[1])
    tokens = row[0, :n] if first else row[0, -n:].flip(0)
    crowd = torch.ones_like(row).expand(n, -1) if ones else tokens[:, None].expand(-1, row.shape[1])
    return torch.cat([crowd, rows])


def _padded(runner: Runner, row: Tensor, n: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """A row [1, pos] with ``n`` cells of padding, and its mask."""
    cells, ones = row.new_full((1, n), runner.pad_id), torch.ones_like(row)
    tokens = [cells, row] if left else [row, cells]
    mask = [torch.zeros_like(cells), ones] if left else [ones, torch.zeros_like(cells)]
    return torch.cat(tokens, 1), torch.cat(mask, 1)


def _states(runner: Runner, rows: Tensor, mask: Tensor | None = None) -> Tensor | None:
    """The last states [row, pos, d_model]; None where the model has none that are laid out like its tokens."""
    return _like_tokens(runner.state_and_logits(rows, runner.last_site, mask=mask)[0], rows)


def _like_tokens(states: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if states is None or states.shape[:2] != rows.shape else states


def check_causal(seen: Sight, cause: Callable[[], str]) -> None:
    """Raise ModelError where a model looks ahead; ``cause`` is asked by what."""
    if seen.later > 1:
        raise ModelError(
            "this model looks ahead: on a short pass its states move when only a later token changes, so nothing that it says "
            f"at a position is about a next token that it has not seen ({cause()}). Lenses, losses and surprisals are refused; "
            "patterns, soft_information and layer_similarity are not. A model that is meant to look ahead says so by "
            "cfg.reads_ahead = True, and is then measured as it is"
        )


def _movement(one: Tensor, other: Tensor, *, typical: bool = False) -> float:
    """The largest change of any number, relative to their size; or the median over positions of each one's largest."""
    one, other = one.double(), other.double()
    if not one.numel() or not bool((one.isfinite() & other.isfinite()).all()):
        return 0.0  # what is not finite is told where it is measured
    size = other.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    largest = (one - other).abs().amax(-1)
    return float((largest.median() if typical else largest.max()) / size)
