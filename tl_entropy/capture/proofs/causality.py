"""That a model looks back only, and that neither a mask of ones nor padding that it hides tells it anything.

What a measurement says of a *next* token, it says before the model has seen that token. A model whose earlier states move when
the last token of a row changes has seen it: attention in both directions, or a decoder whose memory holds the whole text. And
passes hand on a mask: a model that a mask of ones changes is not the one that its user runs without. And texts of several
lengths share a pass, the shorter ones padded: a model that gives a padded row other states than the row alone has read padding.

All is seen on one short pass with a mask, over a row, the same with another last token, and its first half padded, and on one
without. Refused: lenses, losses and everything else that speaks of a next token, where the model looks ahead; caches padded on
the left, where that matters. Where padding on the right matters, batches are of one length; where a mask of ones does, they
are, too, and no mask is handed on.
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


class Sight(NamedTuple):
    """How far states move, in units of what rounding may do: above 1 they do move.

    Attributes:
        later: states before the last token, when that token changes; without a mask, where a mask of ones matters.
        mask: states of a row, when a mask of ones is handed on.
        padding: states of a row, when it is padded on the right behind its mask; infinite where no mask can hide it.
    """

    later: float
    mask: float
    padding: float


class Unmasked(NamedTuple):
    """What a model makes of the proofs' rows without a mask.

    Attributes:
        states: the last ones [row, pos, d_model]; None where there is no hook that fires.
        logits: of the first row [1, pos, d_vocab].
    """

    states: Tensor | None
    logits: Tensor


def unmasked(runner: Runner) -> Unmasked:
    """The pass without a mask, which the readout's proof looks at, too."""
    with runner.proving():
        states, logits = runner.state_and_logits(_rows(runner)[0], runner.last_site)
    return Unmasked(states, logits[:1].clone())


def sight(runner: Runner, without: Unmasked) -> Sight:
    """What moves a model's last states on a short pass; 0 where it has no state to look at."""
    rows, mask = _rows(runner)
    n = int(mask[2].sum())
    with runner.proving():
        masked, plain = _states(runner, rows, mask), _like_tokens(without.states, rows)
        if masked is None or plain is None:
            return Sight(0.0, 0.0, 0.0)
        first, second, third = masked
        alike, apart = _tolerances(runner, masked.dtype)
        moved = _movement(masked[:2], plain[:2]) / apart
        if moved > 1:
            return Sight(_movement(plain[0][:-1], plain[1][:-1]) / alike, moved, math.inf)
        later = _movement(first[:-1], second[:-1]) / alike
        if later <= 1:  # then the row's first half is what the half gives alone
            padding = _movement(third[:n], first[:n]) / alike
        else:
            alone = _states(runner, rows[:1, :n])
            padding = 0.0 if alone is None else _movement(third[:n], alone[0]) / apart
    return Sight(later, moved, padding)


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
    return tuple(table.get(dtype, table[torch.bfloat16]) for table in (_OF_A_BATCH, _TOLERANCE))  # type: ignore[return-value]


def _rows(runner: Runner) -> tuple[Tensor, Tensor]:
    """A short row, the same with another last token, and its first half, padded; and their mask."""
    row = runner.short_row()
    other, n = row.clone(), (row.shape[1] + 1) // 2
    other[0, -1] = (row[0, -1] + runner.d_vocab // 2) % runner.d_vocab
    padded, mask = _padded(runner, row[:, :n], row.shape[1] - n, left=False)
    ones = torch.ones_like(row)
    return torch.cat([row, other, padded]), torch.cat([ones, ones, mask])


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


def _movement(one: Tensor, other: Tensor) -> float:
    one, other = one.double(), other.double()
    if not one.numel() or not bool((one.isfinite() & other.isfinite()).all()):
        return 0.0  # what is not finite is told where it is measured
    size = other.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    return float((one - other).abs().max() / size)
