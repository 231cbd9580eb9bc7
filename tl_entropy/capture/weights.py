"""Matrices of a model that are changed for a while, and are then what they were.

``attn_out`` is written by W_O and ``mlp_out`` by W_out. What a model shows as such a matrix has to be the memory that it
computes with, which a short pass proves: with zeros in it, the site is the same at every position. Of adapters, packed or
offloaded weights it is not.

Refused: those, and matrices that a model does not have (mixtures of experts).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.condition import is_plain
from tl_entropy.capture.hooks import attribute
from tl_entropy.errors import InputError, ModelError
from tl_entropy.sites import Site
from tl_entropy.torch_state import yours

WRITTEN_BY = {"attn_out": ("attn", "W_O"), "mlp_out": ("mlp", "W_out")}


def matrices(adapter: Adapter, sites: tuple[Site, ...]) -> dict[str, Tensor]:
    """The matrix [d_out, d_in] behind each site, a view of the model's own memory.

    Raises:
        InputError: a site that is no output of one matrix.
        ModelError: a matrix that is not what the model computes with.
    """
    return {str(site): _behind(adapter, site) for site in sites}


def named_matrices(adapter: Adapter, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Parameters by their dotted names in the model, under names of one's own.

    Raises:
        InputError: a parameter that the model does not have.
    """
    found = dict(adapter.model.named_parameters())
    for name in names.values():
        if name not in found:
            raise InputError(f"weights: the model has no parameter {name!r}; model.named_parameters() lists them")
    return {shown: found[name].detach() for shown, name in names.items()}


@contextmanager
def changed(adapter: Adapter, matrix: Tensor, change: Callable[[Tensor], Tensor], name: str) -> Iterator[None]:
    """The model with ``change(matrix)`` in place of a matrix inside, and as it was afterwards, whatever happens.

    Other threads' passes on the model wait.

    Raises:
        InputError: a change to another shape, or to a NaN or an infinity.
    """
    with adapter.turns.held():
        kept = matrix.clone()
        with yours():
            new = change(kept.clone())
        if not isinstance(new, Tensor) or new.shape != kept.shape or not bool(new.isfinite().all()):
            came = f"{list(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
            raise InputError(f"edits: {name!r} must give finite numbers {list(kept.shape)}; got {came}, or one not finite")
        try:
            with torch.no_grad():
                matrix.copy_(new)
            yield
        finally:
            with torch.no_grad():
                matrix.copy_(kept)


def _behind(adapter: Adapter, site: Site) -> Tensor:
    if site.name not in WRITTEN_BY:
        raise InputError(
            f"sites: {site} is not written by one matrix; with weights=True take {' or '.join(WRITTEN_BY)}, or name "
            "parameters, such as weights={'down': 'memory.down.weight'}"
        )
    part, name = WRITTEN_BY[site.name]
    owner = adapter.attention(site.layer) if part == "attn" else attribute(adapter.block(site.layer), part)
    given = attribute(owner, name)
    if not isinstance(given, Tensor) or not is_plain(given) or given.ndim not in (2, 3):
        raise ModelError(
            f"weights: {site} of this model is written by no one matrix that can be changed ({name}); choose other sites, or "
            "name parameters: weights={'name': 'dotted.name'}, of model.named_parameters()"
        )
    matrix = given.detach()
    matrix = matrix if matrix.ndim == 2 else matrix.flatten(0, 1)
    _prove(adapter, site, matrix, name)
    return matrix.T


def _prove(adapter: Adapter, site: Site, matrix: Tensor, name: str) -> None:
    """Raise ModelError unless, with a matrix at 0, what its site writes is the same at every position: a bias, at most."""
    n = min(8, adapter.context)
    tokens = torch.linspace(0, adapter.d_vocab - 1, n).long()[None]
    with changed(adapter, matrix, torch.zeros_like, str(site)):
        written = adapter.activations(tokens, torch.ones_like(tokens), [site])[site]
    if not torch.equal(written, written[:, :1].expand_as(written)):
        raise ModelError(
            f"weights: what {site} of this model shows as {name} is not what it computes with (an adapter, packed or copied "
            "weights); name its parameters: weights={'name': 'dotted.name'}"
        )
