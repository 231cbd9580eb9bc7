r"""Sources of known entropy: what a model that estimates entropies can be held against.

A source draws windows of tokens and knows what each token costs whoever knows the source: the conditional probability
p(x_t | x_<t) at every position, and so the exact entropy of every position and of a whole window,

    H(X_1 .. X_n) = Σ_t H(X_t | X_<t).

No code of a window is shorter on average (Shannon 1948, theorem 9), so that a loss, or a loss with its memory charged for, that
is below the entropy by more than its error is no code.

| source | H(X_t | X_<t), nats |
|---|---|
| ``CoinsAndCopies(coins, copies)`` | log 2 for the coins, 0 for the copies of all of them that follow |
| ``BiasedCoin(p)`` | -p log p - (1 - p) log(1 - p) |
| ``MarkovChain(transition)`` | H(π) for the first token, Σ_i π_i H(P_i) for all others, with π the stationary law |

Coins and their copies are where a memory of the text pays exactly what it must: a causal model cannot foresee the coins, and
foresees their copies. Tokens are 0, 1, ...; what begins a window (a BOS) is the model's affair, and costs nothing.

Refused: probabilities outside [0, 1] or that do not sum to 1; chains with more than one stationary law; windows that are not
those of the source.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_int, check_number
from tl_entropy.functional.probabilities import entropy

_SUM = 1e-6
"""How far from 1 the sum of probabilities may be, as of float32; they are divided by it."""


class Source(ABC):
    """Draws windows, and knows the probability of every token in them.

    Attributes:
        d_vocab: how many different tokens there are.
    """

    d_vocab: int = 2

    @abstractmethod
    def entropies(self, tokens: int) -> Tensor:
        """H(X_t | X_<t) [pos] float64 in nats, of every position of a window of so many tokens."""

    @abstractmethod
    def probabilities(self, windows: Tensor) -> Tensor:
        """p(x | x_<t) [window, pos, d_vocab] float64 of every token that could stand at a position, given those before it."""

    @abstractmethod
    def _drawn(self, windows: int, tokens: int, generator: torch.Generator) -> Tensor:
        """Windows [window, pos] long."""

    def sample(self, windows: int, tokens: int, *, seed: int = 0) -> Tensor:
        """Independent windows [window, pos] long; the same for the same seed, and torch's own generator is left alone.

        Args:
            windows: how many.
            tokens: of each.
            seed: from 0.
        """
        generator = torch.Generator().manual_seed(check_int("seed", seed, 0))
        return self._drawn(check_int("windows", windows, 1), self._length(tokens), generator)

    def rate(self, tokens: int) -> float:
        """Entropy of a window of so many tokens in nats a token, which no mean loss of a causal model can be below."""
        return float(self.entropies(tokens).mean())

    def surprisal(self, windows: Tensor) -> Tensor:
        """-log p(x_t | x_<t) [window, pos] float64 in nats: what each token costs whoever knows the source; 0 to infinity."""
        checked = self._checked(windows)
        return -self.probabilities(checked).gather(-1, checked[..., None])[..., 0].log() + 0.0

    def _length(self, tokens: int) -> int:
        return check_int("tokens", tokens, 1)

    def _checked(self, windows: Any) -> Tensor:
        if not isinstance(windows, Tensor) or windows.is_floating_point() or windows.is_complex():
            raise InputTypeError(f"windows must be a tensor [window, pos] of token ids; got {type(windows).__name__}")
        if windows.ndim != 2 or not windows.numel() or int(windows.min()) < 0 or int(windows.max()) >= self.d_vocab:
            raise InputError(f"windows must be [window, pos] of ids from 0 to {self.d_vocab - 1}; got {list(windows.shape)}")
        self._length(windows.shape[1])
        return windows.long()


@dataclass(frozen=True)
class CoinsAndCopies(Source):
    """Fair coins, and then all of them again in the same order: nothing is new in the copies.

    Attributes:
        coins: how many are thrown.
        copies: how often they are repeated.

    >>> source = CoinsAndCopies(8)
    >>> round(source.rate(16), 4), source.length, source.sample(1, 4).shape
    (0.3466, 16, torch.Size([1, 4]))
    """

    coins: int = 8
    copies: int = 1

    def __post_init__(self) -> None:
        check_int("coins", self.coins, 1)
        check_int("copies", self.copies, 0)

    @property
    def length(self) -> int:
        """Tokens of a whole window; a shorter one is its beginning."""
        return self.coins * (1 + self.copies)

    def entropies(self, tokens: int) -> Tensor:
        """One bit for every coin, 0 for copies."""
        return (torch.arange(self._length(tokens)) < self.coins).double() * math.log(2)

    def probabilities(self, windows: Tensor) -> Tensor:
        """One half each for coins, and 1 for what was thrown in copies."""
        windows = self._checked(windows)
        found = torch.full((*windows.shape, 2), 0.5, dtype=torch.float64)
        behind = torch.arange(self.coins, windows.shape[1])
        found[:, behind] = torch.nn.functional.one_hot(windows[:, behind % self.coins], 2).double()
        return found

    def _drawn(self, windows: int, tokens: int, generator: torch.Generator) -> Tensor:
        thrown = torch.randint(0, 2, (windows, self.coins), generator=generator)
        return thrown.repeat(1, 1 + self.copies)[:, :tokens]

    def _length(self, tokens: int) -> int:
        return check_int("tokens", tokens, 1, self.length)


@dataclass(frozen=True)
class BiasedCoin(Source):
    """Independent throws of a coin that shows 1 with probability ``p``.

    >>> BiasedCoin(0.5).rate(10) == math.log(2), round(BiasedCoin(0.1).rate(10), 4)
    (True, 0.3251)
    """

    p: float = 0.1

    def __post_init__(self) -> None:
        check_number("p", self.p, 0, 1)

    @property
    def _law(self) -> Tensor:
        return torch.tensor([1 - self.p, self.p], dtype=torch.float64)

    def entropies(self, tokens: int) -> Tensor:
        """-p log p - (1 - p) log(1 - p) at every position."""
        return entropy(self._law).expand(self._length(tokens)).clone()

    def probabilities(self, windows: Tensor) -> Tensor:
        """The same everywhere."""
        return self._law.expand(*self._checked(windows).shape, 2).clone()

    def _drawn(self, windows: int, tokens: int, generator: torch.Generator) -> Tensor:
        return (torch.rand(windows, tokens, generator=generator, dtype=torch.float64) < self.p).long()


@dataclass(frozen=True)
class MarkovChain(Source):
    """A stationary chain of first order: each token is drawn by the row of the one before it, the first by the stationary law.

    Attributes:
        transition: P, rows of probabilities, P[i][j] that j follows i.

    >>> chain = MarkovChain([[0.9, 0.1], [0.2, 0.8]])
    >>> [round(p, 6) for p in chain.stationary.tolist()], [round(h, 3) for h in chain.entropies(3).tolist()]
    ([0.666667, 0.333333], [0.637, 0.384, 0.384])
    """

    transition: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        try:
            p = torch.as_tensor(self.transition, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise InputTypeError("transition must be rows of probabilities, as many as there are tokens") from error
        if p.ndim != 2 or p.shape[0] != p.shape[1] or not len(p):
            raise InputError(f"transition must be [token, token]; got {list(p.shape)}")
        if not bool((p >= 0).all()) or float((p.sum(1) - 1).abs().max()) > _SUM:
            raise InputError("transition must have rows of probabilities that sum to 1")
        p = p / p.sum(1, keepdim=True)
        object.__setattr__(self, "transition", tuple(map(tuple, p.tolist())))
        if int(torch.linalg.matrix_rank(torch.eye(len(p)).double() - p, tol=1e-9)) < len(p) - 1:
            raise InputError("transition has more than one stationary law: its tokens fall into parts that never meet")
        object.__setattr__(self, "d_vocab", len(p))

    @cached_property
    def _p(self) -> Tensor:
        return torch.tensor(self.transition, dtype=torch.float64)

    @cached_property
    def stationary(self) -> Tensor:
        """π [token] float64, with π P = π and Σ π = 1: the law of every single token."""
        n = len(self._p)
        equations = torch.cat([self._p.T - torch.eye(n, dtype=torch.float64), torch.ones(1, n, dtype=torch.float64)])
        right = torch.zeros(n + 1, 1, dtype=torch.float64)
        right[-1] = 1
        return torch.linalg.lstsq(equations, right).solution[:, 0].clamp(min=0)

    def entropies(self, tokens: int) -> Tensor:
        """H(π) for the first token, and Σ_i π_i H(P_i) for every other."""
        found = (self.stationary @ entropy(self._p)).expand(self._length(tokens)).clone()
        found[0] = entropy(self.stationary)
        return found

    def probabilities(self, windows: Tensor) -> Tensor:
        """The row of the token before; the stationary law for the first."""
        windows = self._checked(windows)
        first = self.stationary.expand(len(windows), 1, -1)
        return torch.cat([first, self._p[windows[:, :-1]]], 1)

    def _drawn(self, windows: int, tokens: int, generator: torch.Generator) -> Tensor:
        found = torch.empty(windows, tokens, dtype=torch.long)
        law = self.stationary.expand(windows, -1)
        for position in range(tokens):
            found[:, position] = torch.multinomial(law, 1, generator=generator)[:, 0]
            law = self._p[found[:, position]]
        return found
