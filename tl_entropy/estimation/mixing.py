r"""What moves information between tokens: convolutions over positions, flat, with a kernel or in heads; and attention.

A masked convolution has positions as its channels. The flat one gives position t, component by component,

    y[b, t, c] = bias[t] + Σ_s W[t, s] x[b, s, c],

one with a kernel of k mixes neighbouring components, too, with zeros beyond the width:

    y[b, t, c] = bias[t] + Σ_j Σ_s W[j, t, s] x[b, s, c + j - (k - 1) // 2],

so the order of a width's components means something there, and they must not be permuted. In heads, every part of a projected
width has a flat convolution of its own. Where a mixer is causal, W is multiplied by a lower triangle of ones, its diagonal
included, **in every forward pass**: a mask that is applied once is undone by the first step of an optimiser. Rows that are
shorter than the context use the top left corner of W.

Attention is Vaswani et al.'s (2017) with rotary positions (Su et al. 2021) on queries and keys, and on nothing else: where all
positions hold the same, what it gives is the same at all of them.

Padding holds zeros where a mixer reads it, and is no key. What cells of a memory stand in front, hooks do not see.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from tl_entropy.estimation.config import Stack
from tl_entropy.estimation.showing import Showing


class Convolution(nn.Module):
    """One masked convolution over positions; its weight is [kernel, to, from].

    >>> mixer = Convolution(Stack("conv", 4, 6, 1, 1, 3, True, 0))
    >>> mixer.weight.shape, mixer(torch.zeros(2, 3, 6), None, Showing()).shape
    (torch.Size([3, 4, 4]), torch.Size([2, 3, 6]))
    """

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.causal = stack.causal
        self.weight = nn.Parameter(_weights(stack.kernel, stack.positions, maps=stack.kernel))
        self.bias = nn.Parameter(torch.zeros(stack.positions))

    def forward(self, x: Tensor, mask: Tensor | None, showing: Showing) -> Tensor:
        """[batch, pos, d_model] to the same."""
        weight, bias = masked(self.weight, x.shape[1], causal=self.causal), self.bias[: x.shape[1]]
        x = without_padding(x, mask)
        if len(weight) == 1:
            return weight[0] @ x + bias[:, None]
        left = (len(weight) - 1) // 2
        return F.conv1d(F.pad(x, (left, len(weight) - 1 - left)), rearrange(weight, "k t s -> t s k"), bias)


class Heads(nn.Module):
    """Flat masked convolutions, one for each part of a projected width; its weight is [head, to, from]."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.causal, self.n_heads = stack.causal, stack.n_heads
        self.into = nn.Linear(stack.d_model, stack.d_model)
        self.weight = nn.Parameter(_weights(stack.n_heads, stack.positions, maps=1))
        self.bias = nn.Parameter(torch.zeros(stack.n_heads, stack.positions))
        self.out = nn.Linear(stack.d_model, stack.d_model)
        self.hook_z = HookPoint()

    W_O = property(lambda self: _by_head(self.out.weight, self.n_heads))
    b_O = property(lambda self: self.out.bias)

    def forward(self, x: Tensor, mask: Tensor | None, showing: Showing) -> Tensor:
        """[batch, pos, d_model] to the same."""
        weight, bias = masked(self.weight, x.shape[1], causal=self.causal), self.bias[:, : x.shape[1]]
        parts = rearrange(without_padding(self.into(x), mask), "b s (h c) -> b h s c", h=self.n_heads)
        z = rearrange(weight @ parts + bias[..., None], "b h t c -> b t h c")
        return self.out(rearrange(showing.past(self.hook_z, z), "b t h c -> b t (h c)"))


class Attention(nn.Module):
    """Attention with rotary positions, causal or not."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.causal, self.n_heads, self.cells = stack.causal, stack.n_heads, stack.cells
        self.query, self.key, self.value = (nn.Linear(stack.d_model, stack.d_model, bias=False) for _ in range(3))
        self.out = nn.Linear(stack.d_model, stack.d_model)
        self.hook_q, self.hook_k, self.hook_v, self.hook_z = (HookPoint() for _ in range(4))
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()
        if stack.cells:
            self.hook_memory_scores = HookPoint()

    W_O = property(lambda self: _by_head(self.out.weight, self.n_heads))
    b_O = property(lambda self: self.out.bias)

    def forward(self, x: Tensor, mask: Tensor | None, showing: Showing) -> Tensor:
        """[batch, pos, d_model] to the same."""
        split = (rearrange(layer(x), "b t (h c) -> b t h c", h=self.n_heads) for layer in (self.query, self.key, self.value))
        points = (self.hook_q, self.hook_k, self.hook_v)
        query, key, value = (showing.past(point, part) for point, part in zip(points, split, strict=True))
        n, width = x.shape[1], query.shape[-1]
        scores = einsum(rotated(query), rotated(key), "b q h c, b k h c -> b h q k") / math.sqrt(width)
        if self.causal:
            scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1), -math.inf)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -math.inf)
        scores = showing.past_pattern(self.hook_attn_scores, scores, nothing=-math.inf)
        if self.cells:
            scores = showing.past_cells(self.hook_memory_scores, scores)
        pattern = scores.softmax(-1)
        pattern = torch.where(pattern.isnan(), 0.0, pattern)  # of a padded cell that sees none
        pattern = showing.past_pattern(self.hook_pattern, pattern, nothing=0.0)
        z = einsum(pattern, value, "b h q k, b k h c -> b q h c")
        return self.out(rearrange(showing.past(self.hook_z, z), "b t h c -> b t (h c)"))


def mixer_of(stack: Stack) -> Any:
    """The mixer of a stack's blocks."""
    return {"conv": Convolution, "heads": Heads, "attention": Attention}[stack.mixer](stack)


def masked(weight: Tensor, n: int, *, causal: bool) -> Tensor:
    """The weights [..., to, from] of the first ``n`` positions, without those from later ones where ``causal``.

    >>> masked(torch.ones(1, 3, 3), 2, causal=True)[0].tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """
    corner = weight[..., :n, :n]
    return corner.tril() if causal else corner


def without_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """[batch, pos, ...] with zeros where the mask [batch, pos] has none."""
    return x if mask is None else x * mask[:, :, None]


def rotated(x: Tensor) -> Tensor:
    """[batch, pos, head, width] with pairs of components turned by angles that grow with the position; base 10000."""
    n, half = x.shape[1], x.shape[-1] // 2
    exact: Any = {"device": x.device, "dtype": torch.promote_types(x.dtype, torch.float32)}
    speed = 10000.0 ** (-torch.arange(half, **exact) / half)
    angle = (torch.arange(n, **exact)[:, None] * speed)[:, None]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def _weights(n: int, positions: int, *, maps: int) -> Tensor:
    """[n, to, from], of a size that keeps a sum over all positions and ``maps`` of the n as large as what is summed.

    A kernel's maps are all summed in one component, a head is alone in its own. Behind a mask earlier positions sum less.
    """
    return torch.randn(n, positions, positions) / math.sqrt(positions * maps)


def _by_head(weight: Tensor, heads: int) -> Tensor:
    return rearrange(weight, "d (h c) -> h c d", h=heads)
