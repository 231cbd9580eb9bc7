"""ActivationCaches as input: what a model has been run on before is read instead of running it.

A cache is of the tokens that come with it, and of what was before them, if the residual stream that it holds in front of the
first layer and behind it is what the model makes of them, and of this model if the one that it names has these weights. Where
it does not hold the stream behind the first layer, results say that it was taken on trust: embeddings say nothing of context.

Refused: caches of other tokens or another model, and those of some positions alone (``pos_slice``), as attention patterns or
the first layer show: where in the text a cache begins is not written in it; padded ones of a model that padding changes, and
those of several rows of a model in which rows change each other; activations without numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tl_entropy.batches import Batch, batches
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.corpus import Corpus
from tl_entropy.capture.hooks import hook_name, uncompiled
from tl_entropy.capture.inputs import is_cache
from tl_entropy.capture.origin import fingerprint
from tl_entropy.errors import InputError, InputTypeError, counted
from tl_entropy.sites import Site

_EMBEDDED = "hook_embed"
_OTHER_CONTEXT = 0.02
"""How far the stream behind the first layer may be off, as a share of its length: autocast is some .005, another context .4."""
_AS_IT_IS = "To read the cache as it is: tle.Adapter(model, check=False) in the model's place"


def split_cache(inputs: Any) -> tuple[Any, Any]:
    """(cache, rest) where the input is an ActivationCache with its tokens; (None, inputs) otherwise."""
    if is_cache(inputs):
        raise InputTypeError("inputs: an ActivationCache needs its tokens: pass (cache, tokens), or (cache, tokens, mask)")
    parts = inputs if isinstance(inputs, tuple | list) else ()
    places = [i for i, part in enumerate(parts) if is_cache(part)]
    if len(places) > 1 or any(is_cache(one) for part in parts if isinstance(part, tuple | list) for one in part):
        raise InputTypeError("inputs: one cache at a time; call the function for each (cache, tokens), and merge the parts")
    if places and places != [0]:
        raise InputTypeError(
            "inputs: run_with_cache gives (logits, cache); pass the cache with its tokens instead: (cache, tokens)"
        )
    if not places:
        return None, inputs
    if not isinstance(inputs, tuple) or len(inputs) not in (2, 3) or not isinstance(inputs[1], Tensor):
        raise InputTypeError("inputs: an ActivationCache comes as (cache, tokens) or (cache, tokens, mask), tokens as a tensor")
    if not hasattr(inputs[0], "cache_dict"):
        raise InputTypeError("inputs: this cache is a dict; pass an ActivationCache, which run_with_cache gives by default")
    cache, tokens, *mask = inputs
    tokens = tokens[None] if tokens.ndim == 1 else tokens
    return cache, (tokens, mask[0]) if mask else tokens


def _check_whole(cache: Any, width: int, adapter: Adapter) -> None:
    """Raise InputError for a cache of some of a text's positions, if there is a pattern in it to see that by."""
    for name in (adapter.hook_of(Site("pattern", layer)) for layer in range(adapter.n_layers)):
        queries, keys = cache.cache_dict[name].shape[-2:] if name in cache.cache_dict else (width, width)
        if (queries, keys) != (width, width):
            raise InputError(
                f"inputs: the cache's {name} has {queries} queries and {keys} keys, its tokens are {width} a row: a cache of "
                "some positions (pos_slice) does not say which they are; run the model on the whole text and take positions=..."
            )


def _check_origin(cache: Any, tokens: Tensor, mask: Tensor, adapter: Adapter) -> bool:
    """Raise InputError for a cache of other tokens or another model; whether anything in it could show that."""
    if not adapter.checks:
        return False
    maker = getattr(cache, "model", None)
    known = maker is None or any(maker is one for one in (adapter.model, adapter.given))
    if not known and isinstance(maker, torch.nn.Module) and fingerprint(uncompiled(maker)).hash != adapter.fingerprint:
        raise InputError(
            "inputs: the cache was made by another model than the one that is measured, by the hash of its weights; pass that "
            f"model, or the tokens themselves. {_AS_IT_IS}"
        )
    shown, behind = False, adapter.hook_of(Site("resid_post", 0), adapter.points)
    for name in dict.fromkeys((_EMBEDDED, adapter.hook_of(Site("embed", -1), adapter.points), behind)):
        if name not in cache.cache_dict or (own := adapter.passing(name, tokens, mask)) is None:
            continue
        theirs = cache.cache_dict[name]
        theirs = theirs if getattr(cache, "has_batch_dim", True) else theirs[None]
        if own.shape == theirs.shape and (cells := _others(own, theirs, mask, exact=name != behind)).numel():
            row, position = cells[0].tolist()
            raise InputError(
                f"inputs: the cache's {name} is not what this model makes of its tokens, in {counted(len(cells), 'cell')} of "
                f"{int(mask.sum())}, first at row {row}, cell {position}: it is of other tokens, of some positions of a longer "
                "text (pos_slice), of another mask (padding on the left without one), or of a model with other weights, or "
                f"edited there. {_AS_IT_IS}"
            )
        shown |= name == behind and own.shape == theirs.shape
    return shown


def _others(own: Tensor, theirs: Tensor, mask: Tensor, *, exact: bool) -> Tensor:
    """Where [cell, 2] vectors are not those of the model: within the coarser rounding of the two, or in another context."""
    rounding = max(torch.finfo(x.dtype).eps for x in (own, theirs))
    own, theirs = (x.detach().to("cpu", torch.float64) for x in (own, theirs))
    size, off = (x.square().mean(-1).sqrt() for x in (own, own - theirs))
    apart = (own - theirs).abs().amax(-1) > 100 * rounding * size if exact else off > _OTHER_CONTEXT * size
    return (apart & mask.cpu()).nonzero()


def cached_batch(
    cache: Any, inputs: Tensor | tuple[Tensor, Tensor], corpus: Corpus, adapter: Adapter, sites: Sequence[Site]
) -> tuple[Batch, Mapping[Site, Tensor], bool]:
    """The cache's own layout as one batch: real cells are described by the corpus, padding stays where it is.

    With the activations, and whether something in the cache has shown that they are of these tokens.
    """
    tokens, mask = inputs if isinstance(inputs, tuple) else (inputs, torch.ones_like(inputs))
    mask = (mask[None] if mask.ndim == 1 else mask).bool()
    if empty := [name for name, value in cache.cache_dict.items() if value.is_meta]:
        raise InputError(f"inputs: the cache's {empty[0]} is on the device 'meta' and holds no numbers; run the model anew")
    _check_whole(cache, tokens.shape[1], adapter)
    adapter.check_rows(mask)
    adapter.check_length(tokens.shape[1])
    activations = adapter.cached_activations(cache, sites)
    for site, activation in activations.items():
        where = tuple(activation.shape[:2]) if site.name != "pattern" else (activation.shape[0], activation.shape[2])
        if where != tuple(tokens.shape):
            raise InputError(f"inputs: the cache's {hook_name(site)} is {where}, its tokens are {tuple(tokens.shape)}")
    shown = _check_origin(cache, tokens, mask, adapter)
    lengths, room = mask.sum(1), corpus.report.window
    if odd := ((lengths == 0) | (lengths > room)).nonzero()[:, 0].tolist():
        raise InputError(
            f"inputs: row {odd[0]} of the cache's tokens has {counted(int(lengths[odd[0]]), 'token')}; a cache is read as it "
            f"is, and its rows have from 1 to {room} tokens, a window's; pass the tokens themselves to have them cut"
        )
    [batch] = batches(corpus, batch_size=len(tokens), max_tokens=1, pad_id=adapter.pad_id)

    def spread(values: Tensor, filler: int) -> Tensor:
        whole = torch.full(tokens.shape, filler, dtype=values.dtype)
        whole[mask.cpu()] = values[batch.attention_mask]
        return whole

    spread_out = replace(
        batch,
        tokens=tokens.cpu(),
        attention_mask=mask.cpu(),
        counted=spread(batch.counted, 0),
        position=spread(batch.position, -1),
        target=spread(batch.target, -1),
    )
    return spread_out, activations, shown
