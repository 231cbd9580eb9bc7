"""Where in the model a number was measured: a short site name and a layer; and the one grammar in which places are named.

Short names are TransformerLens's hook names without their prefix. ``embed`` is the residual stream that enters the first
block, positions included (TransformerLens's ``blocks.0.hook_resid_pre``), and has layer -1; every other site has the number
of its block, from 0. ``result`` is what each head writes into the residual stream, z @ W_O head by head; the bias b_O, which
belongs to no head, is not in it. ``post`` is what the neurons of an MLP give, behind the nonlinearity and, where there is one,
the gate: what the MLP's output weights multiply, [neuron]. Mixtures of experts have none.

A place is named by a short name and its layer (``"resid_post.3"``), by ``"embed"``, by a ``Site``, or by TransformerLens's name
of its hook (``"blocks.3.hook_resid_post"``). In what is asked for, a negative layer counts from the last one, which is -1; the
embedding is asked for by its name. Only in what comes back, tables and files, the embedding's layer is -1.

Refused: TransformerLens's ``hook_embed`` as a place, which is another than ``embed``: it lacks the positions.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple, Self

from tl_entropy.errors import InputError, InputTypeError, check_choice, is_iterable

SITE_NAMES = ("embed", "resid_pre", "pattern", "z", "result", "attn_out", "resid_mid", "post", "mlp_out", "resid_post")
"""All short names, in the order in which a block computes them."""

HEAD_SITES = frozenset({"pattern", "z", "result"})
"""Sites with a head axis."""

INNER_SITES = HEAD_SITES | {"post"}
"""Sites inside attention and MLP; the others are vectors of the residual stream's width."""

UNEMBED = "unembed"
"""What the unembedding is given; no site that is asked for, but where a model's own predictions may have to be read."""

Layers = int | slice | Sequence[int]
"""Blocks asked for: numbers from 0, negative from the last, or a slice."""

_HOOK = re.compile(r"(?:(?:de|en)coder_)?blocks\.(-?\d+)\.(?:(?:(?:self_)?attn|mlp)\.)?hook_(\w+)")


class Site(NamedTuple):
    """One place in the model, such as ``Site("resid_post", 3)``.

    >>> import tl_entropy as tle
    >>> str(tle.Site("resid_post", 3)), tle.Site.parse("blocks.3.hook_resid_post") == tle.Site("resid_post", 3)
    ('resid_post.3', True)
    """

    name: str
    layer: int

    @classmethod
    def parse(cls, place: str | Site, argument: str = "site") -> Self:
        """One place, however it is named; a negative layer stays one, see ``at``.

        Args:
            place: a short name with its layer, ``"embed"``, a hook's name, or a ``Site``.
            argument: what it was given as, for errors.

        Raises:
            InputError: no such place, or a short name without its layer.
            InputTypeError: neither a text nor a ``Site``.

        >>> Site.parse("resid_post.3") == Site.parse("blocks.3.hook_resid_post") == Site("resid_post", 3)
        True
        """
        if isinstance(place, str):
            hook = _HOOK.fullmatch(place)
            name, dot, layer = (hook[2], ".", hook[1]) if hook else place.partition(".")
            if place == "hook_embed":
                raise InputError(f"{argument}: hook_embed lacks the positions; the stream that enters block 0 is 'embed'")
            check_choice(argument, name, SITE_NAMES)
            if bool(dot) == (name == "embed") or (dot and not layer.removeprefix("-").isdecimal()):
                raise InputError(
                    f"{argument} must be a short name with its layer, such as 'resid_post.3' ('resid_post.-1' in the last), "
                    f"'embed', or a hook's name, such as 'blocks.3.hook_resid_post'; got {place!r}"
                )
            return cls(name, int(layer) if dot else -1)
        if not isinstance(place, Site):
            raise InputTypeError(f"{argument} must be one site, such as 'resid_post.3' or Site('resid_post', 3); got {place!r}")
        check_choice(argument, place.name, SITE_NAMES)
        return cls(place.name, -1 if place.name == "embed" else _whole(place.layer))

    def at(self, present: Sequence[int], owner: str = "the model") -> Site:
        """The same with its layer counted from 0; ``present`` are the layers that ``owner`` has, in order.

        Raises:
            InputError: there is no such layer.

        >>> Site("resid_post", -1).at(range(6)), Site("embed", -1).at(range(6))
        (Site(name='resid_post', layer=5), Site(name='embed', layer=-1))
        """
        return self if self.name == "embed" else Site(self.name, layers_at(self.layer, present, owner)[0])

    @property
    def depth(self) -> tuple[int, int]:
        """Sorts sites by the order in which the model computes them."""
        return self.layer, (*SITE_NAMES, UNEMBED).index(self.name)

    @property
    def counts_back(self) -> bool:
        """Whether the layer is counted from the last."""
        return self.layer < 0 and self.name != "embed"

    def __str__(self) -> str:
        return self.name if self.name == "embed" else f"{self.name}.{self.layer}"


Places = str | Site | Iterable[str | Site]
"""Places asked for, one or several: short names, each for every layer, or single ones."""


def read_places(names: Any, argument: str = "sites") -> list[str | Site]:
    """Places asked for, one or several: short names, each for every layer, as texts, and single ones as ``Site``.

    Raises:
        InputError: none, or something that is no place.
        InputTypeError: neither texts nor Sites.

    >>> read_places(("embed", "resid_mid", "blocks.3.hook_resid_post"))
    [Site(name='embed', layer=-1), 'resid_mid', Site(name='resid_post', layer=3)]
    """
    if isinstance(names, str | Site):  # a Site is a tuple, too
        names = [names]
    try:
        asked = list(names)
    except TypeError:  # of a number, or of an array without an axis
        raise InputTypeError(f"{argument} must be short names or Sites, one or several; got {names!r}") from None
    if not asked:
        raise InputError(f"{argument} is empty; choose from {', '.join(SITE_NAMES)}")
    return [item if item in SITE_NAMES[1:] and isinstance(item, str) else Site.parse(item, argument) for item in asked]


def expand_sites(names: str | Iterable[str | Site], n_layers: int, layers: Layers | None = None) -> tuple[Site, ...]:
    """Short names to sites, in the order of computation; ``layers`` restricts the blocks, see ``layers_at``.

    A place with a layer, such as ``"resid_post.3"`` or a ``Site``, is that one alone, whatever ``layers`` says.

    Raises:
        InputError: no site, an unknown name, or a layer that the model does not have.
        InputTypeError: ``layers`` is no int, ints or slice.

    >>> [str(site) for site in expand_sites(("resid_post", "embed"), 2)]
    ['embed', 'resid_post.0', 'resid_post.1']
    """
    asked, there = read_places(names), range(n_layers)
    chosen = there if layers is None else layers_at(layers, there)
    sites: set[Site] = set()
    for item in asked:
        sites |= {item.at(there)} if isinstance(item, Site) else {Site(item, layer) for layer in chosen}
    return tuple(sorted(sites, key=lambda site: site.depth))


def layers_at(layers: Any, present: Sequence[int], owner: str = "the model") -> list[int]:
    """Layers asked for, as numbers from 0: an int, ints, or a slice; a negative number counts from the last layer.

    A slice that runs to the end in steps keeps the last layer, which holds the model's output: ``slice(None, None, 2)`` of 6
    layers is 0, 2, 4, 5. One with an end of its own is Python's.

    Args:
        layers: what is asked for.
        present: the layers that there are, in order.
        owner: who has them, for errors.

    Raises:
        InputError: a layer that is not there, or none.
        InputTypeError: something else.

    >>> layers_at(-1, range(6)), layers_at(slice(None, None, 2), range(6))
    ([5], [0, 2, 4, 5])
    """
    n = 1 + max(present, default=-1)
    shown = "layers " + (f"0 to {n - 1}" if len(present) == n else ", ".join(map(str, present))) if n else "no layers"
    if isinstance(layers, slice):
        try:
            found = list(range(n)[layers])
        except (TypeError, ValueError) as error:
            raise InputTypeError(f"layers must be ints, or a slice of ints; got {layers!r}") from error
        if layers.stop is None and found and (layers.step or 1) > 1 and found[-1] != n - 1:
            found.append(n - 1)
        found = [layer for layer in found if layer in present]
        if not found:
            raise InputError(f"layers is empty: {layers!r} means none; {owner} has {shown}")
        return found
    given = layers.tolist() if hasattr(layers, "tolist") else layers
    asked = [_whole(layer) for layer in ([given] if isinstance(given, str) or not is_iterable(given) else given)]
    if not asked:
        raise InputError(f"layers is empty; leave it out for all: {owner} has {shown}")
    for layer in asked:
        number = layer + n if layer < 0 else layer
        if number not in present:
            back = f" (counted from the last, it is {number})" if layer < 0 <= number else ""
            raise InputError(f"layer {layer} does not exist{back}; {owner} has {shown}")
    return [layer % n for layer in asked]


def _whole(layer: Any) -> int:
    if isinstance(layer, bool) or not isinstance(layer, Integral):
        raise InputTypeError(f"layers must be ints, such as layers=[0, -1], or a slice; got {layer!r}")
    return operator.index(layer)
