"""One residual block: a token mixer, then a feed-forward layer, each added to the stream behind a norm of it.

    x = x + mix(LN(x));  x = x + ff(LN(x)),  ff of width d -> 4d -> d with GELU.

Hooks have TransformerLens's names: ``hook_attn_out`` is what the token mixer writes, whatever it is; ``mlp.hook_post`` is what
the feed-forward layer's neurons give. ``hook_memory_stream`` [batch, cell, d_model] is the stream of a memory's cells as it
enters the block.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from tl_entropy.estimation.config import Stack
from tl_entropy.estimation.mixing import mixer_of
from tl_entropy.estimation.showing import Showing

EPS = 1e-5


class Block(nn.Module):
    """A residual block of a stack."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        width = stack.d_model
        self.cells = stack.cells
        self.ln1, self.ln2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.attn = mixer_of(stack)
        self.mlp = FeedForward(width)
        self.hook_resid_pre, self.hook_attn_out, self.hook_resid_mid = HookPoint(), HookPoint(), HookPoint()
        self.hook_mlp_out, self.hook_resid_post = HookPoint(), HookPoint()
        if self.cells:
            self.hook_memory_stream = HookPoint()

    def forward(self, x: Tensor, mask: Tensor | None, showing: Showing) -> Tensor:
        """The stream [batch, pos, d_model] behind the block."""
        if self.cells:
            x = showing.past_memory(self.hook_memory_stream, x)
        x = showing.past(self.hook_resid_pre, x)
        x = x + showing.past(self.hook_attn_out, self.attn(self.ln1(x), mask, showing))
        x = showing.past(self.hook_resid_mid, x)
        x = x + showing.past(self.hook_mlp_out, self.mlp(self.ln2(x), showing))
        return showing.past(self.hook_resid_post, x)


class FeedForward(nn.Module):
    """d -> 4d -> d with GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.hook_post = HookPoint()

    W_out = property(lambda self: self.out.weight.T)
    b_out = property(lambda self: self.out.bias)

    def forward(self, x: Tensor, showing: Showing) -> Tensor:
        """[batch, pos, d_model] to the same."""
        return self.out(showing.past(self.hook_post, F.gelu(self.into(x))))
