"""Muon for the matrices inside blocks, against AdamW for everything, which is what trainings take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from autoencoders import COPYING
from harness import Arm, Experiment, Finding, Numbers, courses, less
from matplotlib.axes import Axes
from torch import Tensor

from tl_entropy.estimation import training


class Muon(torch.optim.AdamW):
    """AdamW whose first group is stepped by Muon (Jordan et al. 2024): momentum .95, made orthogonal, of AdamW's size.

    Of a convolution [kernel, to, from] and of heads [head, to, from] every matrix by itself. Momentum is written over AdamW's.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both."""
        inner = self.param_groups[0]
        for weight in inner["params"]:
            if weight.grad is None:
                continue
            momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight)).lerp_(weight.grad, 0.05)
            turned = orthogonal(weight.grad.lerp(momentum, 0.95)) * 0.2 * max(weight.shape[-2:]) ** 0.5
            weight.mul_(1 - inner["lr"] * inner["weight_decay"]).sub_(inner["lr"] * turned)
        groups, self.param_groups = self.param_groups, self.param_groups[1:]
        super().step()
        self.param_groups = groups


def orthogonal(x: Tensor) -> Tensor:
    """Matrices [..., m, n] with singular values near 1 and the same directions, by five steps of Newton and Schulz."""
    wide = x.shape[-2] > x.shape[-1]
    y = (x.mT if wide else x) / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = y @ y.mT
        y = 3.4445 * y + (-4.7750 * square + 2.0315 * square @ square) @ y
    return y.mT if wide else y


def by_muon(arm: Arm) -> Arm:
    """The same training by Muon."""

    def found(seed: int, share: float = 1.0) -> Iterator[tuple[int, dict[str, float]]]:
        def optimizer(model: Any, rate: float, decay: float) -> Muon:
            return Muon(adamw(model, rate, decay).param_groups, lr=rate, betas=training.MOMENTS)

        adamw = training._optimizer
        with patch.object(training, "_optimizer", optimizer):
            yield from list(arm(seed, share))

    return found


def draw_optimisers(numbers: Numbers, ax: Axes) -> None:
    """Loss by optimiser, over steps."""
    courses(numbers, "loss", ax)
    ax.set_ylabel("Loss (nats a byte)")


OPTIMISERS = Experiment(
    "Does Muon train these models better than AdamW?",
    {
        "flat, AdamW": COPYING["flat"],
        "flat, Muon": by_muon(COPYING["flat"]),
        "4 heads, AdamW": COPYING["4 heads"],
        "4 heads, Muon": by_muon(COPYING["4 heads"]),
    },
    [
        Finding(f"{name}: AdamW ends below Muon", less(f"{name}, AdamW", f"{name}, Muon"), high=0)
        for name in ("flat", "4 heads")
    ],
    draw_optimisers,
    ("loss",),
)
