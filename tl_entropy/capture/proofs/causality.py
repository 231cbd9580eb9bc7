"""That a model looks back only, and that an attention mask of ones tells it nothing.

What a measurement says of a *next* token, it says before the model has seen that token. A model whose earlier states move when
the last token of a row changes has seen it: attention in both directions, or a decoder whose memory holds the whole text. And
every pass hands on a mask: a model that a mask of ones changes is not the one that its user runs without.

Both are seen on one short pass with a mask, over two rows that differ in their last token, and on one without. Refused: lenses,
losses and everything else that speaks of a next token, where the model looks ahead; and every pass, where the mask matters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tl_entropy.capture.condition import quantised
from tl_entropy.capture.hooks import modules_of
from tl_entropy.capture.runner import Runner
from tl_entropy.errors import ModelError

# Largest movement allowed, relative to the states' size: rows of one batch round alike, passes with and without a mask may not.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}


class Sight(NamedTuple):
    """How far states move, in units of what rounding may do: above 1 they do move.

    Attributes:
        later: states before the last token, when that token changes.
        mask: states of a row, when a mask of ones is handed on.
    """

    later: float
    mask: float


def sight(runner: Runner) -> Sight:
    """What moves a model's last states on a short pass; 0 where it has no state to look at."""
    row, site = runner.short_row(), runner.last_site
    other = row.clone()
    other[0, -1] = (row[0, -1] + runner.d_vocab // 2) % runner.d_vocab
    both = torch.cat([row, other])
    with runner.proving():
        masked, _ = runner.state_and_logits(both, site, mask=torch.ones_like(both))
        plain, _ = runner.state_and_logits(both, site)
    if masked is None or plain is None or masked.shape[:2] != both.shape or plain.shape[:2] != both.shape:
        return Sight(0.0, 0.0)
    # What is quantised may round what it reads, too, in steps that depend on all that is read together.
    coarse = any(map(quantised, modules_of(runner.model)))
    allowed = _TOLERANCE.get(torch.bfloat16 if coarse else masked.dtype, 0.2)
    first, second = masked.double()
    return Sight(_movement(first[:-1], second[:-1]) / allowed, _movement(masked.double(), plain.double()) / allowed)


def check_causal(seen: Sight) -> None:
    """Raise ModelError where a model looks ahead."""
    if seen.later > 1:
        raise ModelError(
            "this model looks ahead: on a short pass its states move when only a later token changes, so nothing that it says "
            "at a position is about a next token that it has not seen (attention in both directions, or a decoder that is "
            "given the whole text). Lenses, losses and surprisals are refused; patterns, soft_information and "
            "layer_similarity are not"
        )


def check_mask(seen: Sight) -> None:
    """Raise ModelError where an attention mask of ones changes a model's states."""
    if seen.mask > 1:
        raise ModelError(
            "an attention mask of ones changes what this model computes, so TransformerLens does not hand it on as the model "
            "means it, and what would be measured is not the model that runs without one"
        )


def _movement(one: Tensor, other: Tensor) -> float:
    if not one.numel() or not bool((one.isfinite() & other.isfinite()).all()):
        return 0.0  # what is not finite is told where it is measured
    size = other.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    return float((one - other).abs().max() / size)
