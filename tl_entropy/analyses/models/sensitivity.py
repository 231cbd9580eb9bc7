"""How much a model needs what passes each of its sites: edits at every site, one pass each, and what they do to the loss.

Casts and grids (``functional/quantisation.py``) say how many bits a site needs; any other intervention at a site, or any change
of the matrix that writes to it, goes the same way.

Refused: inputs that can be read only once; with ``weights``, sites that no single matrix writes to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Unpack, cast

import torch
from torch import Tensor

from tl_entropy.analyses.tokens.surprisal import token_surprisal
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.given import adapter_of, of_stack
from tl_entropy.capture.inputs import repeatable
from tl_entropy.capture.interventions import Intervention, as_interventions
from tl_entropy.capture.occlusion import edited_place
from tl_entropy.capture.options import EditOptions, check_options
from tl_entropy.capture.places import ENCODER, OF_WINDOWS
from tl_entropy.capture.progress import Bar
from tl_entropy.capture.quantising import quantize
from tl_entropy.capture.weights import changed, matrices, named_matrices
from tl_entropy.errors import InputError, InputTypeError, is_iterable, keeping
from tl_entropy.functional import quantisation
from tl_entropy.results.models.sensitivity import Sensitivity
from tl_entropy.results.tokens.rates import TOTALS
from tl_entropy.results.tokens.surprisal import TokenSurprisal
from tl_entropy.sites import Layers, Site
from tl_entropy.torch_state import steady, yours

Edit = str | Callable[[Any], Any]


@steady
def sensitivity(
    model: Any,
    inputs: Any,
    edits: Mapping[str, Edit] | Sequence[str],
    *,
    sites: str | Site | Iterable[str | Site] = ("attn_out", "mlp_out"),
    layers: Layers | None = None,
    weights: bool | Mapping[str, str] = False,
    positions: int | slice | Sequence[int] | None = None,
    batch_size: int | None = None,
    progress: bool = True,
    **options: Unpack[EditOptions],
) -> Sensitivity:
    """How much the mean loss changes with each edit at each site: one pass each, with errors of pairs over documents.

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files or data sets that can be read again and again.
        edits: what to try at every site, by name: what ``quantize`` takes as ``to``, such as "int8" or "float8_e4m3fn", or a
            function of a site that gives an intervention, such as
            ``lambda site: tle.quantize(site, "grid", bits=4, limit=8.0)`` or ``lambda site: tle.add_noise(site, 0.1)``; with
            ``weights``, a function of a matrix [d_out, d_in] that gives another. A list of names stands for itself.
        sites: where: short names for every layer, such as "resid_post", single ones, such as "mlp_out.3", or names of hooks;
            of models with a memory "memory", "state", "encoder.resid_post" and the like, too.
        layers: of the short names: numbers, from 0 or negative from the last, or a slice; None is all.
        weights: edit matrices in place of activations: those that write to the sites ("attn_out" and "mlp_out": W_O and W_out,
            every output's weights a vector; of an encoder's blocks, "encoder.mlp_out", likewise); or a mapping from names to
            parameters of the model, such as ``{"down": "memory.down.weight"}``, in place of sites. They are put back after
            every pass, whatever happens.
        positions: positions of each document, of the tokens predicted; None is all.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        progress: show a progress bar.
        options: those of ``tle.EditOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions; the latter hold in every pass.

    Returns:
        ``Sensitivity``, changes [edit, site, document] in nats.

    Raises:
        InputError, InputTypeError: an argument or an item of the input that can't be measured.
        ModelError: the model's logits can't be reproduced, a hook never fires, or a matrix is not what the model computes with.
        NonFiniteError: a NaN or infinity inside the model, such as one that an edit has made; its ``partial`` holds the cells
            measured before.

    >>> import tl_entropy as tle
    >>> found = tle.sensitivity(
    ...     tle.demo_model(), ["import os", "x = 1"], ["bfloat16", "int2"], sites="mlp_out", layers=[0, 5], progress=False
    ... )
    >>> found.sites, bool((found.value("int2").abs() > found.value("bfloat16").abs()).all())
    (('mlp_out.0', 'mlp_out.5'), True)
    """
    check_options(sensitivity, options, EditOptions)
    if not repeatable(inputs):
        raise InputError(
            "inputs: an iterator can be read once, and every edit reads it; give a list, or what can be read again"
        )
    tried = _named(edits)
    adapter = adapter_of(model)
    given = as_interventions(options.pop("interventions", None), adapter.n_layers)
    reading: dict[str, Any] = {
        "positions": positions, "batch_size": batch_size, "top_k": 0, "progress": False, **cast("dict[str, Any]", options),
    }  # fmt: skip
    whole = token_surprisal(adapter, inputs, interventions=list(given), **reading)
    loss, tokens, documents = _totals(whole)
    cells = _weights(adapter, tried, sites, layers, weights) if weights else _activations(adapter, tried, sites, layers)
    places = tuple(dict.fromkeys(place for _, place, _ in cells))
    changes = torch.full((len(tried), len(places), len(loss)), math.nan, dtype=torch.float64)
    settings = {
        "edits": tuple(f"{name}: {_shown(edit)}" for name, edit in tried.items()), "sites": places,
        "weights": dict(weights) if isinstance(weights, Mapping) else bool(weights),
        "interventions": tuple(one.name for one in given),
    }  # fmt: skip

    def found(interrupted: bool = False) -> Sensitivity:
        origin = adapter.provenance(settings=settings, corpus=whole.provenance.corpus, interrupted=interrupted)
        return Sensitivity(changes, loss, tokens, tuple(tried), places, origin)

    if whole.provenance.interrupted:
        return found(True)
    with keeping(lambda _: found(True)):
        for edit, place, made in Bar(cells, unit="pass", desc="sensitivity", show=progress):
            after = made(lambda seen, more: token_surprisal(seen, inputs, interventions=[*given, *more], **reading))
            if after.provenance.interrupted:
                return found(True)
            sums, _, read = _totals(after)
            if read != documents:
                raise InputError("inputs: they gave other documents in another pass; give what can be read again")
            changes[list(tried).index(edit), places.index(place)] = sums - loss
    return found()


Measure = Callable[[Adapter, Sequence[Intervention]], TokenSurprisal]
Cell = tuple[str, str, Callable[[Measure], TokenSurprisal]]
"""An edit, a place, and what makes a pass with the one at the other."""


def _activations(adapter: Adapter, tried: Mapping[str, Edit], sites: Any, layers: Layers | None) -> list[Cell]:
    return [
        (name, str(place), partial(_with_intervention, adapter, _made(edit, place, adapter)))
        for place in _places(adapter, sites, layers)
        for name, edit in tried.items()
    ]


def _made(edit: Edit, place: Site | str, adapter: Adapter) -> tuple[Intervention, ...]:
    if isinstance(edit, str):
        return (quantize(place, edit),)
    with yours():
        made = edit(str(place))
    return as_interventions(made, adapter.n_layers)


def _with_intervention(adapter: Adapter, made: Sequence[Intervention], measure: Measure) -> TokenSurprisal:
    return measure(adapter, made)


def _weights(adapter: Adapter, tried: Mapping[str, Edit], sites: Any, layers: Layers | None, weights: Any) -> list[Cell]:
    if isinstance(weights, Mapping):
        found = named_matrices(adapter, weights)
    else:
        places = _places(adapter, sites, layers)
        inside = [place for place in places if isinstance(place, str) and _in_encoder(place)]
        for place in places:
            if not isinstance(place, Site) and place not in inside:
                raise InputError(
                    f"sites: no matrix is known to write {place}; name parameters, such as "
                    "weights={'down': 'memory.down.weight'}"
                )
        found = matrices(adapter, tuple(place for place in places if isinstance(place, Site)))
        if inside:
            encoder, of_encoder = of_stack(adapter, inside)
            found |= {f"{ENCODER}{name}": matrix for name, matrix in matrices(encoder, encoder.sites(of_encoder)).items()}
    return [
        (name, place, partial(_with_matrix, adapter, matrix, edit, name))
        for place, matrix in found.items()
        for name, edit in tried.items()
    ]


def _with_matrix(adapter: Adapter, matrix: Tensor, edit: Edit, name: str, measure: Measure) -> TokenSurprisal:
    change = partial(quantisation.quantize, to=edit) if isinstance(edit, str) else edit
    with changed(adapter, matrix, change, name):
        return measure(adapter.fresh(), ())  # nothing of what was proved, and of what was read, of the weights as they were


def _places(adapter: Adapter, sites: Any, layers: Layers | None) -> tuple[Site | str, ...]:
    """Sites in the order of computation, then hooks that no site stands for, as given."""
    asked = [sites] if isinstance(sites, str | Site) or not is_iterable(sites) else list(sites)
    inside = [one for one in asked if isinstance(one, str) and _in_encoder(one)]
    hooks = [one for one in asked if isinstance(one, str) and ("hook_" in one or one in OF_WINDOWS)]
    hooks = [one for one in hooks if isinstance(_edited(one), str)]
    rest = [one for one in asked if one not in (*hooks, *inside)]
    if inside:
        encoder, of_encoder = of_stack(adapter, inside)
        hooks += [f"{ENCODER}{site}" for site in encoder.sites(of_encoder, layers)]
    return (*(adapter.sites(rest, layers) if rest or not hooks else ()), *hooks)


def _in_encoder(place: str) -> bool:
    return place.startswith(ENCODER) and "hook_" not in place


def _edited(place: Any) -> Site | str:
    return edited_place(place, "edited", allowed=("pattern", "attn_scores"))


def _named(edits: Any) -> dict[str, Edit]:
    if isinstance(edits, Sequence) and not isinstance(edits, str):
        edits = {name: name for name in edits}
    if not isinstance(edits, Mapping) or not all(isinstance(name, str) for name in edits):
        raise InputTypeError("edits must map names to what quantize takes, or to functions; or be a list such as ['int8']")
    if not edits:
        raise InputError("edits is empty; name some, such as ['int8', 'float8_e4m3fn']")
    for name, edit in edits.items():
        if isinstance(edit, str):
            quantisation.rounding(edit, None, None, None)
        elif not callable(edit):
            raise InputTypeError(f"edits: {name!r} must be a text for quantize, or a function; got {edit!r}")
    return dict(edits)


def _shown(edit: Edit) -> str:
    return edit if isinstance(edit, str) else str(getattr(edit, "__name__", type(edit).__name__))


def _totals(result: TokenSurprisal) -> tuple[Tensor, Tensor, list[int]]:
    """Summed losses and tokens [document], and the documents' numbers."""
    totals, documents = result._totals()
    columns = dict(zip(TOTALS, totals.T, strict=True))
    return columns["surprisal"], columns["tokens"].long(), documents
