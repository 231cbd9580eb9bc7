"""How the activations at one site, or those of each head there, become soft assignments for several draws of anchors at once.

States become assignments in float32 (float64 for float64 models). A head's output in d_model is never formed: with W its part
of W_O, the score of an anchor w is (z W) · w = z · (W w), and the length of z W is that of z Rᵀ, with R the triangular factor
of Wᵀ, or of W Wᵀ. Anchors for fewer bins are the first of those for more, so that several numbers of bins share their scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.functional.information.soft import soft_anchors
from tl_entropy.functional.information.temperature import Calibration, calibrate_temperature
from tl_entropy.functional.probabilities import entropy
from tl_entropy.sites import Site
from tl_entropy.state import Kept

BY_HEAD = ("z", "result")
"""Sites that are measured head by head."""

_AT_ONCE = 2**18  # numbers, which stay in the cache


def captured_for(site: Site) -> Site:
    """The site to capture for a site: ``z`` for ``result``."""
    return Site("z", site.layer) if site.name == "result" else site


@dataclass(frozen=True, eq=False)
class Place(Kept):
    """One site, and how its activations are assigned.

    Attributes:
        site: the site measured.
        draws: (number of bins, seed) of each draw of anchors.
        directions: [head, d, seed · bin] the anchors, seen through W_O for a head's output in d_model.
        metric: [head, d, d] gives the length of that output from z; None where the activation is itself what is measured.
        temperatures: [draw].
    """

    site: Site
    draws: tuple[tuple[int, int], ...]
    directions: Tensor
    metric: Tensor | None
    temperatures: tuple[float, ...]

    @classmethod
    def like(
        cls,
        activation: Tensor,
        site: Site,
        adapter: Adapter,
        draws: Sequence[tuple[int, int]],
        calibration: Calibration,
        drawn: Callable[[int], Tensor],
    ) -> Self:
        """The place of ``site``, for activations as wide as this one of ``captured_for(site)``, [batch, pos, ...].

        ``drawn`` has the anchors for a width, as ``anchors`` gives them.
        """
        dtype = torch.float64 if activation.dtype == torch.float64 else torch.float32
        weights = adapter.head_weights(site.layer).double().cpu() if site.name == "result" else None
        d = activation.shape[-1] if weights is None else weights.shape[-1]
        metric = None
        if weights is None:
            directions = drawn(d).expand(activation.shape[2] if site.name in BY_HEAD else 1, -1, -1)
        else:
            directions = weights @ drawn(d)
            metric = _lengths_of(weights, dtype).to(activation.device, dtype)
        temperatures = tuple(calibrate_temperature(d, bins, method=calibration) for bins, _ in draws)
        return cls(site, tuple(draws), directions.to(activation.device, dtype), metric, temperatures)

    @property
    def n_heads(self) -> int:
        """Number of heads; 1 for a site without heads."""
        return len(self.directions)

    @property
    def width(self) -> int:
        """Entries of a state."""
        return self.directions.shape[1]

    def of_heads(self, heads: slice) -> Self:
        """The same for some of the heads."""
        metric = None if self.metric is None else self.metric[heads]
        return replace(self, directions=self.directions[heads], metric=metric)

    def lengths(self, rows: Tensor) -> Tensor:
        """‖state‖ of rows [row, head, d] as [row, head, 1]."""
        seen = rows if self.metric is None else torch.matmul(rows.transpose(0, 1), self.metric).transpose(0, 1)
        lengths: Tensor = seen.norm(dim=-1, keepdim=True)
        return lengths

    def assign(self, rows: Tensor, lengths: Tensor) -> list[Tensor]:
        """For every draw [row, head, bin + 1]: soft assignments, and the entropy of each as the last; heads apart in memory."""
        n_heads, seeds = len(self.directions), _seeds(self.draws)
        found = [rows.new_empty(n_heads, len(rows), bins + 1) for bins, _ in self.draws]
        step = max(1, _AT_ONCE // max(1, len(rows) * self.directions.shape[-1])) if rows.device.type == "cpu" else n_heads
        rows, lengths = rows.transpose(0, 1), lengths.transpose(0, 1)
        for first in range(0, n_heads, step):
            some = slice(first, first + step)
            by_seed = (rows[some] @ self.directions[some]).div_(lengths[some]).unflatten(-1, (len(seeds), -1))
            for (bins, seed), temperature, into in zip(self.draws, self.temperatures, found, strict=True):
                p = torch.softmax(by_seed[:, :, seeds.index(seed), :bins] / temperature, dim=-1)
                into[some, :, :-1] = p
                into[some, :, -1] = entropy(p)
        return [of.transpose(0, 1) for of in found]


def _lengths_of(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """[head, d_head, d_head] M with ‖z W‖ = ‖z M‖ for W [head, d_head, d], both in float64: as exact as z W, in less time.

    M is Rᵀ with Wᵀ = Q R, or L with W Wᵀ = L Lᵀ, several times as fast, where that leaves the digits of ``dtype``: it loses
    twice as many of them.
    """
    lower: Tensor
    lower, failed = torch.linalg.cholesky_ex(weights @ weights.mT)
    if not bool(failed.any()):
        inverse = torch.linalg.solve_triangular(lower, torch.eye(lower.shape[-1], dtype=lower.dtype), upper=False)
        lost = (lower.norm(dim=(1, 2)) * inverse.norm(dim=(1, 2))).square().max() * torch.finfo(lower.dtype).eps
        if lost < torch.finfo(dtype).eps / 100:
            return lower
    upper: Tensor = torch.linalg.qr(weights.mT, mode="r").R
    return upper.mT


def anchors(d: int, draws: Sequence[tuple[int, int]]) -> Tensor:
    """[d, seed · bin] those of all draws, float64."""
    most = max(bins for bins, _ in draws)
    return torch.cat([soft_anchors(d, most, seed=seed) for seed in _seeds(draws)]).double().mT


def _seeds(draws: Sequence[tuple[int, int]]) -> list[int]:
    return list(dict.fromkeys(seed for _, seed in draws))
