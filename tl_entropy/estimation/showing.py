"""What hooks see of a stream: tokens, one position each, whatever stands between or in front of them.

A decoder's stream may have cells of a memory in front of its tokens, and rows may be cut into chunks that are rows of their
own. Hooks see neither: what passes them is [batch, pos, ...] with a position for each token of a row, and what they return goes
back to where it was taken from. Without that, every position of every measurement would be off by the number of cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

Passing = Callable[[Tensor], Tensor]
"""A hook point, or what else hands a tensor on."""


@dataclass(frozen=True)
class Showing:
    """How a stream [batch * chunks, cells + pos, ...] is to be shown.

    Attributes:
        cells: positions in front that are no tokens.
        chunks: chunks of each row, which are rows of the stream.
        length: tokens of each row.

    >>> x = torch.arange(8.0).reshape(2, 4, 1)  # one row of two chunks, each with a cell in front of three tokens
    >>> Showing(cells=1, chunks=2, length=5).tokens(x).flatten().tolist()
    [1.0, 2.0, 3.0, 5.0, 6.0]
    """

    cells: int = 0
    chunks: int = 1
    length: int = 0

    def past(self, point: Passing, x: Tensor) -> Tensor:
        """The stream after its tokens have passed a hook."""
        if not self.cells and self.chunks == 1:
            return point(x)
        return torch.cat([x[:, : self.cells], self._chunked(point(self.tokens(x)), x.shape[1] - self.cells)], 1)

    def tokens(self, x: Tensor) -> Tensor:
        """The tokens of a stream, [batch, pos, ...]."""
        x = x[:, self.cells :]
        return x if self.chunks == 1 else rearrange(x, "(b c) t ... -> b (c t) ...", c=self.chunks)[:, : self.length]

    def past_memory(self, point: Passing, x: Tensor) -> Tensor:
        """The stream after its cells [batch * chunks, cell, d_model] have passed a hook."""
        return torch.cat([point(x[:, : self.cells]), x[:, self.cells :]], 1)

    def _chunked(self, x: Tensor, t: int) -> Tensor:
        if self.chunks == 1:
            return x
        behind = x.new_zeros(x.shape[0], self.chunks * t - x.shape[1], *x.shape[2:])
        return rearrange(torch.cat([x, behind], 1), "b (c t) ... -> (b c) t ...", c=self.chunks)

    def past_pattern(self, point: Passing, x: Tensor, *, nothing: float) -> Tensor:
        """The same of attention [batch * chunks, head, query, key]; of other chunks' keys hooks see ``nothing``."""
        if not self.cells and self.chunks == 1:
            return point(x)
        m = self.cells
        shown = self._unblocked(point(self._blocked(x[:, :, m:, m:], nothing)), x)
        return torch.cat([x[:, :, :m], torch.cat([x[:, :, m:, :m], shown], 3)], 2)

    def past_cells(self, point: Passing, x: Tensor) -> Tensor:
        """Attention scores after those of tokens for cells, [batch * chunks, head, query, cell], have passed a hook."""
        m = self.cells
        return torch.cat([x[:, :, :m], torch.cat([point(x[:, :, m:, :m]), x[:, :, m:, m:]], 3)], 2)

    def _blocked(self, x: Tensor, nothing: float) -> Tensor:
        if self.chunks == 1:
            return x
        n, t, each = self.chunks, x.shape[2], torch.arange(self.chunks, device=x.device)
        whole = x.new_full((x.shape[0] // n, x.shape[1], n, t, n, t), nothing)
        whole[:, :, each, :, each] = rearrange(x, "(b c) h q k -> c b h q k", c=n)
        return rearrange(whole, "b h c q d k -> b h (c q) (d k)")[:, :, : self.length, : self.length]

    def _unblocked(self, shown: Tensor, x: Tensor) -> Tensor:
        """What hooks have returned, as it goes back into ``x``, whose cells beyond the row's end stay as they are."""
        if self.chunks == 1:
            return shown
        n, t, each = self.chunks, x.shape[2] - self.cells, torch.arange(self.chunks, device=x.device)
        missing = n * t - self.length
        whole = F.pad(shown, (0, missing, 0, missing))
        blocks = rearrange(whole, "b h (c q) (d k) -> b h c q d k", c=n, d=n)[:, :, each, :, each]
        real = torch.arange(n * t, device=x.device).reshape(n, t) < self.length
        both = (real[:, :, None] & real[:, None])[:, None, None]
        own = rearrange(x[:, :, self.cells :, self.cells :], "(b c) h q k -> c b h q k", c=n)
        return rearrange(torch.where(both, blocks, own), "c b h q k -> (b c) h q k")
