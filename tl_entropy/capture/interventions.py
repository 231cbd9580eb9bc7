"""Edits inside the model while it is measured: sub-layers ablated, vectors added, or any hook of one's own.

An intervention replaces what passes a hook point. Numbers measured at that point are of the edited value, numbers behind it of
what the model makes of it. Hooks are TransformerLens's: ``function(activation, hook)`` returns the new value, or None to keep
the old; what it writes into its activation counts as returned.

    >>> import tl_entropy as tle
    >>> ablated = ablate(["mlp_out.2", "attn_out.2"])
    >>> ablated
    Intervention(name='ablate attn_out.2, mlp_out.2')
    >>> result = tle.lens_entropy(tle.demo_model(), "import os", interventions=ablated, progress=False)

Heads and neurons are ablated by ``capture/ablation.py``. Steering by an added vector: Turner et al. 2023, "Steering language
models with activation engineering", arXiv 2308.10248.

Refused here: what is wrong for any model. What a given model or pass does not allow is refused by ``edits``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.hooks import hook_name
from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int, check_number, is_iterable
from tl_entropy.sites import Site
from tl_entropy.torch_state import steady

HookName = str | Callable[[str], bool]
Edit = Callable[..., Tensor | None]

SUBLAYERS = ("attn_out", "mlp_out")
STEERED = ("resid_pre", "attn_out", "mlp_out", "resid_post")


@dataclass(frozen=True)
class Intervention:
    """Named edits of what passes a model's hook points.

    ``hooks`` also serve TransformerLens itself: ``model.run_with_hooks(tokens, fwd_hooks=list(intervention.hooks))``; those
    at positions of documents don't, as TransformerLens knows no documents, nor those whose layer is counted from the last.

    A pair of one's own names its hook as TransformerLens does, or by any name of a site, such as ``"resid_post.-1"``.

    A hook of one's own that indexes positions sees columns of a window, BOS included, and not positions of a document: a text
    longer than the window meets it once per window, padding is on the right, and while text is generated calls after the first
    see the new token alone, [batch, 1, ...]. With ``AtPositions`` in its place it is told which cells it is to edit.

    On a TransformerBridge, what a hook at ``hook_resid_mid`` changes reaches the MLP alone, and not the stream; edit
    ``hook_attn_out`` for that.

    Results tell two hooks apart by their function's name, and two lambdas not at all: give an Intervention a name of its own.

    Heads ablated to 0 (``ablate_heads``) are another thing where TransformerLens has folded the value biases (HookedTransformer
    by default, and compatibility mode): z then lacks b_V, and what ablation changes can even have another sign. Ablation to
    ``head_means`` does not depend on it; use that to compare models or processings.

    Attributes:
        name: what a result's provenance says.
        hooks: one or more pairs of a hook's name, or a function that says yes to the names meant, and
            ``function(activation, hook)``, called with both by position. Those behind the last site measured are left out.
        check: called with the model's adapter before anything runs, to refuse what does not fit the model.
        of_layers: of one whose layers are counted from the last: the same for a model of this many layers, counted from 0.
        matched: draws an edit of the same kind and size that means nothing, for ``placebo``.

    >>> import tl_entropy as tle
    >>> half = tle.Intervention("half", [("blocks.2.hook_mlp_out", lambda activation, hook: 0.5 * activation)])
    >>> changed = tle.lens_entropy(tle.demo_model(), "import os", interventions=half, progress=False)
    >>> changed.provenance.settings["interventions"]
    ('half',)
    """

    name: str
    hooks: tuple[tuple[HookName, Edit], ...] = field(repr=False)
    check: Callable[[Adapter], None] | None = field(default=None, repr=False)
    of_layers: Callable[[int], Intervention] | None = field(default=None, repr=False)
    matched: Callable[[Adapter, torch.Generator], Intervention] | None = field(default=None, repr=False)

    @classmethod
    def counted_back(cls, name: str, sites: Iterable[Site], of_layers: Callable[[int], Intervention]) -> Intervention:
        """One at ``sites`` whose layers are counted from the last; see ``of_layers``."""

        def unknown(activation: Tensor, hook: Any) -> None:
            raise InputError(f"{name!r} counts its layer from the last, which only tl_entropy knows; give the layer from 0")

        return cls(name, tuple((hook_name(site), unknown) for site in sites), of_layers=of_layers)


Interventions = Intervention | tuple[HookName, Edit] | Sequence[Intervention | tuple[HookName, Edit]]


@steady
def ablate(sites: str | Site | Iterable[str | Site]) -> Intervention:
    """Set what whole attention or MLP layers write into the residual stream to 0.

    Args:
        sites: ``"attn_out.3"``, ``"mlp_out.0"``, ``"mlp_out.-1"`` (of the last layer), ..., one or several.

    Raises:
        InputError: none, or another site than these; when measuring, a layer that the model does not have.
        InputTypeError: something else than sites or their names.

    >>> ablate(["mlp_out.2", "attn_out.2"]).name
    'ablate attn_out.2, mlp_out.2'
    """
    asked: list[Any] = [sites] if isinstance(sites, str | Site) or not is_iterable(sites) else list(sites)
    expected = "sites must be whole sub-layers, such as 'attn_out.3' or 'mlp_out.0'; got "
    places = set()
    for item in asked or ["none"]:
        try:
            place = Site.parse(item)
        except (InputError, InputTypeError) as error:
            raise type(error)(f"{expected}{item!r}") from error
        if place.name not in SUBLAYERS:
            raise InputError(f"{expected}{str(item)!r}")
        places.add(place)
    chosen = sorted(places, key=lambda site: site.depth)
    name = f"ablate {', '.join(map(str, chosen))}"
    if chosen[0].counts_back:
        return Intervention.counted_back(name, chosen, lambda n: ablate([place.at(range(n)) for place in chosen]))

    def edit(activation: Tensor, hook: Any) -> Tensor:
        return torch.zeros_like(activation)

    return Intervention(name, tuple((hook_name(site), edit) for site in chosen))


@steady
def steer(
    vector: Tensor,
    *,
    layer: int | None = None,
    site: str | Site = "resid_post",
    scale: float = 1.0,
) -> Intervention:
    """Add ``scale`` times a vector to the residual stream at every position.

    ``attn_out`` and ``mlp_out`` add it to what the sub-layer writes, and so to the stream from there on. There is no
    ``resid_mid``: where the model is a TransformerBridge, what its hook changes reaches the MLP alone and not the stream.

    Args:
        vector: [d_model].
        layer: the block, from 0 or negative from the last.
        site: where in the block: "resid_pre", "attn_out", "mlp_out" or "resid_post"; or one with its layer, such as
            "resid_post.3", and ``layer`` left out.
        scale: factor on the vector.

    Raises:
        InputError: a vector of another shape, not finite or 0, another site, a layer given twice; when measuring, a layer that
            the model does not have, or a vector of another width than its residual stream.
        InputTypeError: a vector that is no tensor, a scale that is no number, or no layer.

    >>> steer(torch.ones(4), layer=2, scale=-0.5).name
    'steer resid_post.2 by -0.5 x vector c914e818'
    """
    place = _steered(site, layer)
    if not isinstance(vector, Tensor) or vector.is_complex():
        came = getattr(vector, "dtype", type(vector).__name__)
        raise InputTypeError(f"vector must be a tensor [d_model] of real numbers; got {came}")
    scale = check_number("scale", scale)
    if vector.ndim != 1 or not bool(vector.isfinite().all()):
        raise InputError(f"vector must be [d_model] and finite; got shape {list(vector.shape)}, or a NaN or an infinity in it")
    if not vector.any():
        raise InputError("vector is 0 throughout, so it steers nothing; scale=0.0 is the control that adds nothing")
    added, digits = scale * vector.detach().double().cpu(), fingerprint(vector)
    shown = f"{repr(scale).removesuffix('.0')} x vector {digits}"
    if place.counts_back:
        kept = vector.detach().clone()
        return Intervention.counted_back(
            f"steer {place} by {shown}", [place], lambda n: steer(kept, site=place.at(range(n)), scale=scale)
        )

    def check(adapter: Adapter) -> None:
        place.at(range(adapter.n_layers))
        if len(added) != adapter.d_model:
            raise InputError(f"vector must have d_model = {adapter.d_model} entries for this model; got {len(added)}")

    def edit(activation: Tensor, hook: Any) -> Tensor:
        return activation + added.to(activation.dtype).to(activation.device)

    def matched(adapter: Adapter, generator: torch.Generator) -> Intervention:
        draw = torch.randn(len(added), generator=generator, dtype=torch.float64, device="cpu")
        size = added.norm() / scale if scale else vector.detach().double().cpu().norm()
        return steer(draw * (size / draw.norm()), site=place, scale=scale)

    return Intervention(f"steer {place} by {shown}", ((hook_name(place), edit),), check, matched=matched)


def _steered(site: Any, layer: Any) -> Site:
    """Where a vector is to be added; the layer is given beside the site or in it."""
    alone = isinstance(site, str) and site in STEERED
    if alone and layer is None:
        raise InputTypeError(f"layer: give the block, such as layer=3 or layer=-1 (the last), or site='{site}.3'")
    if not alone and layer is not None:
        if isinstance(site, Site) or "." in str(site):
            raise InputError(f"layer: {str(site)!r} has its layer already; leave one of them out")
        check_choice("site", site, STEERED)
    place = Site(site, check_int("layer", layer)) if alone else Site.parse(site)
    check_choice("site", place.name, STEERED)
    return place


def check_heads(heads: Sequence[int], adapter: Adapter, layer: int) -> None:
    """Raise InputError unless a layer has these heads, given in order."""
    if heads[-1] >= adapter.heads_of(layer):
        raise InputError(
            f"heads: {layer}.{heads[-1]} does not exist; layer {layer} has heads 0 to {adapter.heads_of(layer) - 1}"
        )


def as_interventions(given: Interventions | None, n_layers: int | None = None) -> tuple[Intervention, ...]:
    """One or several interventions or ``(hook name, function)`` pairs as a tuple of interventions.

    For a model of ``n_layers``, all layers are counted from 0.

    Raises:
        InputTypeError: something else.

    >>> as_interventions([("hook_embed", lambda activation, hook: activation * 2)])
    (Intervention(name='hook_embed: <lambda>'),)
    """
    if given is None:
        return ()
    if isinstance(given, Intervention):
        if not given.hooks or not all(isinstance(pair, tuple) and _is_pair(pair) for pair in given.hooks):
            raise InputTypeError(
                f"interventions: hooks of {given.name!r} must be pairs of a hook's name and a function, at least one"
            )
        return (given if n_layers is None or given.of_layers is None else given.of_layers(n_layers),)
    if isinstance(given, tuple) and _is_pair(given):
        name, function = given
        shown = name if isinstance(name, str) else f"hooks of {_called(name)}"
        return (Intervention(f"{shown}: {_called(function)}", ((name, function),)),)
    if isinstance(given, list | tuple):
        return tuple(one for item in given for one in as_interventions(_single(item), n_layers))
    raise InputTypeError(
        "interventions must be one or several of ablate_heads(...), ablate_neurons(...), ablate(...), steer(...), "
        "occlude(...), mask_attention(...), or pairs of a hook's name and a function(activation, hook); got "
        f"{type(given).__name__}"
    )


def intervention_names(given: Interventions | None, n_layers: int | None = None) -> tuple[str, ...]:
    """What a result's provenance says of interventions, on a model of ``n_layers``.

    >>> intervention_names([ablate("mlp_out.0"), steer(torch.ones(2), layer=1)])
    ('ablate mlp_out.0', 'steer resid_post.1 by 1 x vector 5f07eef0')
    """
    return tuple(intervention.name for intervention in as_interventions(given, n_layers))


def _is_pair(given: tuple[Any, ...]) -> bool:
    return len(given) == 2 and (isinstance(given[0], str) or callable(given[0])) and callable(given[1])


def _single(item: Any) -> Any:
    """An item of a list of interventions; a list in a list is not one."""
    if isinstance(item, Intervention) or (isinstance(item, tuple) and _is_pair(item)):
        return item
    raise InputTypeError(f"interventions: {item!r} is no intervention, and no pair of a hook's name and a function")


def _called(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def fingerprint(*tensors: Tensor) -> str:
    """Eight hexadecimal digits that tell these values from others.

    >>> fingerprint(torch.zeros(2))
    '374708ff'
    """
    whole = b"".join(tensor.detach().cpu().double().numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(whole).hexdigest()[:8]
