"""Interventions that take bits from what passes a hook: rounded to few values, or blurred by noise.

What a model says with them in place shows how many bits it needs there:

    >>> import tl_entropy as tle
    >>> model, text = tle.demo_model(), "import os"
    >>> whole, rounded = (
    ...     tle.token_surprisal(model, text, interventions=edit, progress=False).loss()
    ...     for edit in (None, quantize("resid_post.2", "bfloat16"))
    ... )
    >>> 0 < abs(rounded - whole) < 0.05
    True

The mathematics is in ``functional/quantisation.py``. Rounding looks at one vector at a time, and so may be anywhere, also
while text is generated. Noise hangs on the seed, the hook, the document, the position and the unit, and on nothing else: it is
the same in every batch, process and window, and on both kinds of TransformerLens models.

Refused: ``result``, which is computed from ``z``; ``resid_mid``, at which the two kinds of models mean different things; noise
in attention patterns, of which positions are two axes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from tl_entropy.batches import Batch
from tl_entropy.capture.hooks import hook_name
from tl_entropy.capture.interventions import Edit, Intervention, fingerprint
from tl_entropy.capture.occlusion import edited_place
from tl_entropy.capture.positions import AtPositions
from tl_entropy.errors import InputError, NonFiniteError, check_int, check_number
from tl_entropy.functional import quantisation
from tl_entropy.functional.hashing import key_of_cells, uniform_of
from tl_entropy.sites import Site
from tl_entropy.torch_state import steady


@steady
def quantize(
    site: str | Site,
    to: str,
    *,
    bits: int | None = None,
    limit: float | None = None,
    scale: float | Tensor | str | None = None,
    straight_through: bool = False,
) -> Intervention:
    """Round what passes a site to the values of a type, to ints with a scale, or to a grid; see ``functional.quantize``.

    Every vector along the last axis is rounded by itself, BOS and padding included: of ``z`` each head's. What lies beyond the
    range becomes its last value.

    Args:
        site: ``"resid_post.3"``, ``"mlp_out.-1"`` (of the last layer), ``"z.2"``, ``"pattern.0"``, ...; or the name of any
            hook, such as ``"blocks.1.attn.hook_k"``.
        to: ``"bfloat16"``, ``"float16"``, ``"float8_e4m3fn"``, ``"float8_e5m2"``, ``"int8"`` and others, or ``"grid"``.
        bits: of the grid.
        limit: of the grid.
        scale: of ints: a number, a tensor that broadcasts to the activation, None or ``"bfloat16"`` for each vector's own.
        straight_through: let gradients pass (``gradient_reliance``); the name says so.

    Raises:
        InputError: a place that cannot be quantised, or arguments that ``functional.quantize`` refuses; when measuring, a layer
            or hook that the model does not have.
        InputTypeError: an argument of another kind.
        NonFiniteError: when measuring, a NaN there, or an infinity that would set a scale.

    >>> quantize("resid_post.3", "int8").name, quantize("mlp_out.0", "grid", bits=4, limit=2).name
    ('quantize resid_post.3 to int8', 'quantize mlp_out.0 to a grid of 4 bits up to 2.0')
    """
    place = edited_place(site, "quantized", allowed=("pattern", "attn_scores"))
    quantisation.rounding(to, bits, limit, scale)
    kept = scale.detach().clone() if isinstance(scale, Tensor) else scale
    options: dict[str, Any] = {"bits": bits, "limit": limit, "scale": kept, "straight_through": straight_through}
    name = f"quantize {place} to {_values(to, bits, limit, kept)}{', straight through' if straight_through else ''}"
    if isinstance(place, Site) and place.counts_back:
        back = place
        return Intervention.counted_back(name, [back], lambda n: quantize(back.at(range(n)), to, **options))

    def edit(activation: Tensor, hook: Any) -> Tensor:
        try:
            return quantisation.quantize(activation, to, **options)
        except NonFiniteError as error:
            raise NonFiniteError(f"interventions: {name!r} at {getattr(hook, 'name', place)}: {error}") from error

    return _at(place, name, edit)


@steady
def add_noise(site: str | Site, scale: float, seed: int = 0) -> Intervention:
    """Add noise to what passes a site: to every number its own, uniform from -scale to scale.

    It takes as much as rounding to steps of 2·scale does: ``functional.effective_bits`` of the largest number there says how
    many bits are left. The noise of a token is the same in every batch, window and process; it is another at another site,
    document or seed. The BOS gets noise, too. Of one vector a window, [batch, d], the noise is that of its last token.

    None can be added while text is generated (``max_new_tokens``): a text that is being written has no number yet.

    Args:
        site: as in ``quantize``, but no attention pattern or scores; of a hook whose activation is [batch, pos, ...].
        scale: q, at least 0.
        seed: other noise for each, from 0.

    Raises:
        InputError: a place that can get no noise, a scale below 0 or not finite, a negative seed; when measuring, a layer or
            hook that the model does not have, or a hook with other axes.
        InputTypeError: an argument of another kind.

    >>> add_noise("resid_post.-1", 0.25, seed=3).name
    'add noise up to 0.25 to resid_post.-1, seed 3'
    """
    place = edited_place(site, "given noise")
    scale, seed = check_number("scale", scale, 0), check_int("seed", seed, 0)
    name = f"add noise up to {scale!r} to {place}, seed {seed}"
    if isinstance(place, Site) and place.counts_back:
        back = place
        return Intervention.counted_back(name, [back], lambda n: add_noise(back.at(range(n)), scale, seed))
    salt = int.from_bytes(hashlib.sha256(f"{seed} {place}".encode()).digest()[:4], "big", signed=True)

    def edit(activation: Tensor, hook: Any, cells: Tensor) -> Tensor:
        if activation.ndim == 2 and len(activation) == len(cells):
            cells = cells.amax(1)
        elif activation.ndim < 3 or activation.shape[:2] != cells.shape:
            raise InputError(
                f"interventions: {name!r}: the activation is {list(activation.shape)}, but to get noise it must be "
                f"[batch, pos, ...] with [batch, pos] = {list(cells.shape)}; choose another hook"
            )
        key = key_of_cells(cells >> 32, cells, salt)
        u = uniform_of(key, activation[(0,) * cells.ndim].numel()).view(activation.shape)
        return activation + ((2 * u - 1) * scale).to(activation.dtype)

    return _at(place, name, _OfTokens(None, edit))


class _OfTokens(AtPositions):
    """An edit that is called with the number [batch, pos] of each token, in place of whether it is meant."""

    def cells(self, batch: Batch) -> Tensor:
        """Documents in the upper half of the bits, positions below: 1 is the BOS, 2 the first token; 0 is padding."""
        numbers = (batch.document[:, None] << 32) + batch.position + 2
        return torch.where(batch.attention_mask, numbers, 0)


def _at(place: Site | str, name: str, edit: Edit) -> Intervention:
    return Intervention(name, ((hook_name(place) if isinstance(place, Site) else place, edit),))


def _values(to: str, bits: int | None, limit: float | None, scale: Any) -> str:
    if to == "grid":
        return f"a grid of {bits} bits up to {float(limit or 0)!r}"
    if scale is None:
        return to
    if isinstance(scale, str):
        return f"{to} with scales in {scale}"
    return f"{to} with scale{f's {fingerprint(scale)}' if isinstance(scale, Tensor) else f' {float(scale)!r}'}"
