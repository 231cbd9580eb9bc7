r"""Statistics of logits that are moved along a few directions: many changes of the same rows, with one product for all.

With l_i the logits of row i without their constants, u_c = d_c @ W what a change's direction adds to them, v a fixed vector
over the vocabulary and k the constants, the logits of row i under change c are

    cap(scale · (f_ic · l_i + a_ic · u_c + e_ic · v + k)).

The vocabulary goes by in tiles, as in ``readout.py``: of each, l and u are products made once, and a change is a multiply and
an add more, not a product with W. Memory beyond the results is a few tiles, whatever the number of changes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tl_entropy.functional.lens.tiles import MASKED, combine, combine_mass, in_double, tile_sums

_ROWS, _WIDTH = 960, 960  # a tile of a million numbers stays near the processor


class Moves(NamedTuple):
    """Changes of rows.

    Attributes:
        factor: [change, row] f.
        amount: [change, row] a.
        direction: [change] int64, the number of each change's direction; -1 for none.
        along: [change, row] e.
    """

    factor: Tensor
    amount: Tensor
    direction: Tensor
    along: Tensor


class Moved(NamedTuple):
    """What the distributions are then, in nats, float64: each [change, row].

    Attributes:
        entropy: Shannon's.
        loss: surprisal of the targets.
        cost: Σ p · cost.
    """

    entropy: Tensor
    loss: Tensor
    cost: Tensor


class Constants(NamedTuple):
    """What holds for all rows and changes.

    Attributes:
        unembedding: W [d_model, d_vocab].
        shift: k [d_vocab]; -inf masks a token.
        along: v [d_vocab].
        cost: [d_vocab] from 0 on, such as -log of a frequency.
        scale: factor on the logits.
        softcap: c in c·tanh(logits / c), or None.
    """

    unembedding: Tensor
    shift: Tensor
    along: Tensor
    cost: Tensor
    scale: float
    softcap: float | None


@torch.no_grad()
def moved_statistics(hidden: Tensor, directions: Tensor, moves: Moves, targets: Tensor, of: Constants) -> Moved:
    """Entropy, loss and cost of rows under every change.

    Args:
        hidden: [row, d_model], normed rows whose product with W are logits without constants; float32 or float64.
        directions: [direction, d_model], d, likewise.
        moves: the changes.
        targets: [row] int64.
        of: the unembedding and what goes with it.

    >>> w, none = torch.eye(2), torch.zeros(1, 1)
    >>> of = Constants(w, torch.zeros(2), torch.zeros(2), torch.tensor([0.0, 1.0]), 1.0, None)
    >>> move = Moves(torch.ones(1, 1), 2 * torch.ones(1, 1), torch.tensor([0]), none)
    >>> found = moved_statistics(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 0.0]]), move, torch.tensor([0]), of)
    >>> [round(float(x.exp()), 3) for x in found]  # logits 3 and 3
    [2.0, 2.0, 1.649]
    """
    blocks = [
        _block(hidden[rows], directions, Moves(*(x if x.ndim == 1 else x[:, rows] for x in moves)), targets[rows], of)
        for first in range(0, max(len(hidden), 1), _ROWS)
        for rows in [slice(first, first + _ROWS)]
    ]
    return Moved(*(torch.cat(parts, 1) for parts in zip(*blocks, strict=True)))


def _block(hidden: Tensor, directions: Tensor, moves: Moves, targets: Tensor, of: Constants) -> Moved:
    n_rows, d_vocab, most = len(hidden), of.unembedding.shape[1], float(of.cost.max()) or 1.0
    n_changes = len(moves.direction)
    tiles = []
    own = hidden.new_zeros(n_changes, n_rows)
    scratch = [hidden.new_empty(n_rows, min(_WIDTH, d_vocab)) for _ in range(4)]
    for start in range(0, d_vocab, _WIDTH):
        here = slice(start, start + _WIDTH)
        weights, shift, along = (x[..., here].to(hidden.dtype) for x in (of.unembedding, of.shift, of.along))
        cost = (of.cost[here] / most).to(hidden.dtype)
        logits, added, masked = hidden @ weights, directions @ weights, shift == -math.inf
        width = logits.shape[1]
        work, z, e, more = (buffer[:, :width] for buffer in scratch)
        inside = ((targets >= start) & (targets < start + width)).nonzero()[:, 0]
        of_tile = []
        for change, direction in enumerate(moves.direction.tolist()):
            x = torch.mul(logits, moves.factor[change, :, None], out=work)
            if direction >= 0:
                x.addcmul_(moves.amount[change, :, None], added[direction])
            x.addcmul_(moves.along[change, :, None], along)
            x.add_(shift).mul_(of.scale)
            if of.softcap is not None:
                x.div_(of.softcap).tanh_().mul_(of.softcap)
            x.masked_fill_(masked, MASKED)
            own[change, inside] = x[inside, targets[inside] - start]
            of_tile.append(tile_sums(x, (1.0,), (), (z, e, more), subset=cost))
        tiles.append(torch.stack(of_tile, 1))  # [sum, change, row]
    sums = in_double(torch.stack(tiles))
    entropies, normalizer = combine(sums[:, :3], (1.0,))
    return Moved(entropies[..., 0], normalizer - in_double(own), combine_mass(sums, sums[:, 3]).exp() * most)
