r"""That what attention or an MLP writes is what the block adds to the residual stream, and by which constant factor.

With pre, mid and post the stream before, within and behind a block, and a the output of its attention, m that of its MLP,

    mid - pre = f · a,    post - mid = g · m,    or, where both run in parallel,    post - pre = f · a + g · m.

A block may add more (a state-space mixer beside the attention, an input of the layer's own): each output of its other modules
then takes part with a factor of its own. Factors are found by least squares on a short pass, and proved on all of its cells. f
is 1 nearly everywhere; some models multiply between the output that TransformerLens shows and the stream (Falcon H1), and some
before (Granite), where it is 1.

Refused: outputs that are no part of the sum in this way, as where a norm stands between, or takes the stream itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tl_entropy.capture.proofs.short_pass import PARTS, ShortPass
from tl_entropy.errors import ModelError
from tl_entropy.sites import Site
from tl_entropy.torch_state import cached_property

# Largest error allowed, relative to the size of what is added. Another transform is off by about as much as the output itself;
# reduced precision rounds the output once or twice.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.05}
# A factor that near to a plain one is that: the rest is rounding.
_SLACK = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}


class Contributions:
    """What parts of blocks add to the residual stream of a model, by a short pass."""

    def __init__(self, seen: ShortPass) -> None:
        self._seen = seen
        self._factors: dict[Site, float] = {}

    def factor(self, site: Site) -> float:
        """The factor on ``attn_out`` or ``mlp_out`` of a layer in what the block adds to the stream.

        Raises:
            ModelError: it is no part of it.
        """
        if site not in self._factors:
            value = self._seen(site.name, site.layer)
            if value is None:
                raise ModelError(f"{site} can't be seen on a short pass, so what it adds to the residual stream is not known")
            self._factors[site] = self.share(site, value)
        return self._factors[site]

    def share(self, site: Site, value: Tensor) -> float:
        """The same for another ``value`` [batch, pos, d_model] of the short pass in the place of ``attn_out`` or ``mlp_out``.

        Raises:
            ModelError: it is no part of what the block adds.
        """
        layer, other = site.layer, PARTS[1 - PARTS.index(site.name)]
        pre, mid, post = (self._seen(name, layer) for name in ("resid_pre", "resid_mid", "resid_post"))
        beside = self._seen(other, layer)
        within = (pre, mid) if site.name == "attn_out" else (mid, post)
        spans: list[tuple[Tensor | None, Tensor | None, list[Tensor]]] = [] if mid is None else [(*within, [])]
        spans += [(pre, post, [] if beside is None else [beside])]
        plain = self._plain(layer)
        if all(first is None or last is None for first, last, _ in spans):
            raise ModelError(
                f"what block {layer} adds to the residual stream can't be seen: its states have no hooks that fire"
            )
        for more in (False, True):
            for first, last, others in spans:
                if first is None or last is None:
                    continue
                found = share(value, first, last, [*others, *(self._modules(site) if more else [])], plain)
                if found is not None:
                    return found
        what = "attention" if site.name == "attn_out" else "the MLP"
        raise ModelError(
            f"at layer {layer} what {what} writes is no part, by any factor, of what the block adds to the residual stream, "
            "since a norm (Gemma 2, OLMo 2) or another transform follows"
        )

    def _plain(self, layer: int) -> tuple[float, ...]:
        """Factors that may be meant: 1, and the one that TransformerLens knows of (Granite)."""
        return 1.0, float(getattr(self._seen.runner.block(layer), "residual_contribution_scale", 1.0))

    def _modules(self, site: Site) -> list[Tensor]:
        """Outputs of the block's other modules."""
        own = ("attn", "self_attn") if site.name == "attn_out" else ("mlp",)
        return [value for name, value in self._beside(site.layer).items() if name not in own]

    def _beside(self, layer: int) -> dict[str, Tensor]:
        if layer not in self._outputs:
            self._outputs[layer] = self._seen.beside(layer)
        return self._outputs[layer]

    @cached_property
    def _outputs(self) -> dict[int, dict[str, Tensor]]:
        return {}


def share(
    value: Tensor, before: Tensor, after: Tensor, others: Sequence[Tensor] = (), plain: Sequence[float] = (1.0,)
) -> float | None:
    """The factor f for which after - before = f · value + Σ f_i · others_i, or None where there is none.

    Args:
        value: [..., d_model].
        before: the residual stream [..., d_model] before it is added.
        after: and after.
        others: what else is added, each with a factor of its own.
        plain: factors one of which is probably meant.

    >>> stream, value = torch.ones(2, 3), torch.arange(6.0).reshape(2, 3)
    >>> share(value, stream, stream + value), share(value, stream, stream + 0.25 * value), share(value, stream, stream * value)
    (1.0, 0.25, None)
    """
    tolerance, slack = (table.get(after.dtype, table[torch.bfloat16]) for table in (_TOLERANCE, _SLACK))
    rounding = torch.finfo(after.dtype).eps / 2
    flat: list[Any] = [x.detach().to("cpu", torch.float64).flatten() for x in (value, before, after, *others)]
    value, before, after, *others = flat
    added = after - before
    if not bool(torch.stack(flat).isfinite().all()):
        return None
    rounded = rounding * after.abs()
    noise = float(rounded.square().mean().sqrt())  # of a cell
    if float(value.norm()) <= 10 * noise:  # it writes nothing that could be told from rounding
        return 1.0 if others or float(added.square().mean().sqrt()) <= 2 * noise else None
    # What is a state of the stream itself, or the value under another name, is nothing that is added beside it.
    others = [x / x.norm() for x in others if float(x.norm()) > 10 * noise]
    others = [x for x in others if all(abs(float(x @ y)) < (1 - 1e-6) * float(y.norm()) for y in (value, before, after))]
    basis = torch.linalg.qr(torch.stack(others, 1)).Q if others else value.new_zeros(len(value), 0)
    own, rest = value - basis @ (basis.T @ value), added - basis @ (basis.T @ added)
    if float(own.norm()) < 1e-3 * float(value.norm()):
        return None
    found = float(own @ rest / (own @ own))
    if abs(found) * float(own.norm()) <= max(10 * noise, 1e-4 * float(added.norm())):  # the others are all there is
        return None
    # No cell may be off by more than roundings and a share of its size, nor all together by more than roundings typically are.
    missed, typical = (rest - found * own).abs(), float(added.square().mean().sqrt())
    fits = bool((missed <= tolerance * ((found * value).abs() + typical) + 3 * rounded).all())
    if not fits or float(missed.square().mean().sqrt()) > tolerance / 2 * typical + noise:
        return None
    return next((factor for factor in plain if abs(found / factor - 1) <= slack), found)


def why_not(refused: ModelError, what: str, layer: int, weights: str, cause: str | None) -> str:
    """Why what heads or neurons write is no part of what a block adds: by the weights it is computed with, where these are odd.

    Args:
        refused: what ``Contributions.share`` raised of it, which blames what follows behind it.
        what: what they write, as it is computed.
        layer: of the block.
        weights: what the weights are called.
        cause: why the weights may not be all that the module does (see ``condition.unusual``); None where nothing is seen.

    >>> why_not(ModelError("since a norm follows"), "z @ W_O", 1, "W_O", None)
    'since a norm follows'
    """
    if cause is None:
        return str(refused)
    return (
        f"at layer {layer} what they write, {what}, is no part, by any factor, of what the block adds to the residual stream. "
        f"Of its {weights}: {cause}. Or a norm follows (Gemma 2, OLMo 2)"
    )
