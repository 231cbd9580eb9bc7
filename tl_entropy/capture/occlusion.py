"""Interventions at positions of documents: what a token holds is replaced, or hidden from all other tokens.

``occlude`` puts 0 or a mean in place of an activation at some positions; ``mask_attention`` takes these positions out of what
other tokens attend to. Measured with and without, the difference says what the model took from there:

    >>> import tl_entropy as tle
    >>> model, text = tle.demo_model(), "import os"
    >>> plain, without = (
    ...     tle.lens_entropy(model, text, interventions=edit, progress=False) for edit in (None, occlude("embed", 1))
    ... )
    >>> bool((plain.entropy[0] == without.entropy[0]).all()), bool((plain.entropy[1] == without.entropy[1]).all())
    (True, False)

Occlusion: Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", arXiv 1311.2901, section 4.2;
attention cut off between tokens: Geva et al. 2023, "Dissecting recall of factual associations in auto-regressive language
models", arXiv 2304.14767 ("attention knockout").

Refused: places without a position of the token's own (attention patterns), and models whose attention no hook can change.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from tl_entropy.capture import memories
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.attention import chooses_keys, scores_hook
from tl_entropy.capture.hooks import attribute, hook_name, silent
from tl_entropy.capture.interventions import Intervention, check_heads, fingerprint
from tl_entropy.capture.places import OF_WINDOWS
from tl_entropy.capture.positions import AtOthers, AtPositions
from tl_entropy.errors import InputError, InputTypeError, ModelError, check_int
from tl_entropy.positions import Positions, checked_positions, shown_positions
from tl_entropy.sites import SITE_NAMES, Layers, Site, layers_at
from tl_entropy.torch_state import steady

_INSTEAD = {  # places that are refused, and what to take
    "pattern": "its axes are [batch, head, query, key]; mask_attention hides tokens from attention",
    "attn_scores": "its axes are [batch, head, query, key]; mask_attention hides tokens from attention",
    "result": "it is computed from z; take z",
    "resid_mid": "on a TransformerBridge what changes there reaches the MLP alone; take resid_pre and attn_out",
}


@steady
def occlude(
    site: str | Site,
    positions: Positions = None,
    *,
    heads: int | Iterable[int] | None = None,
    means: ArrayLike | Tensor | Mapping[Site, Tensor] | None = None,
) -> Intervention:
    """Replace what passes a site at some positions of each document by 0 or by a mean; other positions keep theirs.

    Positions are those of documents, in every window and batch. A token that several windows see is occluded in all of them.
    The BOS has no position and is never occluded; special tokens in a document have one, and are. A position that a document
    does not have means nothing in it; where no document read has any of them, nothing was edited, and a warning says so.

    Nothing can be occluded while text is generated (``max_new_tokens``): a text that is being written has no end to count from.

    ``z`` at 0 is another thing where TransformerLens has folded the value biases (see ``ablate_heads``); at its mean it is not.

    Args:
        site: ``"embed"`` (the stream that enters block 0), ``"resid_pre.3"``, ``"resid_post.3"``, ``"attn_out.2"``,
            ``"mlp_out.0"``, ``"z.-1"`` (of the last layer); or the name of any hook whose activation is [batch, pos, ...], such
            as ``"blocks.1.attn.hook_k"`` or ``"hook_embed"``. Of models with a memory, ``"memory"`` or ``"state"``, without
            positions; cells of a memory are then hidden from attention, too.
        positions: an int, ints or a slice, negative from each document's end; None is all tokens of a document.
        heads: of ``z``, the heads to occlude, from 0; None is all.
        means: what to put in: a tensor or array that broadcasts to the activation without [batch, pos], such as [d_model], or
            [head, d_head] of all heads at ``z``; or a mapping with one for the site, as ``site_means`` gives. None is 0.

    Raises:
        InputError: a place that cannot be occluded, a negative head, means that are not finite or lack the site; when
            measuring, a layer or head that the model does not have, means that do not fit, or a hook with other axes.
        InputTypeError: an argument of another kind.

    >>> occlude("resid_post.3", [4, -1]).name, occlude("z.1", slice(2, None), heads=(2, 0)).name
    ('occlude resid_post.3 at 4, -1 to 0', 'occlude z.1 heads 0, 2 at 2: to 0')
    """
    place = edited_place(site, "occluded at positions")
    name = place if isinstance(place, str) else hook_name(place)
    if (of_window := next((short for short, hook in OF_WINDOWS.items() if hook == place), None)) is not None:
        if positions is not None or heads is not None:
            raise InputError(f"{of_window} is one vector a window, without positions or heads; leave these out")
        return memories.without(of_window, None if means is None else value_for(means, place))
    chosen = None if heads is None else numbers_from_0("heads", heads)
    if isinstance(place, Site) and place.counts_back:
        asked, back, kept = checked_positions(positions), place, copy.deepcopy(means)
        return Intervention.counted_back(
            f"occlude {place} at {shown_positions(asked)}", [place],
            lambda n: occlude(back.at(range(n)), asked, heads=chosen, means=kept),
        )  # fmt: skip
    if chosen is not None and (not isinstance(place, Site) or place.name != "z"):
        raise InputError(f"heads are of z, such as 'z.2'; {place} has none")
    value = None if means is None else value_for(means, place)

    def check(adapter: Adapter) -> None:
        if not isinstance(place, Site) or place.layer >= adapter.n_layers:
            return
        if chosen is not None:
            check_heads(chosen, adapter, place.layer)
        if value is not None:
            _check_fits(value, adapter.heads.shape(place.layer) if place.name == "z" else (adapter.d_model,), place)

    def edit(activation: Tensor, hook: Any, cells: Tensor) -> Tensor:
        if activation.ndim < 3 or activation.shape[:2] != cells.shape:
            raise InputError(
                f"interventions: {name} is {list(activation.shape)}, but to be occluded at positions it must be "
                f"[batch, pos, ...] with [batch, pos] = {list(cells.shape)}; choose another hook"
            )
        where = cells.reshape(*cells.shape, *[1] * (activation.ndim - 2))
        if chosen is not None:
            where = where & _among(chosen, activation.shape[2], activation.device)[:, None]
        if value is None:
            return activation.masked_fill(where, 0.0)
        _check_fits(value, tuple(activation.shape[2:]), place)
        return torch.where(where, value.to(activation.dtype).to(activation.device), activation)

    at = AtPositions(positions, edit)
    of = "" if chosen is None else f" {_listed('head', chosen)}"
    to = "0" if value is None else f"means {fingerprint(value)}"
    said = f"occlude {place}{of} at {{}} to {to}"

    def matched(adapter: Adapter, generator: torch.Generator) -> Intervention:
        others, where = _others(at, generator)
        return Intervention(said.format(where), ((name, others),), check)

    return Intervention(said.format(shown_positions(at.positions)), ((name, at),), check, matched=matched)


@steady
def mask_attention(
    positions: Positions, *, layers: Layers | None = None, heads: int | Iterable[int] | None = None
) -> Intervention:
    """Hide some tokens of each document from all others: no other token attends to them.

    The attention score of every query for each hidden key, but for a token's own, becomes -inf before the softmax, so that its
    weight is 0 and the others of the row, with what an attention sink takes, are renormalised. A token still sees itself, so
    that no row is empty. Of a token hidden in all layers nothing reaches another; tokens behind it keep their positions.
    Behind the last token of a document there is none, so that hiding it changes nothing.

    Positions are as in ``occlude``: the BOS cannot be hidden, and nothing is while text is generated. ``head_entropy`` still
    counts hidden keys among the visible.

    Before it runs, two short passes prove that hiding a token in all layers makes what is behind it independent of that token.

    Args:
        positions: an int, ints or a slice, negative from each document's end; None is all tokens of a document, each of which
            then sees itself and the BOS.
        layers: blocks in whose attention to hide them: numbers, from 0 or negative from the last, or a slice; None is all.
        heads: the heads in each of these layers, from 0; None is all.

    Raises:
        InputError: a negative head; when measuring, a layer or head that the model does not have.
        InputTypeError: an argument of another kind.
        ModelError: when measuring, a model whose attention scores no hook can change (for OPT, GPT-Neo and others a
            TransformerBridge leaves attention to Hugging Face), or that brings tokens together by other means than attention.

    >>> mask_attention(slice(4, 8)).name, mask_attention(-2, layers=(1, 0), heads=3).name
    ('mask attention to 4:8 in all layers', 'mask attention of head 3 to -2 in layers 0, 1')
    """
    chosen = None if heads is None else numbers_from_0("heads", heads)
    deep = layers if layers is None or isinstance(layers, slice) else numbers("layers", layers)
    if deep is not None and (isinstance(deep, slice) or deep[0] < 0):
        asked, back = checked_positions(positions), deep
        return Intervention.counted_back(
            f"mask attention to {shown_positions(asked)} in layers {shown_positions(back)}", [Site("pattern", -1)],
            lambda n: mask_attention(asked, layers=layers_at(back, range(n)), heads=chosen),
        )  # fmt: skip

    def check(adapter: Adapter) -> None:
        if deep is not None:
            layers_at(deep, range(adapter.n_layers))
        if chosen is not None:
            for layer in adapter.layers_with("pattern") if deep is None else deep:
                check_heads(chosen, adapter, layer)
        _prove_hiding(adapter)

    def edit(scores: Tensor, hook: Any, cells: Tensor) -> Tensor:
        return _hidden(scores, cells, chosen)

    at = AtPositions(positions, edit)
    of = "" if chosen is None else f" of {_listed('head', chosen)}"
    said = f"mask attention{of} to {{}} in {'all layers' if deep is None else _listed('layer', deep)}"
    names: tuple[Any, ...] = (is_scores,) if deep is None else tuple(map(scores_hook, deep))

    def matched(adapter: Adapter, generator: torch.Generator) -> Intervention:
        others, where = _others(at, generator)
        return Intervention(said.format(where), tuple((name, others) for name in names), check)

    return Intervention(said.format(shown_positions(at.positions)), tuple((name, at) for name in names), check, matched=matched)


def _others(at: AtPositions, generator: torch.Generator) -> tuple[AtOthers, str]:
    """The same edit at as many other positions of each document, drawn anew, and what to call these."""
    if at.positions is None or at.positions == slice(None):
        raise InputError("edit: it is at all positions, and there are no others to match it by; give matched= to placebo")
    seed = int(torch.randint(2**31, (1,), generator=generator))
    return AtOthers(at.positions, at.edit, seed), f"others than {shown_positions(at.positions)} (draw {seed})"


def edited_place(given: Any, done: str, allowed: Sequence[str] = ()) -> Site | str:
    """Where something is to be ``done``: a site, however it is written, or the name of a hook that no site stands for.

    Raises:
        InputError: a place whose values are not those of one position, or another thing on another kind of model, unless it is
            ``allowed``.
        InputTypeError: neither a site nor a name.
    """
    if not isinstance(given, str | Site):
        raise InputTypeError(f"site must be a site or the name of a hook, such as 'resid_post.3'; got {given!r}")
    text = memories.as_hook(str(given))
    hook = re.fullmatch(r"(?:.*\.)?hook_(\w+)", text)
    name = hook[1] if hook else text.partition(".")[0]
    if name in _INSTEAD and name not in allowed:
        raise InputError(f"site: {text} cannot be {done}: {_INSTEAD[name]}")
    if hook:
        layer = re.match(r"blocks\.(-?\d+)\.", text)
        place = Site(name, int(layer[1])) if layer and name in SITE_NAMES else None
        return place if place is not None and hook_name(place) == text else text
    return Site.parse(text)


def numbers_from_0(argument: str, given: Any) -> tuple[int, ...]:
    """One or several numbers from 0, in order, each once."""
    return numbers(argument, given, 0)


def numbers(argument: str, given: Any, low: int | None = None) -> tuple[int, ...]:
    """One or several ints of at least ``low``, in order, each once."""
    plain = given.tolist() if isinstance(given, np.ndarray | Tensor) else given
    several = plain if isinstance(plain, Iterable) and not isinstance(plain, str) else [plain]
    chosen = tuple(sorted({check_int(argument, number, low) for number in several}))
    if not chosen:
        raise InputError(f"{argument} is empty; give numbers, or None for all")
    return chosen


def _listed(what: str, numbers: tuple[int, ...]) -> str:
    return f"{what}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def value_for(means: Any, place: Site | str) -> Tensor:
    """A copy of what is to be put in, float64 on the CPU."""
    if isinstance(means, Mapping):
        by_place = {Site.parse(key, "means"): value for key, value in means.items()}
        if not isinstance(place, Site) or place not in by_place:
            raise InputError(f"means: none for {place}; give site_means(model, inputs, sites) with this site, or a tensor")
        means = by_place[place]
    try:
        # A list becomes float64 on the way through NumPy; torch would make it float32.
        value = torch.as_tensor(means if isinstance(means, Tensor) else np.asarray(means)).detach().cpu()
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"means must be a tensor or an array, or map sites to them; got {means!r}") from error
    if value.is_complex():
        raise InputTypeError(f"means must be real; got {value.dtype}")
    value = value.double()
    if not bool(value.isfinite().all()):
        raise InputError("means must be finite; got a NaN or an infinity")
    return value.clone()


def _check_fits(value: Tensor, shape: tuple[int, ...], place: Site | str) -> None:
    """Raise InputError unless ``value`` broadcasts to the shape of what it replaces."""
    given = tuple(value.shape)
    if len(given) > len(shape) or any(n not in (1, m) for n, m in zip(given[::-1], shape[::-1], strict=False)):
        raise InputError(f"means: to be put into {place}, they must broadcast to {list(shape)}; got {list(given)}")


def _among(numbers: tuple[int, ...], n: int, device: torch.device) -> Tensor:
    return torch.isin(torch.arange(n, device=device), torch.tensor(numbers, device=device))


def is_scores(name: str) -> bool:
    """Whether a hook sees the attention scores of a block.

    >>> is_scores("blocks.2.attn.hook_attn_scores"), is_scores("blocks.2.attn.hook_pattern")
    (True, False)
    """
    return re.fullmatch(r"blocks\.\d+\.(self_)?attn\.hook_attn_scores", name) is not None


def _hidden(scores: Tensor, cells: Tensor, heads: tuple[int, ...] | None) -> Tensor:
    """Scores [batch, head, query, key] with -inf where a query meets another token of the cells [batch, pos]."""
    if scores.ndim != 4 or scores[:, 0].shape != (*cells.shape, cells.shape[1]):
        raise InputError(
            f"interventions: attention scores are {list(scores.shape)}, but to hide tokens they must be [batch, head, query, "
            f"key] with [batch, pos] = {list(cells.shape)}"
        )
    others = ~torch.eye(cells.shape[1], dtype=torch.bool, device=scores.device)
    where = cells[:, None, None] & others
    if heads is not None:
        where = where & _among(heads, scores.shape[1], scores.device)[:, None, None]
    return scores.masked_fill(where, -torch.inf)


def _prove_hiding(adapter: Adapter) -> None:
    """Raise ModelError unless, with a token hidden, two rows that differ in it alone are the same behind it."""
    if chooses_keys(adapter.model, adapter.stack.of):
        raise ModelError(
            "interventions: attention cannot be masked on this model: an index chooses the keys to look at before there are "
            "scores, and a hidden token still takes part in its choice"
        )
    chunk = attribute(adapter.model.cfg, "chunk")  # what a memory of a chunk tells of a token is seen behind it
    n = min(8 if chunk is None else chunk + 4, adapter.context)
    column = min(1, n - 2)
    tokens = adapter.row_of(n).repeat(2, 1)
    tokens[1, column] = adapter.another(tokens[1, column])
    last = adapter.last_site
    names = [name for name in adapter.points if is_scores(name)]

    def hide(scores: Tensor, hook: Any) -> Tensor:
        cells = (torch.arange(n, device=scores.device) == column).expand(2, n)
        return _hidden(scores, cells, None)

    def dependence() -> float:
        first, second = adapter.activations(tokens, torch.ones_like(tokens), [last])[last][:, column + 1 :].double()
        return float((first - second).abs().max())

    # Where a Bridge leaves attention to Hugging Face, it calls the hook after it, and 4.3 warns that an edit is lost.
    with silent(adapter.model), warnings.catch_warnings(action="ignore"):
        plain = dependence()
        with adapter.edited([(name, hide) for name in names]):
            left = dependence()
    if not left <= plain * 1e-2:
        raise ModelError(
            "interventions: attention cannot be masked on this model: on a short pass, tokens behind a hidden one still depend "
            f"on it (by {left:.2g}; by {plain:.2g} where they see it). Either no hook can change its attention scores (models "
            "loaded from Hugging Face may need attn_implementation='eager', and TransformerBridge has no such hook for some "
            "architectures), or it brings tokens together by other means than attention"
        )
