"""Where in the model a number was measured: a short site name and a layer.

Short names are TransformerLens's hook names without their prefix. ``embed`` is the residual stream that enters the first
block, positions included (TransformerLens's ``blocks.0.hook_resid_pre``), and has layer -1; every other site has the number
of its block, from 0. ``result`` is what each head writes into the residual stream, z @ W_O head by head; the bias b_O, which
belongs to no head, is not in it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple, Self

from tl_entropy.errors import InputError, InputTypeError, check_choice

SITE_NAMES = ("embed", "resid_pre", "pattern", "z", "result", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""All short names, in the order in which a block computes them."""

HEAD_SITES = frozenset({"pattern", "z", "result"})
"""Sites with a head axis; the others are vectors of the residual stream's width."""


class Site(NamedTuple):
    """One place in the model, such as ``Site("resid_post", 3)``."""

    name: str
    layer: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of ``str``.

        Raises:
            InputError: no short name with its layer; ``embed`` has none.

        >>> Site.parse("resid_post.3")
        Site(name='resid_post', layer=3)
        """
        name, dot, layer = text.partition(".")
        check_choice("site", name, SITE_NAMES)
        if bool(dot) == (name == "embed") or (dot and not layer.removeprefix("-").isdecimal()):
            raise InputError(f"site must be a short name with its layer, such as 'resid_post.3', or 'embed'; got {text!r}")
        return cls(name, int(layer) if dot else -1)

    @property
    def depth(self) -> tuple[int, int]:
        """Sorts sites by the order in which the model computes them."""
        return self.layer, SITE_NAMES.index(self.name)

    def __str__(self) -> str:
        return self.name if self.name == "embed" else f"{self.name}.{self.layer}"


def expand_sites(
    names: str | Iterable[str | Site], n_layers: int, layers: Sequence[int] | slice | None = None
) -> tuple[Site, ...]:
    """Short names to sites, in the order of computation; ``layers``, a slice or numbers, restricts the blocks.

    Negative numbers count from the last block.

    A name with a layer, such as ``"resid_post.3"``, or a ``Site`` is that one alone, whatever ``layers`` says.

    Raises:
        InputError: no site, an unknown name, or a layer that the model does not have.
        InputTypeError: ``layers`` is not a sequence of ints.

    >>> [str(site) for site in expand_sites(("resid_post", "embed"), 2)]
    ['embed', 'resid_post.0', 'resid_post.1']
    """
    if isinstance(names, str | Site):  # a Site is a tuple, too
        names = [names]
    if not isinstance(names, Iterable):
        raise InputTypeError(f"sites must be short names or Sites, one or several; got {names!r}")
    asked = list(names)
    if not asked:
        raise InputError(f"sites is empty; choose from {', '.join(SITE_NAMES)}")
    chosen = range(n_layers) if layers is None else _layers(layers, n_layers)
    sites: set[Site] = set()
    for item in asked:
        if isinstance(item, str) and "." in item:
            item = Site.parse(item)
        if isinstance(item, Site):
            check_choice("sites", item.name, SITE_NAMES)
            sites.add(Site("embed", -1) if item.name == "embed" else Site(item.name, _layer(item.layer, n_layers)))
            continue
        check_choice("sites", item, SITE_NAMES)
        sites |= {Site("embed", -1)} if item == "embed" else {Site(item, layer) for layer in chosen}
    return tuple(sorted(sites, key=lambda site: site.depth))


def _layers(layers: Any, n_layers: int) -> list[int]:
    try:
        asked = list(range(n_layers)[layers] if isinstance(layers, slice) else layers)
    except TypeError:
        raise InputTypeError(f"layers must be a sequence of ints; got {layers!r}: give a sequence such as layers=[0]") from None
    if not asked:
        raise InputError(f"layers is empty; leave it out for all {n_layers} layers")
    return [_layer(layer, n_layers) for layer in asked]


def _layer(layer: Any, n_layers: int) -> int:
    if isinstance(layer, bool) or not isinstance(layer, Integral):
        raise InputTypeError(f"layers must be a sequence of ints; got {layer!r} in it: give a sequence such as layers=[0]")
    number = operator.index(layer)
    if not -n_layers <= number < n_layers:
        raise InputError(f"layer {number} does not exist; the model has layers 0 to {n_layers - 1}")
    return number % n_layers
