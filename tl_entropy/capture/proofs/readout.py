"""How a model's logits follow from its last residual stream, and how far a model may be from that.

A lens is the model's own only if final norm, unembedding, soft cap and a constant scale give the model's own logits; of a model
without a final norm, the others alone. The scale is measured, since what a configuration says of it is not always what the
model does. All arithmetic is in float64 on the CPU.

The model's own logits are rounded, and what is rebuilt may miss them by that much and no more. One rounding, which moves a
number x by at most u·|x| in a dtype, moves a logit by at most a *unit*, for which

    u · max(|logit|, what logits of the row typically are) + u₃₂ · Σ_d |row_d · W_U| + next to nothing

is taken: u of the coarsest dtype on the way, u₃₂ of the sums. Misses are counted in units, after a constant for each row, which
changes no probability, is taken out with the weights 1 / unit². So a logit of 1e4, or of -1e9 where a model masks a token, may
miss by more than others, and one of -inf has to be -inf. By rounding alone, misses have a root mean square below one half, of
models with a scale or a soft cap below one; an adapter on the unembedding that moves losses by .04 nats has more in bfloat16.

Refused: a model whose logits can't be reproduced, as it has some other transform on its output; a NaN in its output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tl_entropy.capture.condition import unusual
from tl_entropy.capture.hooks import attribute, silent
from tl_entropy.capture.linear import linear_map
from tl_entropy.capture.runner import Runner
from tl_entropy.errors import ModelError, NonFiniteError
from tl_entropy.sites import UNEMBED, Site
from tl_entropy.torch_state import cached_property

# In units of rounding: how far any logit may miss, and the root mean square over all of them. A product, a bias, a scale and a
# soft cap are rounded one after the other.
_LARGEST, _TYPICAL = 5.0, 1.0
_NEGLIGIBLE = {torch.float64: 2e-7}
"""Nats that are next to nothing, by the dtype of the sums."""
# Below it a token has probability 0 in float32, whatever its logit is.
_IMPOSSIBLE = -100.0


@dataclass(frozen=True)
class Readout:
    """How the model turns its last residual stream into logits: ``cap(scale * (ln_final(x) @ W_U + b_U))``.

    Attributes:
        norm: rows [rows, d_model] to normed rows, in the model's dtype; other people's hooks stay silent.
        unembedding: [d_model, d_vocab].
        bias: [d_vocab] or None.
        scale: constant factor on the logits, measured.
        softcap: c in c·tanh(logits / c), or None.
        error: largest difference (nats) between rebuilt and own log-probabilities on the calibration pass, of tokens whose
            probability is not 0 in float32.
    """

    norm: Callable[[Tensor], Tensor]
    unembedding: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    error: float

    @cached_property
    def rounded(self) -> Tensor:
        """The unembedding in bfloat16, laid out as it is, and kept: two bytes a number."""
        return self.unembedding.to(torch.bfloat16)

    def of_tokens(self, ids: Tensor) -> Readout:
        """The readout of these tokens [token] alone, in this order; what was proved is that of all."""
        leading = torch.equal(ids, torch.arange(len(ids)))
        chosen: Any = slice(len(ids)) if leading else ids.to(self.unembedding.device)  # a slice copies nothing
        bias = None if self.bias is None else self.bias[chosen]
        return replace(self, unembedding=self.unembedding[:, chosen], bias=bias)


def prove_readout(runner: Runner, site: Site, seen: tuple[Tensor | None, Tensor] | None = None) -> Readout:
    """The readout of a model, proved by a short forward pass.

    Args:
        runner: of the model.
        site: what it reads: the last residual stream, or what the unembedding is given, which needs no norm any more.
        seen: the site's activation and the model's own logits of a short row, where that pass has been made.

    Raises:
        ModelError: the model's own log-probabilities can't be reproduced from there.
    """
    model = runner.model
    final = None if site.name == UNEMBED else attribute(model, runner.stack.norm)
    cap = float(getattr(model.cfg, "output_logits_soft_cap", None) or 0.0)

    if seen is None:
        with runner.proving():
            seen = runner.state_and_logits(runner.short_row(), site)
    x, own = seen
    if x is None:
        raise ModelError(
            f"this model has no hook {runner.hook_of(site)}, or one that never fires, so its residual stream can't be read"
        )
    (unembedding, bias), dtype = _unembedding(runner), runner.dtype

    @torch.no_grad()
    def norm(x: Tensor) -> Tensor:
        if final is None:
            return x.to(unembedding.dtype)
        with runner.turns.held(), silent(final):
            normed: Tensor = final(x[None].to(dtype))[0]
        return normed.to(unembedding.dtype)

    x, own = x.flatten(0, -2), own.flatten(0, -2)
    if x.shape[-1] != unembedding.shape[0] or own.shape[-1] != unembedding.shape[1]:
        raise ModelError(
            f"the residual stream {tuple(x.shape)} does not fit the unembedding {tuple(unembedding.shape)}: the model "
            "projects between the two, and its logits can't be reproduced"
        )
    scale, error = proved_scale(norm(x), unembedding, bias, own, cap, cause=_cause(model))
    return Readout(norm, unembedding, bias, scale, cap if cap > 0 else None, error)


def _unembedding(runner: Runner) -> tuple[Tensor, Tensor | None]:
    """W_U [d_model, d_vocab] and b_U; where the model projects to another width in front of it (OPT), of both together."""
    model = runner.model
    unembed, project = attribute(model, "unembed"), attribute(model, "project_out")
    if unembed is None:
        raise ModelError("this model has no unembedding, so nothing of it can be read as logits")
    weight, bias = attribute(model, "W_U"), attribute(model, "b_U")
    rows: dict[str, Any] = {"dtype": runner.dtype, "device": runner.device}
    with runner.turns.held():
        if project is None:
            return linear_map(unembed, runner.d_model, weight, bias, **rows)
        first, shift = linear_map(project, runner.d_model, **rows)
        second, bias = linear_map(unembed, first.shape[1], weight, bias, **rows)
    exact = torch.promote_types(second.dtype, torch.float32)
    second = second.to(exact)
    shifted = None if shift is None else shift.to(exact) @ second
    constants = [constant.to(exact) for constant in (bias, shifted) if constant is not None]
    return first.to(exact) @ second, torch.stack(constants).sum(0) if constants else None


def _cause(model: Any) -> str:
    """Why a model's logits may not be reproduced."""
    found = unusual(attribute(model, "unembed"))
    return "it has some other transform on its output" if found is None else f"of its unembedding: {found}"


def proved_scale(
    rows: Tensor,
    unembedding: Tensor,
    bias: Tensor | None,
    own: Tensor,
    cap: float,
    *,
    cause: str = "it has some other transform on its output",
) -> tuple[float, float]:
    """The factor s with which ``cap(s * (rows @ unembedding + bias))`` gives a model's own logits, and how well it does.

    Args:
        rows: normed residual stream [rows, d_model].
        unembedding: [d_model, d_vocab].
        bias: [d_vocab] or None.
        own: the model's logits [rows, d_vocab].
        cap: c in c·tanh(logits / c); 0 or less for none.
        cause: for the message, why no factor may do.

    Returns:
        The factor, and the largest difference between rebuilt and own log-probabilities, in nats, of tokens whose probability
        is not 0 in float32.

    Raises:
        ModelError: no factor gives the model's logits, but for rounding and a constant for each row.
        NonFiniteError: a NaN or an infinity in the residual stream, or a NaN or +inf in the logits.

    >>> rows = torch.tensor([[1.0, 0.0], [0.5, -2.0]])
    >>> proved_scale(rows, torch.eye(2), None, 0.125 * rows, 0.0)
    (0.125, 0.0)
    """
    coarsest = max((x.dtype for x in (rows, unembedding, own)), key=_rounding)
    own = own.to("cpu", torch.float64)
    if not bool(rows.isfinite().all()) or not bool((own < math.inf).all()):  # which no NaN is, either
        raise NonFiniteError(
            "the model's last residual stream or its logits hold a NaN or an infinity on a short pass; check the weights and "
            "the dtype"
        )
    product, magnitude = _products(rows, unembedding)
    b = torch.zeros(len(product.T)).to(product) if bias is None else bias.to("cpu", torch.float64)
    scale = _measured_scale(product + b, own, cap, slack=max(_rounding(coarsest), 1e-5))
    rebuilt = _capped((product + b) * scale, cap)
    unit = _unit(abs(scale) * product, abs(scale) * b, abs(scale) * magnitude, cap, coarsest)
    missed = _difference(rebuilt, own) / unit
    weight = unit.reciprocal()
    missed = missed - weight * (missed * weight).sum(-1, keepdim=True) / weight.square().sum(-1, keepdim=True)
    largest, typical = float(missed.abs().max()), float(missed.square().mean().sqrt())
    log_p, own_log_p = rebuilt.log_softmax(-1), own.log_softmax(-1)
    error = float(_difference(log_p, own_log_p).abs()[torch.maximum(log_p, own_log_p) > _IMPOSSIBLE].max())
    if not (largest <= _LARGEST and typical <= _TYPICAL):
        raise ModelError(
            f"this model's own logits can't be reproduced from its last residual stream by ln_final, the unembedding"
            f"{', its soft cap' if cap > 0 else ''} and a scale (off by {error:.3g} nats; in units of what rounding to "
            f"{str(coarsest).removeprefix('torch.')} does to a logit, by {largest:.3g} at most and {typical:.3g} typically), "
            f"so a lens on it would not be the model's; {cause}"
        )
    return scale, error


def _rounding(dtype: torch.dtype) -> float:
    """By how much of itself a number moves at most, rounded to a dtype; 0 where that is no floating-point dtype."""
    return torch.finfo(dtype).eps / 2 if dtype.is_floating_point else 0.0


def _products(rows: Tensor, unembedding: Tensor) -> tuple[Tensor, Tensor]:
    """``rows @ unembedding`` and the same of absolute values, in float64 on the CPU, with no second copy of the matrix."""
    rows, found = rows.to("cpu", torch.float64), []
    for tile in unembedding.split(4096, dim=1):
        columns = tile.to("cpu", torch.float64)
        found.append(torch.stack([rows @ columns, rows.abs() @ columns.abs()]))
    product, magnitude = torch.cat(found, dim=-1)
    return product, magnitude


def _unit(product: Tensor, bias: Tensor, magnitude: Tensor, cap: float, dtype: torch.dtype) -> Tensor:
    """What one rounding moves a logit by at most; infinite where a bias of -inf rules a token out."""
    size = _capped(product.abs() + bias.abs(), cap)
    typical = _capped(product.square().mean(-1, keepdim=True).sqrt(), cap)
    exact = torch.promote_types(dtype, torch.float32)
    sums = _rounding(exact) * (magnitude + bias.abs().nan_to_num(posinf=0.0))
    return _rounding(dtype) * torch.maximum(size, typical) + sums + _NEGLIGIBLE.get(exact, 2e-4)


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """The difference; 0 where both are -inf."""
    return (a - b).masked_fill(a == b, 0.0)


def _capped(logits: Tensor, cap: float) -> Tensor:
    return cap * torch.tanh(logits / cap) if cap > 0 else logits


def _measured_scale(raw: Tensor, own: Tensor, cap: float, *, slack: float) -> float:
    """Least-squares factor from raw to the model's (uncapped) logits, over what masks and the cap leave invertible.

    Rows are centred first, since some models shift all logits of a position. A factor within ``slack`` of a power of two
    (1, or the 1/8 and 1/16 of Granite and Cohere) is that power: the rest is the rounding of the model's own logits.
    """
    known = raw.isfinite() & own.isfinite()
    if cap > 0:
        known &= own.abs() < 0.9 * cap
        own = cap * torch.atanh((own / cap).clamp(-0.9, 0.9))
    source, target = (values.masked_fill(~known, 0.0) for values in (raw, own))
    if cap <= 0:
        n = known.sum(-1, keepdim=True).clamp(min=1)
        source, target = ((x - x.sum(-1, keepdim=True) / n).masked_fill(~known, 0.0) for x in (source, target))
    power = float((source * source).sum())
    scale = float((source * target).sum()) / power if power > 0 else 1.0
    nearest = 2.0 ** round(math.log2(scale)) if scale > 0 else scale
    return nearest if scale > 0 and abs(scale / nearest - 1) < slack else scale
