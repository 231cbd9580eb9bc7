"""What is measured at a hook, and what edits there are given, where it is not what TransformerLens gives.

z is cut into heads another way (``proofs/heads.py``), or a sub-layer's output enters the stream with a factor that is applied
behind its hook (``proofs/contributions.py``). Edits are given what is measured, and what they return is turned back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class View(NamedTuple):
    """Both ways between what passes a hook, raw, and what is measured there.

    Attributes:
        out: raw to measured.
        back: measured and edited, and the raw value before, to raw; where nothing was edited, it is that value to the bit.
    """

    out: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor]


def reshaped(shape: tuple[int, ...]) -> View:
    """[batch, pos, ...] as [batch, pos, *shape].

    >>> import torch
    >>> view, raw = reshaped((4, 16)), torch.arange(64.0).reshape(1, 1, 8, 8)
    >>> view.out(raw).shape, torch.equal(view.back(view.out(raw), raw), raw)
    (torch.Size([1, 1, 4, 16]), True)
    """
    return View(lambda raw: raw.reshape(*raw.shape[:2], *shape), lambda new, raw: new.reshape(raw.shape))


def scaled(factor: float) -> View:
    """``factor`` times what passes.

    >>> import torch
    >>> scaled(0.25).out(torch.tensor([8.0])), scaled(0.25).back(torch.tensor([3.0]), torch.tensor([8.0]))
    (tensor([2.]), tensor([12.]))
    """
    return View(lambda raw: raw * factor, lambda new, raw: raw + (new - raw * factor) / factor)
