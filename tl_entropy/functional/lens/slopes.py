"""The slopes behind ``linear.py``: sums over tiles of logits forwards, and their gradients over the same tiles backwards.

Forwards, of each row its log normaliser Z, its maximum and its entropy or divergence are kept, and no logit. Backwards, each
tile is multiplied out again, and the slope of what was asked for in each logit l_j is, with log p_j = l_j - Z,

    cross-entropy of t   p_j - [j = t]                           KL(r ‖ p)   p_j - r_j
    H_1                  -p_j·(log p_j + H_1)                    KL(p ‖ r)   p_j·(log(p_j / r_j) - KL)
    H_a                  a/(1 - a)·(q_j - p_j),  q_j = p_j^a / Σ p^a
    H_a, a near 1        -a·p_j·expm1((a - 1)·(log p_j + H_a)) / (a - 1)
    H_∞                  p_j - [j = the most probable token]

The last but one is the line above it, without a difference of what is nearly equal. From the slopes s come the gradients
scale·s·W' of h and scale·h'·s of W, tile by tile. So they take four products where stored logits take three, and none of the
passes over memory.

Refused: NaN and infinities in the logits, a second derivative.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.autograd import Function

from tl_entropy.errors import InputError
from tl_entropy.functional.lens.readout import refuse_rows
from tl_entropy.functional.lens.tiles import MASKED, combine, in_double, tile_sums
from tl_entropy.functional.pairs import combine_pairs, pair_sums
from tl_entropy.functional.probabilities import natural_exp
from tl_entropy.torch_state import plain

_COLUMNS, _ROWS = 48, 960
_TILE = _ROWS * 20 * _COLUMNS  # numbers of a buffer, of which a handful are held
# Above it an order's slopes are those of infinity: logits are not known well enough to tell.
_LARGEST_ORDER = 1e4


@dataclass(frozen=True, eq=False)
class Readout:
    """What makes logits of hidden states, a tile at a time; ``bias`` is times the scale, -inf standing as ``MASKED``."""

    unembedding: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    dtype: torch.dtype

    @classmethod
    def of(cls, unembedding: Tensor, bias: Tensor | None, scale: float, softcap: float | None, dtype: torch.dtype) -> Self:
        """From the arguments of ``linear_entropy``."""
        if bias is not None:
            bias = (bias.detach().to(dtype) * scale).clamp(min=MASKED)
        return cls(unembedding, bias, scale, softcap, dtype)

    def tiles(self, rows: int, share: int = 1) -> Iterator[tuple[slice, Iterator[slice]]]:
        """Yield the columns of each tile, with the rows of its blocks, a ``share`` of the usual size."""
        d_model, d_vocab = self.unembedding.shape
        block = max(1, math.ceil(rows / max(1, math.ceil(rows / _ROWS))))
        width = min(_TILE // share // block, 4 * _TILE // d_model) // _COLUMNS * _COLUMNS
        for start in range(0, d_vocab, max(_COLUMNS, width)):
            columns = slice(start, min(start + max(_COLUMNS, width), d_vocab))
            yield columns, (slice(first, min(first + block, rows)) for first in range(0, rows, block))

    def factor(self, columns: slice) -> Tensor:
        """The columns of the unembedding, in the dtype of the work."""
        return self.unembedding[:, columns].to(self.dtype)

    def logits(self, hidden: Tensor, factor: Tensor, columns: slice, out: Tensor) -> Tensor:
        """Write the logits [row, column] of ``hidden`` to ``out``."""
        if self.bias is None:
            torch.addmm(out, hidden.to(self.dtype), factor, beta=0, alpha=self.scale, out=out)
        else:
            torch.addmm(self.bias[columns], hidden.to(self.dtype), factor, alpha=self.scale, out=out)
        return out if self.softcap is None else out.div_(self.softcap).tanh_().mul_(self.softcap)

    def bend(self, logits: Tensor, out: Tensor) -> Tensor | None:
        """How much a logit rises with what is under its soft cap, written to ``out``; None without one."""
        if self.softcap is None:
            return None
        return torch.mul(logits, 1 / self.softcap, out=out).square_().neg_().add_(1)


class _Gradients:
    """Sums up the gradients of hidden states, unembedding and bias, each where it is asked for, from slopes of tiles."""

    def __init__(self, ctx: Any, hidden: Tensor, readout: Readout) -> None:
        asked = ctx.needs_input_grad
        self._readout = readout
        self.hidden = torch.zeros_like(hidden, dtype=readout.dtype) if asked[0] else None
        self.unembedding = torch.zeros_like(readout.unembedding) if asked[1] else None
        self.bias = None if not asked[2] else readout.unembedding.new_zeros(readout.unembedding.shape[1], dtype=readout.dtype)

    def begin(self, columns: slice) -> None:
        """Turn to a tile. What its blocks of rows add is summed in the dtype of the work."""
        if self.unembedding is not None:
            self._whole = self.unembedding[:, columns]
            same = self._whole.dtype == self._readout.dtype
            self._columns = self._whole if same else torch.zeros_like(self._whole, dtype=self._readout.dtype)

    def add(self, slopes: Tensor, hidden: Tensor, factor: Tensor, block: slice, columns: slice) -> None:
        """Take in the ``slopes`` [row, column] of a block of rows."""
        scale = self._readout.scale
        if self.hidden is not None:
            self.hidden[block].addmm_(slopes, factor.t(), alpha=scale)
        if self.unembedding is not None:
            self._columns.addmm_(hidden.to(self._readout.dtype).t(), slopes, alpha=scale)
        if self.bias is not None:
            self.bias[columns] += slopes.sum(0) * scale

    def end(self) -> None:
        """Put the sum of the tile in its place."""
        if self.unembedding is not None and self._columns is not self._whole:
            self._whole.copy_(self._columns)

    def of(self, hidden: Tensor, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients in the dtypes of what they are of."""
        of_hidden = None if self.hidden is None else self.hidden.to(hidden.dtype)
        return of_hidden, self.unembedding, None if self.bias is None or bias is None else self.bias.to(bias.dtype)


def _buffers(number: int, like: Tensor, readout: Readout, rows: int, share: int = 1) -> Tensor:
    """Room for so many tiles, and how to see one of them as [row, column]."""
    columns, blocks = next(readout.tiles(rows, share))
    block = next(blocks, slice(0, 0))
    return like.new_empty(number, (block.stop - block.start) * (columns.stop - columns.start), dtype=readout.dtype)


def _view(buffers: Tensor, block: slice, columns: slice) -> tuple[Tensor, ...]:
    shape = block.stop - block.start, columns.stop - columns.start
    return tuple(buffer[: math.prod(shape)].view(shape) for buffer in buffers)


def _refuse_second() -> None:
    if torch.is_grad_enabled():
        raise InputError(
            "linear_entropy, linear_cross_entropy and linear_kl_divergence have a first derivative, no second one "
            "(create_graph=True): take shannon_entropy, kl_divergence or log_softmax of the logits"
        )


class Losses(Function):
    """Rényi entropy of an order and cross-entropy of targets, either of them or both from the same products."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        unembedding: Tensor,
        bias: Tensor | None,
        readout: Readout,
        order: float | None,
        targets: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the entropies and the costs [row], None for what is not asked for."""
        rows = len(hidden)
        asked = math.inf if order is None else order
        top = top_logit = own = None
        if targets is not None:
            own = hidden.new_zeros(rows, dtype=readout.dtype)
        if order is not None and order > _LARGEST_ORDER:
            top = torch.zeros(rows, dtype=torch.int64, device=hidden.device)
            top_logit = hidden.new_full((rows,), -math.inf, dtype=readout.dtype)
        buffers = _buffers(4, hidden, readout, rows)
        tiles = []
        for columns, blocks in readout.tiles(rows):
            factor, parts = readout.factor(columns), []
            for block in blocks:
                logits, *scratch = _view(buffers, block, columns)
                readout.logits(hidden[block], factor, columns, logits)
                parts.append(tile_sums(logits, (asked,), scratch=(scratch[0], scratch[1], scratch[2])))
                if own is not None and targets is not None:
                    row, column = _targets_here(targets[block], columns)
                    own[block.start + row] = logits[row, column]
                if top is not None and top_logit is not None:
                    most, where = logits.max(-1)
                    higher = most > top_logit[block]
                    top[block] = torch.where(higher, where + columns.start, top[block])
                    top_logit[block] = torch.where(higher, most, top_logit[block])
            tiles.append(torch.cat(parts, -1) if parts else buffers.new_zeros(3, 0))
        sums = in_double(torch.stack(tiles))
        entropies, normalizer = combine(sums, (asked,))
        entropy = entropies[:, 0]
        bad = ~(normalizer.isfinite() & entropy.isfinite())
        refuse_rows(bad, 0, "hidden @ unembedding + bias must hold neither NaN nor +inf; it does")
        ctx.save_for_backward(hidden, unembedding, bias, targets, top, normalizer, sums[:, 0].amax(0), entropy)
        ctx.readout, ctx.order = readout, order
        loss = None
        if own is not None and targets is not None:
            loss = normalizer - in_double(own).masked_fill(in_double(own) <= MASKED / 2, -math.inf)
            loss = loss.masked_fill(targets.to(loss.device) < 0, 0.0).to(hidden.device, readout.dtype)
        return None if order is None else entropy.to(hidden.device, readout.dtype), loss

    @staticmethod
    def backward(ctx: Any, of_entropy: Tensor | None, of_loss: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of hidden states, unembedding and bias."""
        _refuse_second()
        hidden, _, bias, targets, top, *kept = ctx.saved_tensors
        readout, order = ctx.readout, ctx.order
        rows = len(hidden)
        device, dtype = hidden.device, readout.dtype
        if of_loss is not None and targets is not None:
            of_loss = of_loss.to(dtype).masked_fill(targets < 0, 0.0)
        if of_entropy is not None and top is not None:  # of order infinity: the cross-entropy of the most probable token
            targets, of_loss, of_entropy = top, of_entropy.to(dtype), None
        with plain(), torch.no_grad():
            gradients = _Gradients(ctx, hidden, readout)
            buffers = _buffers(4, hidden, readout, rows)
            for columns, blocks in readout.tiles(rows):
                factor = readout.factor(columns)
                gradients.begin(columns)
                for block in blocks:
                    logits, p, work, bent = _view(buffers, block, columns)
                    bend = readout.bend(readout.logits(hidden[block], factor, columns, logits), bent)
                    here = [row[block] for row in kept]
                    normalizer = here[0].to(device, dtype)[:, None]
                    log_p = logits.sub_(normalizer)
                    natural_exp(log_p, out=p)
                    slopes = None
                    if of_entropy is not None:
                        slopes = _entropy_slopes(order, log_p, p, work, here).mul_(of_entropy[block, None])
                    if of_loss is not None:
                        at = of_loss[block]
                        row, column = _targets_here(targets[block], columns)
                        p.mul_(at[:, None])
                        p[row, column] -= at[row]
                        slopes = p if slopes is None else slopes.add_(p)
                    if slopes is not None:
                        slopes = slopes if bend is None else slopes.mul_(bend)
                        gradients.add(slopes, hidden[block], factor, block, columns)
                gradients.end()
            return (*gradients.of(hidden, bias), None, None, None)


def _targets_here(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """The rows whose target is in the tile, and its column there."""
    row = ((targets >= columns.start) & (targets < columns.stop)).nonzero()[:, 0]
    return row, targets[row] - columns.start


def _entropy_slopes(order: float, log_p: Tensor, p: Tensor, work: Tensor, kept: list[Tensor]) -> Tensor:
    """How the entropy of an order changes with each logit; of ``kept``: log normaliser, maximum and entropy, in float64."""
    normalizer, maximum, entropy = kept
    device, dtype = p.device, p.dtype
    if order == 1:
        return log_p.add_(entropy.to(device, dtype)[:, None]).mul_(p).neg_()
    if abs(order - 1) < 0.5:
        growth = torch.add(log_p, entropy.to(device, dtype)[:, None], out=work).clamp_(min=-100.0).mul_(order - 1).expm1_()
        return growth.mul_(p).mul_(-order / (order - 1))
    # q relative to the maximum: log Σ p^a would be a times as far off as the entropy.
    log_s = normalizer - maximum
    log_power = order * log_s - (order - 1) * entropy
    shifted = torch.add(log_p, log_s.to(device, dtype)[:, None], out=work)
    natural_exp(shifted, order, work).mul_((-log_power).exp().to(device, dtype)[:, None])
    return work.sub_(p).mul_(order / (1 - order))


class Divergence(Function):
    """KL(r ‖ p) or KL(p ‖ r) of rows to those of a constant reference r."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        unembedding: Tensor,
        bias: Tensor | None,
        readout: Readout,
        reference: Tensor,
        other: Readout,
        reverse: bool,
    ) -> Tensor:
        """Return the divergences [row]."""
        rows = len(hidden)
        buffers = _buffers(8, hidden, readout, rows, 2).view(4, -1)
        tiles, pairs = [], []
        for columns, blocks in readout.tiles(rows, 2):
            factor, other_factor = readout.factor(columns), other.factor(columns)
            parts, compared = [], []
            for block in blocks:
                size = (2, block.stop - block.start, columns.stop - columns.start)
                both, *scratch = (buffer[: math.prod(size)].view(size) for buffer in buffers)
                other.logits(reference[block], other_factor, columns, both[0])
                readout.logits(hidden[block], factor, columns, both[1])
                parts.append(tile_sums(both, (math.inf,), scratch=(scratch[0], scratch[1], scratch[2])))
                compared.append(pair_sums(both, parts[-1][0], reference="previous", buffers=buffers[1:]))
            tiles.append(torch.cat(parts, -1) if parts else buffers.new_zeros(2, 2, 0))
            pairs.append(torch.cat(compared, -1) if compared else buffers.new_zeros(3, 1, 0))
        sums = in_double(torch.stack(tiles))
        _, normalizer = combine(sums, (math.inf,))
        refuse_rows(~normalizer.isfinite().all(0), 0, "hidden @ unembedding + bias must hold neither NaN nor +inf; it does")
        found = combine_pairs(in_double(torch.stack(pairs)), sums[:, 0], sums[:, 1], normalizer, "previous")
        divergence = found["reverse_kl" if reverse else "kl"][0]
        refuse_rows(~divergence.isfinite(), 0, "hidden @ unembedding must be small enough for differences of logits; it is not")
        ctx.save_for_backward(hidden, unembedding, bias, reference, normalizer, divergence)
        ctx.readout, ctx.other, ctx.reverse = readout, other, reverse
        return divergence.to(hidden.device, readout.dtype)

    @staticmethod
    def backward(ctx: Any, of_divergence: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of hidden states, unembedding and bias."""
        _refuse_second()
        hidden, _, bias, reference, normalizer, divergence = ctx.saved_tensors
        readout, other = ctx.readout, ctx.other
        rows = len(hidden)
        normalizer, divergence = (row.to(hidden.device, readout.dtype) for row in (normalizer, divergence))
        weight = of_divergence.to(readout.dtype)
        with plain(), torch.no_grad():
            gradients = _Gradients(ctx, hidden, readout)
            buffers = _buffers(4, hidden, readout, rows, 2)
            for columns, blocks in readout.tiles(rows, 2):
                factor, other_factor = readout.factor(columns), other.factor(columns)
                gradients.begin(columns)
                for block in blocks:
                    log_r, log_p, p, bent = _view(buffers, block, columns)
                    other.logits(reference[block], other_factor, columns, log_r)
                    bend = readout.bend(readout.logits(hidden[block], factor, columns, log_p), bent)
                    log_r.sub_(normalizer[0, block, None])
                    natural_exp(log_p.sub_(normalizer[1, block, None]), out=p)
                    if ctx.reverse:
                        slopes = log_p.sub_(log_r).sub_(divergence[block, None]).mul_(p)
                    else:
                        slopes = p.sub_(natural_exp(log_r, out=log_r))
                    slopes.mul_(weight[block, None])
                    slopes = slopes if bend is None else slopes.mul_(bend)
                    gradients.add(slopes, hidden[block], factor, block, columns)
                gradients.end()
            return (*gradients.of(hidden, bias), None, None, None, None)
