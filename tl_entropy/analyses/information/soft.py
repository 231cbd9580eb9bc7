r"""Soft entropy and mutual information at every place of a model, for several label sets, in one pass.

At every position read, the state at each site (or of each head) is assigned softly to random anchors on its unit sphere
(``functional/information/soft.py``); sums of these assignments by label give H(Z) and I(X;Z) (Conklin 2025, arXiv 2505.23960),
without the bias of few rows, with bounds, ceiling and standard errors (``functional/information/estimates.py``).

Labels are known before the model runs, since they follow from the tokens (``labels/``): one ``label_plan`` serves every
layer, head and checkpoint. What the sums need of memory is in ``analyses/information/sums.py``; it is shown before a large run.

Deviations from Conklin (2025): the headline is cross-fitted between documents; the temperature is exact, not a bound; nothing
is divided by log n_bins unless asked for as ``efficiency``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, cast

import torch
from torch import Tensor

from tl_entropy.analyses.information.parts import AssignmentParts, Kept, kept_as
from tl_entropy.analyses.information.spans import has_spans, of_tokens
from tl_entropy.analyses.information.store import writing
from tl_entropy.analyses.information.sums import Heads, SoftAccumulator, planned_slots
from tl_entropy.analyses.information.writing import AssignmentWriter
from tl_entropy.analyses.means import StateMeans
from tl_entropy.analyses.measuring import computing
from tl_entropy.analyses.sharing import Pass, at_once, once, read
from tl_entropy.batches import Batch, UpToAnError, Window
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.caches import split_cache
from tl_entropy.capture.corpus import Corpus, read_corpus
from tl_entropy.capture.documents import Rereadable
from tl_entropy.capture.given import adapter_of, of_stack
from tl_entropy.capture.inputs import repeatable
from tl_entropy.capture.options import CorpusOptions, WindowOptions, check_options, described
from tl_entropy.capture.progress import Bar
from tl_entropy.errors import InputError, keeping
from tl_entropy.functional.information.soft import Invalid
from tl_entropy.functional.information.temperature import Calibration
from tl_entropy.labels import DocumentTokens, LabelPlan
from tl_entropy.labels.slots import Slots
from tl_entropy.results import SoftInformation
from tl_entropy.sites import Layers, Site
from tl_entropy.torch_state import steady

LARGE = 2**30
"""Bytes of sums from which on their size is shown before the run."""


@steady
def label_plan(
    model: Any,
    inputs: Any,
    *,
    labels: Any = ("token", "next_token"),
    positions: int | slice | Sequence[int] | None = None,
    valid: Literal["common", "own"] = "common",
    **options: Unpack[WindowOptions],
) -> LabelPlan:
    r"""Label every position of a corpus, from its tokens alone: made once, it serves all models that share a tokenizer.

    Args:
        model: a model with the tokenizer.
        inputs: as for ``stream``; a generator is used up.
        labels: as for ``soft_information``.
        positions: positions of each document to count; None is all.
        valid: "common" leaves out positions where any label is undefined; "own" lets each label set use all it has.
        options: those of ``tle.WindowOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents; the same are needed for measuring.

    Returns:
        The plan, for ``soft_information(..., labels=plan)``.

    Raises:
        InputError: labels that are unknown or fit nothing in the corpus.

    >>> import tl_entropy as tle
    >>> tle.label_plan(tle.demo_model(), "a = b\na = c\n", labels=("token", "next_token"))
    LabelPlan: 8 tokens counted in 1 document, valid="common"
    label        side   tokens  coverage  classes  seen once
    token       input        7     87.5%        5          3
    next_token  output       7     87.5%        5          3
    """
    check_options(label_plan, options, WindowOptions)
    adapter = adapter_of(model)
    if split_cache(inputs)[0] is not None:  # which every process has as a whole
        return _planned(adapter, inputs, labels, positions, valid, options)
    return once("label plan", lambda: _planned(adapter, inputs, labels, positions, valid, options))


def _planned(
    adapter: Adapter, inputs: Any, labels: Any, positions: Any, valid: Literal["common", "own"], options: WindowOptions
) -> LabelPlan:
    """What ``label_plan`` gives, made here."""
    _, rest = split_cache(inputs)
    corpus = read_corpus(adapter, rest, positions=positions, **options)
    special = frozenset() if options.get("include_special") else corpus.special_ids
    windows: list[Window | None] = []  # of each document
    documents = UpToAnError(_documents(corpus, special, windows if has_spans(labels) else None))
    try:
        slots = Slots(documents)
        plan = LabelPlan.from_slots(slots, of_tokens(adapter, labels, windows) if windows else labels, valid=valid)
    except InputError:
        if documents.error is None:
            raise
        raise documents.error from None
    if documents.error is not None:
        with keeping(lambda _: plan):
            raise documents.error
    return plan


@steady
def soft_information(
    model: Any,
    inputs: Any,
    *,
    labels: Any = ("token", "next_token"),
    sites: str | Sequence[str | Site] = ("embed", "resid_post"),
    layers: Layers | None = None,
    heads: Heads = False,
    positions: int | slice | Sequence[int] | None = None,
    valid: Literal["common", "own"] = "common",
    n_bins: int | Sequence[int] = 100,
    seed: int | Sequence[int] = 0,
    calibration: Calibration = "exact",
    center: bool | Mapping[Site | str, Tensor] = False,
    invalid: Invalid = "error",
    folds: int = 20,
    keep_labels: bool = False,
    keep: Kept = "sums",
    folder: str | Path | None = None,
    batch_size: int | None = None,
    progress: bool = True,
    **options: Unpack[WindowOptions],
) -> SoftInformation:
    r"""How evenly states fill their space, H(Z), and what they say about tokens and other labels, I(X;Z), all over a model.

    Information is cross-fitted: what the states of a label look like is learnt from other documents than those it is tried on,
    and weighed so that the biases of few positions cancel. So labels that say nothing have 0 (but rare ones in a handful of
    documents, where the table says *unsure*), be they of tokens, of spans or of whole documents, whereas the plug-in value is
    far above 0 where labels are rare. The result has both, with bounds, ceilings, coverage and standard errors over documents
    and anchors. Labels in one fold of documents are left out of it; with one document there is no information (NaN), since a
    label can't be told from the document it is in. Information about the tokens up to a position is the states' complexity,
    about those after it their expressivity (``result.optimality()``).

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files, data sets, or an ActivationCache with its tokens; see ``stream``. They are read twice, for
            labels and for states, and must be the same both times; the texts of a generator are kept for that. With a
            ``label_plan`` they are read once, and must be what it was made from.
        labels: "token", "bigram", "trigram" (the n tokens up to a position), "next_token", "next_bigram", "next_trigram" (the
            next n), ``ngram(n, side)``, "position"; one, several, or a mapping from a name to any of these, to values (one for
            each document, or for each position), to a function of a document's tokens, or to ``span_labels`` of characters; or
            a ``label_plan``.
        sites: short names: embed, resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, result.
        layers: blocks to measure: numbers, from 0 or negative from the last, or a slice; None is all.
        heads: add the heads: "z" (their outputs before W_O), "result" (in d_model), True for both.
        positions: positions of each document to count; None is all. Padding, BOS and special tokens never count.
        valid: "common" counts only positions where all labels are defined; "own" all that each label set has.
        n_bins: number of anchors m, one or several.
        seed: of the anchors, one or several.
        calibration: of the temperature: "exact" or "leading_order".
        center: subtract the corpus's mean state at each site (this takes a pass of its own), or given means [d] or [head, d],
            by ``Site`` or its text, such as "resid_post.0".
        invalid: "error" at the first state that is zero or not finite, or "drop" to leave such positions out and count them.
        folds: groups of documents, none of which predicts itself; 1 needs the least memory, and leaves entropy, the plug-in
            value and its ceiling, without standard errors.
        keep_labels: also give the values of every single label that is seen twice or more (``result.label_table()``).
        keep: "sums" by label, in memory; "assignments" of every position, in ``folder``: memory does not grow with labels, and
            ``load_assignments(folder).information(labels=...)`` gives other labels, n-grams and folds later, without a pass of
            the model; "auto" for what takes fewer bytes, which ``provenance.settings["keep"]`` says.
        folder: where assignments are kept: a new folder, or an empty one.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        progress: show progress, and the memory that the sums need where it is much.
        options: those of ``tle.WindowOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents.

    Returns:
        ``SoftInformation``, in nats.

    Raises:
        InputError, InputTypeError: an argument or an item of the input that can't be measured, sums larger than memory, or
            assignments larger than the disk.
        SaveError: assignments that cannot be written, or a folder that another pass is writing to.
        ModelError: ``result`` of a model whose heads are not contributions to the residual stream.
        NonFiniteError: a NaN or infinity inside the model; its ``partial`` holds the result so far.

    Source: Conklin (2025), arXiv 2505.23960; "Learning is Forgetting: LLM Training as Lossy Compression" (ICLR 2026).

    >>> import tl_entropy as tle
    >>> texts = [text[:800] for text in tle.demo_texts(4)]
    >>> result = tle.soft_information(tle.demo_model(), texts, layers=[0, 5], progress=False)
    >>> result.value("information")[:, result.labels.index("token"), 0].argmax().item()  # of embed, resid_post.0, resid_post.5
    0
    """
    check_options(soft_information, options, WindowOptions)
    with writing(keep, folder):
        model, sites = of_stack(model, sites)
        adapter = adapter_of(model)
        if (not isinstance(labels, LabelPlan) or center is True) and split_cache(inputs)[0] is None:
            inputs = Rereadable.of(inputs if repeatable(inputs) else _listed(inputs))
        if isinstance(labels, LabelPlan):
            plan = labels
            if valid not in ("common", plan.valid):
                raise InputError(
                    f"valid: the plan was made with valid={plan.valid!r}; make one with label_plan(..., valid={valid!r})"
                )
        else:
            plan = label_plan(adapter, inputs, labels=labels, positions=positions, valid=valid, **options)
        sums = SoftAccumulator(
            adapter, plan, sites=sites, layers=layers, heads=heads, n_bins=n_bins, seed=seed, calibration=calibration,
            centers=None if isinstance(center, bool) else center, invalid=invalid, folds=folds, keep_labels=keep_labels,
        )  # fmt: skip
        one_pass = Pass(
            adapter,
            inputs,
            positions=positions,
            batch_size=batch_size,
            progress=progress,
            options=cast("CorpusOptions", options),
        )
        found, kept = kept_as(sums, keep, folder, whole=one_pass.whole)
        accumulator = found.of if isinstance(found, AssignmentWriter) else found
        if found is sums:
            _announce(sums.memory(), adapter.device, progress)
        if center is True:
            means = _Means(accumulator)
            if read([means], one_pass).interrupted:
                raise KeyboardInterrupt  # the mean of a part would be another quantity
            accumulator.centers |= means.compute()
        settings = {"positions": repr(positions), "prepend_bos": adapter.prepends_begin, **described(options), **kept}
        with keeping(lambda _: found.compute(settings=settings, interrupted=True) if found.started else None):
            report = found.read(one_pass) if isinstance(found, AssignmentWriter) else read([found], one_pass)
        origin: dict[str, Any] = {"settings": settings, "corpus": report.counts(), "interrupted": report.interrupted}
        with computing(found), at_once(not one_pass.whole):
            if isinstance(found, AssignmentParts):
                return found.put_together(progress=progress, **origin)
            return found.compute(progress=progress, **origin)


def _listed(inputs: Any) -> list[Any]:
    """What an iterator gives, to be read several times; where it ends in an error, that has what came as its ``partial``."""
    came: list[Any] = []
    with keeping(lambda _: came or None, "the inputs that came before this error are its attribute 'partial'"):
        for item in inputs:  # not all at once, so that what came is kept
            came.append(item)  # noqa: PERF402
    return came


class _Means(StateMeans):
    """The mean state at each site over the positions that have a label, for centring."""

    bound = ("_plan",)

    def __init__(self, of: SoftAccumulator) -> None:
        super().__init__(of.adapter, of.sites)
        self.takes_non_finite = of.takes_non_finite
        self._plan = of.plan

    @torch.no_grad()
    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Add the batch's states."""
        slots = planned_slots(self._plan, batch)
        if not batch.n_rows:
            return
        states = {site: batch.rows(activations[site]).cpu() for site in self.sites}
        kept = (self._plan.ids[:, slots] >= 0).any(0)
        for rows in states.values():
            kept &= rows.flatten(1).isfinite().all(1)
        self._add({site: rows[kept] for site, rows in states.items()})


def _documents(corpus: Corpus, special: frozenset[int], kept: list[Window | None] | None = None) -> Iterator[DocumentTokens]:
    """Every document's tokens, put together from its windows, the last of which is ``kept``; without a token it is empty."""
    special_ids = torch.tensor(sorted(special), dtype=torch.long)
    nothing = DocumentTokens(torch.tensor([-1]), torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bool))
    number, windows = 0, []
    for window in corpus:
        windows.append(window)
        if not window.last:
            continue
        gap = window.document - number  # empty documents have no window, nor have those that are not asked for
        yield from [nothing] * gap
        if kept is not None:
            kept += [*[None] * gap, window]
        slots = torch.cat([w.position for w in windows]) + 1
        tokens, counted = (torch.cat([getattr(w, name) for w in windows]) for name in ("tokens", "counted"))
        whole = torch.full((int(slots.max()) + 1,), -1)
        whole[slots] = tokens
        counts = torch.zeros(len(whole), dtype=torch.bool)
        counts[slots[counted]] = True
        yield DocumentTokens(whole, counts, (whole >= 0) & ~torch.isin(whole, special_ids))
        number, windows = window.document + 1, []
    gap = corpus.report.walked - number  # empty documents at the end, and those that were not asked for
    yield from [nothing] * gap
    if kept is not None:
        kept += [None] * gap


def _announce(size: int, device: torch.device, progress: bool) -> None:
    """Say how much memory the sums take on ``device``, where it is much; refuse what is not there at all."""
    try:
        if device.type == "cuda":
            machine = torch.cuda.get_device_properties(device).total_memory
        else:
            machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        machine = 0
    if machine and size > machine:
        raise InputError(
            f"the sums would take {size / 2**30:.1f} GiB, and this machine has {machine / 2**30:.1f}: use fewer sites, heads, "
            "seeds or label sets, smaller n_bins, or folds=1"
        )
    if progress and size >= LARGE:
        Bar.write(f"tl_entropy: sums take {size / 2**30:.1f} GiB", file=sys.stderr)
