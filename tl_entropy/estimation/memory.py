r"""What an encoder makes of a text, and how a decoder is told of it: encoder, state, limit, noise, grid, and the way in.

The *state* is the encoder's final norm at the last real token [batch, d_encoder]; the *memory* is n numbers of it, e = W s + b,
or the state itself. In this order then: a limit, A · tanh(e / A), which keeps numbers in (-A, A); while training, noise
e + U(-q, q); in evaluation, a grid of 2^b steps over [-A, A]. Noise is never on in evaluation. A grid, whose gradient is 0, is
on while training only where gradients are to pass it straight through, and then notes of the model say so. Noise comes from a
generator of its own, which the seed and the number of passes set.

An autoencoder's decoder gets u = up(memory) at every position: the same (*repeat*), or through a window that moves on
(*unroll*): position t reads u[(t + i) mod len(u)], i = 0 .. w - 1, w = len(u) // 2, through one projection that all positions
share. What is the same at all positions stays the same through attention with rotary positions, which turn queries and keys
alone.
"""

from __future__ import annotations

import hashlib

import torch
from einops import repeat
from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from tl_entropy.estimation.blocks import EPS, Block
from tl_entropy.estimation.config import EstimationConfig
from tl_entropy.estimation.mixing import without_padding
from tl_entropy.estimation.showing import Showing
from tl_entropy.functional.quantisation import quantize, uniform_noise


class Encoder(nn.Module):
    """Blocks that read a text, and its state at the last real token.

    Attributes:
        d_model: width of its residual stream.
    """

    def __init__(self, config: EstimationConfig, embed: nn.Embedding | None = None) -> None:
        super().__init__()
        stack = config.encoder
        self.d_model = stack.d_model
        self.embed = embed or nn.Embedding(config.d_vocab or 1, stack.d_model)
        self.hook_embed = HookPoint()
        self.blocks = nn.ModuleList([Block(stack) for _ in range(stack.n_layers)])
        self.ln_final = nn.LayerNorm(stack.d_model, EPS)

    def forward(self, tokens: Tensor, mask: Tensor | None, showing: Showing) -> Tensor:
        """The state [row, d_encoder] of tokens [row, pos]."""
        x = showing.past(self.hook_embed, without_padding(self.embed(tokens), mask))
        for block in self.blocks:
            x = block(x, mask, showing)
        if mask is None:
            return self.ln_final(x[:, -1])
        place = torch.arange(x.shape[1], device=x.device)
        last = (place * mask).amax(1)
        return self.ln_final(x[torch.arange(len(x), device=x.device), last])


class Memory(nn.Module):
    """The numbers of a state, as a decoder gets them.

    Attributes:
        seed: of the noise.
        drawn: how many times noise was drawn; noise follows from both.
        rise: the share of its noise that is on, which a training sets.
    """

    def __init__(self, config: EstimationConfig, seed: int) -> None:
        super().__init__()
        self.config, self.seed, self.drawn, self.rise = config, seed, 0, 1.0
        self.down = None if config.numbers is None else nn.Linear(config.encoder.d_model, config.numbers)

    def forward(self, state: Tensor) -> Tensor:
        """[row, d_encoder] to [row, n]."""
        config = self.config
        if config.noise_at == "state":
            state = self._noisy(state)
        numbers = state if self.down is None else self.down(state)
        if config.limit is not None:
            numbers = config.limit * torch.tanh(numbers / config.limit)
        if config.noise_at == "memory":
            numbers = self._noisy(numbers)
        if config.bits is None or (self.training and not config.straight_through):
            return numbers
        return quantize(numbers, "grid", bits=config.bits, limit=config.limit, straight_through=self.training)

    def _noisy(self, x: Tensor) -> Tensor:
        if not self.training or self.config.noise is None:
            return x
        key = hashlib.sha256(f"tl_entropy noise/{self.seed}/{self.drawn}".encode()).digest()
        self.drawn += 1
        return uniform_noise(x, self.rise * self.config.noise, torch.Generator().manual_seed(int.from_bytes(key[:7], "big")))


class Spread(nn.Module):
    """An autoencoder's memory at every position of its decoder.

    >>> config = EstimationConfig(kind="autoencoder", n_ctx=6, d_model=8, spread="unroll", d_vocab=3, allow_repeats=False)
    >>> Spread(config)(torch.zeros(2, 8), 6).shape
    torch.Size([2, 6, 8])
    """

    def __init__(self, config: EstimationConfig) -> None:
        super().__init__()
        unrolls = config.spread == "unroll"
        self.width = (config.spread_width or config.d_model) if unrolls else config.d_model
        self.up = None if self.width == config.n_numbers else nn.Linear(config.n_numbers, self.width)
        self.window = nn.Linear(self.width // 2, config.d_model) if unrolls else None

    def forward(self, memory: Tensor, n: int) -> Tensor:
        """[row, n numbers] to [row, pos, d_model], for ``n`` positions."""
        u = memory if self.up is None else self.up(memory)
        if self.window is None:
            return repeat(u, "b d -> b t d", t=n)
        place = torch.arange(n, device=u.device)[:, None] + torch.arange(self.width // 2, device=u.device)
        return self.window(u[:, place % self.width])


class Entry(nn.Module):
    """Tokens' embeddings with the memories of their row: appended, added, or as cells in front."""

    def __init__(self, config: EstimationConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.d_vocab or 1, config.embedding_width)
        reads = {"add": config.memories * config.n_numbers, "token": config.n_numbers}.get(config.into, 0)
        self.up = nn.Linear(reads, config.d_model) if config.kind == "memory" and reads else None

    def forward(self, tokens: Tensor, memories: Tensor | None) -> Tensor:
        """Tokens [row, pos] and memories [row, memory, n] to the decoder's stream [row, cells + pos, d_model]."""
        x = self.embed(tokens)
        if memories is None:
            return x
        if self.up is None:
            return torch.cat([x, repeat(memories, "b m n -> b t (m n)", t=x.shape[1])], 2)
        if self.config.into == "add":
            return x + self.up(memories.flatten(1))[:, None]
        return torch.cat([self.up(memories), x], 1)


def before(numbers: Tensor, memories: int) -> Tensor:
    """The memories of the chunks before each one, [row, chunk, n] to [row, chunk, memory, n]; zeros where there is none.

    >>> before(torch.tensor([[[1.0], [2.0], [3.0]]]), 2)[0, :, :, 0].tolist()
    [[0.0, 0.0], [0.0, 1.0], [1.0, 2.0]]
    """
    n = numbers.shape[1]
    return torch.stack([F.pad(numbers, (0, 0, back, 0))[:, :n] for back in range(memories, 0, -1)], 2)
