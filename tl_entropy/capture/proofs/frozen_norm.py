r"""The final norm with its scale frozen: the linear map behind direct logit attribution.

LayerNorm and RMSNorm are linear but for one number a row, the scale: with x̄ = x, or x less its mean over d_model where the norm
centres,

    ln_final(x) = s(x) · x̄ · w + b.

What a part c of a residual stream x adds to the model's logits is then s(x) · c̄ · w @ W_U, with the scale of the *whole* x:
parts that add up to x have logits that add up to those of x, less what belongs to no part, b @ W_U + b_U (Elhage et al. 2021,
"A Mathematical Framework for Transformer Circuits").

Neither w, b nor s is read from a model's parameters, whose names and folding differ: they are probed through the norm itself,
w and b from its answers to a vector and to its negative, s(x) from its answer to x by least squares. That this is the norm is
proved on random rows; a model whose final norm is something else is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tl_entropy.errors import ModelError

# Largest error allowed, relative to the size of the normed row. Another norm is off by about that size; reduced precision
# rounds the norm's own answer.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """A final norm, linear once its scale is known.

    Attributes:
        norm: rows [rows, d_model] to normed rows, the model's own.
        weight: w [d_model], in float32 (float64 on models of float64).
        bias: b [d_model], likewise; zeros where the norm has none.
        centred: whether the norm subtracts the mean over d_model first.
        error: largest difference found between the norm and s · x̄ · w + b, relative to the normed row.
    """

    norm: Callable[[Tensor], Tensor]
    weight: Tensor
    bias: Tensor
    centred: bool
    error: float

    @classmethod
    def probe(cls, norm: Callable[[Tensor], Tensor], like: Tensor) -> FrozenNorm:
        """Find w, b and the centring of ``norm``, and prove them.

        Args:
            norm: rows [rows, d_model] to normed rows.
            like: a tensor [d_model, ...] of the model's width, dtype and device.

        Raises:
            ModelError: the norm is not linear up to a scale a row.

        >>> frozen = FrozenNorm.probe(lambda x: 3 * torch.nn.functional.layer_norm(x, (4,)) + 1, torch.zeros(4))
        >>> frozen.centred, frozen.bias.tolist(), [round(w, 3) for w in frozen.weight.tolist()]
        (True, [1.0, 1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0])
        """
        d_model, exact = like.shape[0], torch.promote_types(like.dtype, torch.float32)
        generator = torch.Generator().manual_seed(0)

        def answer(rows: Tensor) -> Tensor:
            return norm(rows.to(like.device, like.dtype)).to(exact)

        # As many of +1 as of -1: mean 0 and size 1, so that e is its own centred and scaled form.
        signs = torch.ones(d_model)
        signs[torch.randperm(d_model, generator=generator)[: d_model // 2]] = -1
        plus, minus, moved = answer(torch.stack((signs, -signs, signs + 1)))
        moved_by = (moved - plus).norm() / (plus - minus).norm().clamp_min(torch.finfo(exact).tiny)
        e = signs.to(plus)
        centred = bool(moved_by < 0.1)
        frozen = cls(norm, (plus - minus) / 2 / (e - e.mean() if centred else e), (plus + minus) / 2, centred, 0.0)

        rows = torch.randn(6, d_model, generator=generator) * torch.tensor([[0.3], [1.0], [1.0], [4.0], [4.0], [30.0]])
        rows = (rows + torch.tensor([[0.0], [0.5], [-2.0], [0.0], [3.0], [1.0]])).to(like.device, like.dtype)
        normed = answer(rows)
        difference = frozen(rows, frozen.scale(rows)) + frozen.bias - normed
        size = normed.abs() + normed.square().mean(-1, keepdim=True).sqrt()
        error = float((difference.abs() / size.clamp_min(torch.finfo(exact).tiny)).max())
        if not error <= _TOLERANCE.get(like.dtype, 0.05):
            raise ModelError(
                f"this model's final norm is not linear up to a scale (off by {error:.3g} of its size), so what one head adds "
                "to the logits depends on all the others; use norm='recomputed'"
            )
        return cls(norm, frozen.weight, frozen.bias, centred, error)

    def scale(self, residual: Tensor) -> Tensor:
        """s(x) of whole residual streams [rows, d_model]: [rows], by least squares."""
        direction = self(residual, torch.ones(len(residual), device=residual.device))
        normed = self.norm(residual).to(direction.dtype) - self.bias
        return (normed * direction).sum(-1) / direction.square().sum(-1)

    def __call__(self, part: Tensor, scale: Tensor) -> Tensor:
        """The share of ``part`` [rows, ..., d_model] in normed rows whose whole has the scale ``scale`` [rows]; without b."""
        part = part.to(self.weight.dtype)
        if self.centred:
            part = part - part.mean(-1, keepdim=True)
        return part * self.weight * scale.to(part.dtype).reshape(-1, *[1] * (part.ndim - 1))
