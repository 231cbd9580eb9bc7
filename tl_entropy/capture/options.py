"""The options that every function which reads inputs takes, how they are checked, and how a result's provenance tells them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypedDict

from tl_entropy.capture.documents import checked_ids
from tl_entropy.capture.generate import AT_ONCE, check_sampling
from tl_entropy.capture.interventions import Interventions, intervention_names
from tl_entropy.capture.parts import Documents, Part
from tl_entropy.capture.skipping import OnError
from tl_entropy.errors import FLAGS, InputTypeError, check_flag


class WindowOptions(TypedDict, total=False):
    """How texts become windows; every function that reads ``inputs`` takes these.

    ``window``: tokens of a window, the begin token included (the model's context); ``stride``: new tokens from one window of
    a long text to the next (all of them: no overlap), so that every later token has at least window - stride tokens before
    it; ``prepend_bos``: begin windows of texts with the tokenizer's begin token (as TransformerLens does for this model); rows
    of tokens are taken as they are, whatever it says: they have one where they begin with its id;
    ``include_special``: count special tokens, too (no); ``special_ids``: which these are (the tokenizer's, or without one those
    that the model's configuration names as its begin, end and padding tokens); ``text_column``: column of a dataset that holds
    the text ("text"); ``on_error``: "raise", or "skip" to leave out documents that cannot be used (None, no token, another
    type, no UTF-8, a tokenizer that raises), which the result counts and lists (``provenance.corpus["skipped"]``);
    ``documents``: read these documents alone, by their numbers in the whole input, which they keep: a range, a slice, or ranges
    (all).

    >>> import tl_entropy as tle
    >>> options: tle.WindowOptions = {"prepend_bos": False}
    >>> tle.lens_entropy(tle.demo_model(), "import os", progress=False, **options).n_tokens
    2
    """

    window: int | None
    stride: int | None
    prepend_bos: bool | None
    include_special: bool
    special_ids: Collection[int] | None
    text_column: str
    on_error: OnError
    documents: Documents | None


class EditOptions(WindowOptions, total=False):
    """The same, for functions that can intervene.

    ``interventions``: edits of the model's insides while it is measured, and while it generates: one or several of
    ``ablate_heads(...)``, ``ablate(...)``, ``steer(...)``, ``occlude(...)``, ``mask_attention(...)`` (these two not while
    text is generated), or pairs of a hook's name and a ``function(activation, hook)``. Of
    hooks of one's own (see ``Intervention``): they see columns of a window, BOS included, and while generating the new token
    alone; what one at ``hook_resid_mid`` of a TransformerBridge changes reaches the MLP and not the stream; two are told apart
    in results by their function's name, or by an ``Intervention``'s. Heads ablated to 0 are another thing where TransformerLens
    has folded the value biases: to compare models or processings, ablate to ``head_means``.

    >>> import tl_entropy as tle
    >>> options: tle.EditOptions = {"interventions": tle.ablate_heads([(0, 1)])}
    >>> tle.layer_geometry(tle.demo_model(), "import os", measures="curvature", progress=False, **options).tokens
    2
    """

    interventions: Interventions | None


class CorpusOptions(EditOptions, total=False):
    """The same, for functions that can generate text, too.

    ``temperature``: 0 (greedy) or more. ``seed``: of the sampling. Prompts of one length among ``batch_size`` (16 where none is
    given) documents are sampled together, with random numbers of their own, drawn from ``seed`` and the number of
    the first of them; so a sampled text depends on ``batch_size``, which the provenance then holds. Greedy text needs neither.

    >>> import tl_entropy as tle
    >>> options: tle.CorpusOptions = {"window": 64, "stride": 32}
    >>> tle.lens_entropy(tle.demo_model(), "import os", progress=False, **options).n_tokens
    2
    """

    temperature: float
    seed: int


def described(options: Mapping[str, Any], *, batch_size: int | None = None, n_layers: int | None = None) -> dict[str, Any]:
    """The options that are set, as plain values for a result's provenance: interventions by their names.

    Names count layers from 0 where it is said how many the model has.

    ``batch_size`` is among them where text is sampled, which depends on it.

    >>> described({"temperature": 1, "seed": 3, "window": None}, batch_size=8)
    {'temperature': 1.0, 'seed': 3, 'batch_size': 8}
    """
    sampling = {name: options[name] for name in ("temperature", "seed") if name in options}
    temperature, seed = check_sampling(**sampling)
    known = {**options, **{name: {"temperature": temperature, "seed": seed}[name] for name in sampling}}
    plain = {name: value for name, value in known.items() if value is not None}
    if temperature > 0:
        plain["batch_size"] = batch_size or AT_ONCE
    if "special_ids" in plain:
        plain["special_ids"] = tuple(sorted(checked_ids(plain["special_ids"])))
    if "documents" in plain:
        plain["documents"] = str(Part(plain["documents"])).removeprefix("documents ")
    if "interventions" in plain:
        plain["interventions"] = intervention_names(plain["interventions"], n_layers)
    return plain


def check_options(function: Callable[..., Any], options: Mapping[str, Any], known: type) -> None:
    """Raise InputTypeError for an option that ``function`` does not have: neither a keyword of its own nor one of ``known``.

    >>> check_options(described, {"strid": 8}, WindowOptions)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    tl_entropy.errors.InputTypeError: 'strid' is not an option (did you mean 'stride'?); choose from batch_size, ..., window
    """
    own = [name for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]
    names = sorted({*own, *known.__annotations__})
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputTypeError(f"{name!r} is not an option{hint}; choose from {', '.join(names)}")
        if name in known.__annotations__:
            kind = known.__annotations__[name].__forward_arg__
            if kind in FLAGS:
                check_flag(name, options[name], kind)
