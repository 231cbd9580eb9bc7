"""What is handed in as a model: the model itself, or an ``Adapter`` in its place."""

from __future__ import annotations

from typing import Any

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.places import ENCODER
from tl_entropy.errors import InputError, is_iterable
from tl_entropy.sites import Site


def adapter_of(model: Any) -> Adapter:
    """The adapter of a model; one that is handed in itself, or a fresh one where the weights are others than it has read."""
    if not isinstance(model, Adapter):
        return Adapter(model)
    return model.fresh() if model.is_stale else model


def of_stack(model: Any, sites: Any) -> tuple[Any, Any]:
    """A model and the places asked for; where these are ``encoder.resid_post.0`` and the like, its encoder, and them in it.

    Raises:
        InputError: places of both stacks, or of an encoder that the model does not have.

    >>> of_stack("model", ["resid_post"])
    ('model', ['resid_post'])
    """
    asked = [sites] if isinstance(sites, str | Site) or not is_iterable(sites) else list(sites)
    inside = [isinstance(site, str) and site.startswith(ENCODER) for site in asked]
    if not any(inside):
        return model, sites
    if not all(inside):
        other = asked[inside.index(False)]
        raise InputError(
            f"sites: {asked[inside.index(True)]} is of the encoder, and {other} is not; measure one after the other"
        )
    given = model.given if isinstance(model, Adapter) else model
    return Adapter(given, stack="encoder"), [str(site).removeprefix(ENCODER) for site in asked]
