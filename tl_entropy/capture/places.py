"""Where sites are in a model: in which stack of blocks, and at which hooks.

Nearly all models have one stack, ``blocks``, with a norm behind it, ``ln_final``, or none. An encoder-decoder has two, of which
a measurement is of one: the decoder's unless the encoder's is asked for (``Adapter(model, stack="encoder")``). TransformerLens
runs such a model on a text with the text as the encoder's input, and the same tokens, one place later and with the start token
in front, as the decoder's: at a token's place the decoder has read the tokens before it, and the whole text by its memory.

A model whose decoder is ``blocks`` and which has an ``encoder`` beside it, with ``blocks`` of its own, has both stacks, too.

Refused: models whose blocks stand in other stacks than these; sites that a model has no hook for, with the reason; hooks in a
module that several blocks share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from torch import nn

from tl_entropy.capture.hooks import attribute, hook_name, source_site
from tl_entropy.errors import InputError, ModelError, check_choice, is_iterable
from tl_entropy.sites import HEAD_SITES, Layers, Site, expand_sites
from tl_entropy.torch_state import cached_property

StackName = Literal["decoder", "encoder"]
ENCODER = "encoder."
"""What stands before the name of a place in an encoder."""
OF_WINDOWS = {"memory": "hook_memory", "state": "hook_state"}
"""Short names of places with one vector a window, and their hooks."""


class Stack(NamedTuple):
    """One stack of blocks.

    Attributes:
        blocks: name of the blocks in the model, and in the names of its hooks.
        norm: name of the norm behind them.
        of: "decoder" or "encoder" where the model has both; None where it is the model's only stack.
    """

    blocks: str
    norm: str
    of: StackName | None

    @classmethod
    def of_model(cls, model: Any, asked: StackName | None) -> Stack:
        """The stack to measure.

        Raises:
            InputError: the model does not have the stack that is asked for.
            ModelError: the model's blocks stand in other stacks.
        """
        if asked is not None:
            check_choice("stack", asked, ("decoder", "encoder"))
        if attribute(model, "blocks") is not None:
            if asked == "encoder" and attribute(attribute(model, "encoder"), "blocks") is not None:
                return cls("encoder.blocks", "encoder.ln_final", "encoder")
            if asked is not None:
                raise InputError(
                    f"stack: this model has one stack of blocks and no {asked} of its own; leave stack out, and '{asked}.' in "
                    "front of a site, too"
                )
            return cls("blocks", "ln_final", None)
        of: StackName = asked or "decoder"
        if attribute(model, f"{of}_blocks") is not None:
            return cls(f"{of}_blocks", f"{of}_ln_final", of)
        children: Iterable[tuple[str, Any]] = getattr(model, "named_children", list)()
        stacks = [name for name, _ in children if name.endswith("blocks") or name in ("encoder", "decoder")]
        raise ModelError(
            f"model: this {type(model).__name__} has no single stack of blocks, one after the other, of which layers could be "
            f"measured; it has {', '.join(stacks) or 'none'}"
        )

    def hook(self, name: str, points: Mapping[str, Any]) -> str:
        """What this model calls a hook that is called ``name`` where there is one stack, among its hook ``points``.

        >>> Stack("decoder_blocks", "decoder_ln_final", "decoder").hook("blocks.1.attn.hook_z", {})
        'decoder_blocks.1.attn.hook_z'
        >>> Stack("blocks", "ln_final", None).hook("blocks.1.attn.hook_z", {"blocks.1.self_attn.hook_z": None})
        'blocks.1.self_attn.hook_z'
        """
        own = f"{self.blocks}{name.removeprefix('blocks')}" if name.startswith("blocks.") else name
        other = own.replace(".attn.", ".self_attn.")
        return other if own not in points and other in points else own


def _innermost(module: Any) -> Any:
    """The module of Hugging Face's that one of TransformerBridge's stands around; any other itself."""
    while (inner := module._modules.get("_original_component")) is not None:
        module = inner
    return module


class Places:
    """The part of an adapter that knows where a model's sites are.

    Attributes:
        model: the TransformerLens model.
        stack: the stack of blocks that is measured.
        n_layers: number of its blocks.
    """

    def __init__(self, model: Any, stack: StackName | None) -> None:
        self.model = model
        self.stack = Stack.of_model(model, stack)
        self.n_layers = len(attrgetter(self.stack.blocks)(model))
        self._silent: set[Site] = set()  # whose own hooks were seen not to fire

    @property
    def last_site(self) -> Site:
        """The last block's ``resid_post``, from which the model's own output is read."""
        return Site("resid_post", self.n_layers - 1)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        owner = self.stack.blocks.rpartition(".")[0]
        own = attribute(attrgetter(owner)(self.model), "d_model") if owner else None
        return int(self.model.cfg.d_model if own is None else own)

    def block(self, layer: int) -> Any:
        """A block of the stack that is measured."""
        return attrgetter(self.stack.blocks)(self.model)[layer]

    def attention(self, layer: int) -> Any:
        """The attention of a block, or None."""
        found = (attribute(self.block(layer), name) for name in ("attn", "self_attn"))
        return next((part for part in found if part is not None), None)

    @property
    def points(self) -> Mapping[str, Any]:
        """The model's hook points by their names; made anew each time, which on a TransformerBridge takes a while."""
        points: Mapping[str, Any] = self.model.hook_dict
        return points

    def hook_of(self, site: Site, points: Mapping[str, Any] | None = None) -> str:
        """The name of the hook at which a site is seen, among the model's hook ``points``.

        Where the hook of a ``resid_post`` is known to be silent, it is that of what comes next and reads it.
        """
        points = self.points if points is None else points
        behind = self._behind(site, points) if site in self._silent else None
        return self.stack.hook(behind or hook_name(site), points)

    def own_hook(self, name: str, points: Mapping[str, Any]) -> str:
        """The name of a hook; ModelError where it is inside a module that several blocks share."""
        if self._shared and id(points.get(name)) in self._shared:
            raise ModelError(
                f"{name} is in a module that several layers of this model share, and fires once for each of them in a pass, so "
                "what passes there is no single layer's; before and behind a whole block (resid_pre, resid_post) it is"
            )
        return name

    @cached_property
    def _shared(self) -> frozenset[int]:
        """Ids of all modules below those that several blocks of the stack have as one of their parts."""
        blocks = [block for block in attrgetter(self.stack.blocks)(self.model) if isinstance(block, nn.Module)]
        parts = [{part: id(_innermost(part)) for part in block.children()} for block in blocks]
        held = Counter(number for own in parts for number in set(own.values()))  # in how many blocks
        shared = [part for own in parts for part, number in own.items() if held[number] > 1]
        return frozenset(id(module) for part in shared for module in part.modules())

    def sites(self, names: Any, layers: Layers | None = None) -> tuple[Site, ...]:
        """Short names to sites of this model; InputError for a site that it does not have."""
        asked = [names] if isinstance(names, str | Site) else list(names) if is_iterable(names) else names
        for name in asked if isinstance(asked, list) else ():
            if isinstance(name, str) and name in OF_WINDOWS:
                raise InputError(
                    f"sites: {name} is one vector a window, and this is of positions; tle.memories gives them, a row a window, "
                    "for what takes rows, such as functional.linear_cka or functional.soft_mutual_information"
                )
            if isinstance(name, str) and name.startswith(ENCODER):
                raise InputError(f"sites: {name} is of an encoder, whose states are no predictions of the model; take others")
            blocks = str(name).partition(".")[0]
            if blocks in ("encoder_blocks", "decoder_blocks") and blocks != self.stack.blocks:
                raise InputError(f"sites: {name} is not in the stack that is measured, {self.stack.blocks}")
        sites, points = expand_sites(asked, self.n_layers, layers), self.points
        for site in sites:
            if not self._has(source_site(site), points):
                raise InputError(f"sites: this model has no {site.name} at layer {site.layer}{self._reason(site, points)}")
        return sites

    def layers_with(self, name: str, points: Mapping[str, Any] | None = None) -> list[int]:
        """The layers that have a hook for a site."""
        points = self.points if points is None else points
        return [i for i in range(self.n_layers) if self._has(Site(name, i), points)]

    def _has(self, site: Site, points: Mapping[str, Any]) -> bool:
        """Whether a site has a hook of its own; what a mixture of experts calls post is its output once more."""
        name, whole = (self.hook_of(place, points) for place in (site, Site("mlp_out", site.layer)))
        return name in points and (site.name != "post" or points[name] is not points.get(whole))

    def _reason(self, site: Site, points: Mapping[str, Any]) -> str:
        """Why a site is not there, and where it is."""
        source = source_site(site)
        having, hook = self.layers_with(source.name, points), f"no hook {self.hook_of(source, points)}"
        if site.name == "post" and self.hook_of(source, points) in points:
            hook = "its MLP is a mixture of experts there, of whose neurons TransformerLens shows no activations"
        if having:
            return f": {hook}; layers that have one: {', '.join(map(str, having))} (layers={having})"
        heads = any(self.layers_with(name, points) for name in ("pattern", "z"))
        why = ""
        if site.name in HEAD_SITES and not heads:
            why = " (it has no attention heads, or none that TransformerLens shows)"
        elif site.name == "resid_mid" and getattr(self.model.cfg, "parallel_attn_mlp", False):
            why = " (its attention and MLP run in parallel)"
        elif site.name == "resid_mid":
            why = " (its blocks are single layers, or TransformerLens shows no state within them)"
        elif site.name == "post":
            why = " (it has no MLP, or none whose neurons TransformerLens shows)"
        return f"{why}: {hook}"

    def found_elsewhere(self, silent: Sequence[Site]) -> bool:
        """Whether each of these sites, whose hooks did not fire, has another hook to be seen at; which is then taken.

        Those that are looked for elsewhere already have none that is left.
        """
        points, new = self.points, [site for site in silent if site not in self._silent]
        other = [self.stack.hook(self._behind(site, points) or hook_name(site), points) for site in new]
        if not all(name in points and name != self.hook_of(site, points) for site, name in zip(new, other, strict=True)):
            return False
        self._silent |= set(new)
        return bool(new)

    def _behind(self, site: Site, points: Mapping[str, Any]) -> str | None:
        """The hook that comes next behind a block's end, and sees the same; None for other sites."""
        if site.name != "resid_post":
            return None
        if site != self.last_site:
            return hook_name(Site("resid_pre", site.layer + 1))
        ends = (f"{part}.hook_in" for part in (self.stack.norm, "project_out", "unembed"))
        return next((name for name in ends if name in points), None)
