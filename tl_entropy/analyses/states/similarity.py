"""Layer similarity: how alike the representations at any two sites are, in one model or between two.

Three methods: linear CKA, debiased (``analyses/states/cka.py``), matrix-based Rényi information with DiME as its headline
(``analyses/states/matrix_similarity.py``), and overlap of neighbours with information imbalance
(``analyses/states/neighbours.py``). All compare what the states of the same tokens, or of the same documents, look like
together, and so neither needs models of one width, nor of one basis.

Tokens can only be paired between models that read the same tokens. Models of different tokenizers are compared over documents,
each one the mean of its states over its own tokens, in a pass for each model.

Refused: sites with a head axis, too few tokens or documents, options of the other method.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from tl_entropy.analyses.measuring import measure
from tl_entropy.analyses.sharing import at_once
from tl_entropy.analyses.states.cka import BLOCK, CKAAccumulator, Estimator, check_estimator
from tl_entropy.analyses.states.document_states import DocumentStates, Pooled
from tl_entropy.analyses.states.matrix_similarity import QUANTITIES, MatrixAccumulator, matrix_similarities, stacked
from tl_entropy.analyses.states.neighbours import QUANTITIES as OF_NEIGHBOURS, NeighbourAccumulator, neighbour_similarities
from tl_entropy.analyses.states.paired_states import Against, Massive, check_shared_tokens, compared_with, own_errors
from tl_entropy.analyses.states.pooled import means_vary, vector_sites
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.caches import split_cache
from tl_entropy.capture.documents import Rereadable
from tl_entropy.capture.given import adapter_of, of_stack
from tl_entropy.capture.inputs import repeatable
from tl_entropy.capture.options import CorpusOptions, check_options
from tl_entropy.errors import InputError, check_choice, check_int, check_order, keeping
from tl_entropy.functional.states.similarity import MIN_ROWS, cka_scores, cka_table
from tl_entropy.functional.states.similarity_sums import BlockSums
from tl_entropy.functional.statistics import column_covariances, fold_scores
from tl_entropy.results.states.similarity import LayerSimilarity, Method
from tl_entropy.sites import Layers, Site
from tl_entropy.torch_state import steady

_OWN = {
    "cka": ("debiased", "estimator"), "matrix_renyi": ("order", "n_samples", "permutations"), "neighbours": ("k", "n_samples"),
}  # fmt: skip
_SAMPLED = ("matrix_renyi", "neighbours")


@steady
def layer_similarity(
    model: Any,
    inputs: Any,
    *,
    method: Method = "cka",
    other: Any = None,
    against: Against = "output",
    sites: str | Sequence[str | Site] = ("embed", "resid_post"),
    layers: Layers | None = None,
    positions: int | slice | Sequence[int] | None = None,
    rows: Literal["tokens", "documents"] = "tokens",
    massive: Massive = "keep",
    debiased: bool = True,
    estimator: Estimator = "exact",
    order: float = 1.01,
    n_samples: int = 1000,
    n_documents: int | None = None,
    permutations: int = 20,
    k: int = 10,
    max_new_tokens: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
    **options: Unpack[CorpusOptions],
) -> LayerSimilarity:
    r"""How alike the representations at the sites of a model are: to its output, to each other, or to those of another model.

    Linear CKA is HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L)) of the kernel matrices of states, with the unbiased HSIC: 1 for states
    alike up to rotation, scale and shift, about 0 for independent ones. Matrix-based Rényi information is in nats: DiME is the
    joint entropy of shuffled states less that of the states as they are. The neighbour overlap is the share of a state's k
    nearest that are so in the other layer, too; the information imbalance is 2/n times the rank there of the nearest one.

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files, data sets, or an ActivationCache with its tokens; see ``stream``.
        method: "cka", "matrix_renyi" or "neighbours".
        other: another model, whose sites are compared with; None is the same model. With ``rows="tokens"`` it reads the same
            token ids in the same windows, so it must share the tokenizer.
        against: what is compared with: "output" (the last residual stream), "all" (every pair; of another model the sites
            chosen by the same ``sites`` and ``layers``), a site such as "resid_post.3", or several.
        sites: embed, resid_pre, resid_mid, resid_post, attn_out, mlp_out, of all layers, or single ones, such as resid_post.3.
        layers: blocks to measure: numbers, from 0 or negative from the last, or a slice; None is all.
        positions: positions of each document to count; None is all. Padding, BOS and special tokens never count.
        rows: what is one item: "tokens", or "documents", each the mean of its states: for models of different tokenizers, too.
            Two models then make a pass each over the same documents in the same order, and generate each its own text after the
            same prompts.
        massive: "keep"; "drop" (leave out tokens where a compared state is massive: a component beyond 100 and 1000 times the
            median, Sun et al. 2024); or "normalise" (divide every state by its norm). A few massive states can make all layers
            look alike. They are counted in any case.
        debiased: of CKA: from the unbiased HSIC. The biased form is near 1 for independent states, too, where tokens are few
            beside d_model.
        estimator: of CKA: "exact", of all rows at once; or "minibatch", from blocks of 512 rows in the order of the corpus,
            which takes little memory and says how similar sites are within such blocks.
        order: of matrix-based Rényi entropy, 0 to infinity.
        n_samples: of matrix-based information and neighbours: tokens in the random sample that they are taken from.
        n_documents: of ``rows="documents"``: how many are kept at most, drawn at random by ``seed``, the same of two models;
            None keeps all, in 8 · sites · d_model bytes each.
        permutations: of matrix-based information: random pairings that the baseline is averaged over.
        k: of neighbours: how many the overlap is of.
        max_new_tokens: generate this many tokens after each text, and measure both.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        progress: show progress bars.
        options: those of ``tle.CorpusOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions, temperature, seed; ``seed`` is that of the sample and the permutations, too.
            Interventions act on ``model`` alone.

    Returns:
        ``LayerSimilarity``: values [quantity, row, column]; CKA and neighbours without a unit, matrix-based information in
        nats.

    Raises:
        InputError, InputTypeError: an argument or an item of the input that can't be measured, models that don't read the same
            tokens, or fewer than 4 rows (2 for biased CKA and matrix-based information, k + 1 of neighbours).
        ModelError: a hook never fires.
        NonFiniteError: a NaN or infinity inside a model; its ``partial`` holds the result so far, where there is one.

    Source: Nguyen, Raghu and Kornblith (2021), arXiv 2010.15327; Skean, Dhakal, Jacobs and Sanchez Giraldo (2023), arXiv
    2301.08164; Doimo et al. (2020), arXiv 2007.03506; Glielmo et al. (2022), Ranking the information content of distance
    measures.

    >>> import tl_entropy as tle
    >>> result = layer_similarity(tle.demo_model(), tle.demo_texts(1)[0][:600], progress=False)
    >>> round(result.value()[-1, 0].item(), 6)  # the last residual stream is the output
    1.0
    """
    check_options(layer_similarity, options, CorpusOptions)
    check_choice("method", method, tuple(_OWN))
    check_choice("rows", rows, ("tokens", "documents"))
    given = {
        "debiased": debiased, "estimator": estimator, "order": order, "n_samples": n_samples, "permutations": permutations,
        "k": k,
    }  # fmt: skip
    _check_own_options(given, method, rows)
    if n_documents is not None and rows != "documents":
        raise InputError("n_documents belongs to rows='documents'; leave it out with rows='tokens', which keeps sums alone")
    check_estimator(estimator, debiased)
    own: dict[str, Any] = {name: given[name] for name in _OWN[method]}
    if method == "matrix_renyi":
        own |= {"order": check_order("order", order), "permutations": check_int("permutations", permutations, 2)}
    if method == "neighbours":
        own["k"] = check_int("k", k, 1)
    if method in _SAMPLED:
        own["seed"] = check_int("seed", options.get("seed", 0), 0)
    model, sites = of_stack(model, sites)
    adapter = adapter_of(model)
    second = None if other is None else adapter_of(other)
    if options.get("interventions") is not None and second is not None and second.model is adapter.model:
        raise InputError(
            "interventions: other is the same model, and would be edited as well; load it twice, once for either side"
        )
    reading: dict[str, Any] = {
        "positions": positions, "max_new_tokens": max_new_tokens, "batch_size": batch_size, "progress": progress,
        "options": options,
    }  # fmt: skip
    compared: dict[str, Any] = {"sites": sites, "layers": layers, "against": against, "massive": massive}
    if rows == "documents":
        compared["sample"] = (n_documents, check_int("seed", options.get("seed", 0), 0))
    over = _over_tokens if rows == "tokens" else _over_documents
    return over(adapter, second, inputs, method, own, compared, reading)


def _check_own_options(given: Mapping[str, Any], method: Method, rows: str) -> None:
    """Raise InputError for an option that has no effect here, unless it is left at its default."""
    defaults = inspect.signature(layer_similarity).parameters
    for name, value in given.items():
        if value != defaults[name].default:
            unused = name not in _OWN[method] or (name == "n_samples" and rows == "documents")
            if unused:
                owners = " or ".join(repr(owner) for owner, names in _OWN.items() if name in names)
                where = f"method={owners}" + (" and rows='tokens'" if name == "n_samples" else "")
                raise InputError(f"{name} belongs to {where}; leave it out with method={method!r} and rows={rows!r}")


def _check_enough(count: int, method: Method, own: Mapping[str, Any], rows: str) -> None:
    fewest = MIN_ROWS if own.get("debiased") else own["k"] + 1 if "k" in own else 2
    if count < fewest:
        raise InputError(f"inputs: {method} needs at least {fewest} {rows} to compare; {count} could be counted")


def _over_tokens(
    adapter: Adapter,
    other: Adapter | None,
    inputs: Any,
    method: Method,
    own: dict[str, Any],
    compared: dict[str, Any],
    reading: dict[str, Any],
) -> LayerSimilarity:
    """From one pass; where there is another model, it reads every batch as well."""
    accumulator: CKAAccumulator | MatrixAccumulator | NeighbourAccumulator
    if method == "cka":
        accumulator = CKAAccumulator(adapter, other=other, **own, **compared)
    elif method == "neighbours":
        accumulator = NeighbourAccumulator(adapter, other=other, **own, **compared)
    else:
        accumulator = MatrixAccumulator(adapter, other=other, progress=reading["progress"], **own, **compared)
    result = measure(accumulator, inputs, **reading)
    if not result.provenance.interrupted:
        _check_enough(result.count, method, own, "tokens")
    return result


def _over_documents(
    adapter: Adapter,
    other: Adapter | None,
    inputs: Any,
    method: Method,
    own: dict[str, Any],
    compared: dict[str, Any],
    reading: dict[str, Any],
) -> LayerSimilarity:
    """From one pass of each model; documents meet by their numbers."""
    rows = vector_sites(adapter, compared["sites"], compared["layers"])
    columns, against = compared_with(other or adapter, compared["against"], compared["sites"], compared["layers"])
    if other and (split_cache(inputs)[0] is not None or not repeatable(inputs)):
        raise InputError("inputs are read by each model in turn, so neither an iterator nor a cache will do; give list(inputs)")
    inputs = Rereadable.of(inputs) if other else inputs

    settings = {
        "method": method, "sites": tuple(map(str, rows)), "against": against, "massive": compared["massive"],
        "rows": "documents",
    }  # fmt: skip

    def similarity(mine: Pooled, theirs: Pooled, *, progress: bool = False) -> LayerSimilarity:
        return _of_pooled(mine, theirs, rows, columns, own, settings, progress=progress)

    def passed(model: Adapter, sites: Sequence[Site], reading: dict[str, Any], shown: Callable[[Pooled], Any]) -> Pooled:
        found = measure(DocumentStates(model, sites, compared["massive"], *compared["sample"]), inputs, shown=shown, **reading)
        if other and found.provenance.interrupted:
            with keeping(lambda _: shown(found)):
                raise KeyboardInterrupt  # models that have read different parts can't be compared, but for what both have read
        return found

    def alone(found: Pooled) -> LayerSimilarity | None:
        return None if other else similarity(found, found)

    mine = passed(adapter, rows if other else (*rows, *columns), reading, alone)
    theirs = mine
    if other:
        if mine.provenance.corpus["ids"]:
            try:
                check_shared_tokens(adapter, other)
            except InputError as error:
                raise InputError(
                    "inputs hold token ids, and the models have different tokens, so that they would not be the same texts to "
                    "both; give texts"
                ) from error
        edited = {**reading, "options": {**reading["options"], "interventions": None}}
        theirs = passed(other, columns, edited, lambda found: similarity(mine, found))
    with at_once(split_cache(inputs)[0] is None):
        return similarity(mine, theirs, progress=reading["progress"])


def _of_pooled(
    mine: Pooled,
    theirs: Pooled,
    rows: tuple[Site, ...],
    columns: tuple[Site, ...],
    own: dict[str, Any],
    settings: dict[str, Any],
    *,
    progress: bool,
) -> LayerSimilarity:
    """The similarity over the documents that two passes have read, or one, where ``theirs`` are the same."""
    other, method = theirs is not mine, settings["method"]
    documents = sorted({*mine.documents} & {*theirs.documents})
    _check_enough(len(documents), method, own, "documents")
    x = _of_documents(mine, rows, documents)
    y = x if not other and rows == columns else _of_documents(theirs, columns, documents)
    quantities, found, how = _compared(x, y, method, own, progress)
    return LayerSimilarity(
        method=method, rows=rows, columns=columns, quantities=quantities, over="documents",
        errors=own_errors(found["covariance"]), **found,
        against=settings["against"], units=("nats" if method == "matrix_renyi" else "",) * len(quantities),
        count=len(documents) - how.get("left_out_rows", 0), documents=len(documents),
        massive=settings["massive"], massive_tokens=mine.massive_tokens + (theirs.massive_tokens if other else 0),
        provenance=replace(
            mine.provenance, settings={**how, **settings, **mine.provenance.settings},
            interrupted=mine.provenance.interrupted or theirs.provenance.interrupted,
        ),
        other=replace(theirs.provenance, settings={**settings, **theirs.provenance.settings}) if other else None,
    )  # fmt: skip


def _of_documents(pooled: Pooled, sites: Sequence[Site], documents: Sequence[int]) -> list[Tensor]:
    """Of each site the states [document, d_model] of these documents; all equal where they are but for rounding."""
    place = {document: i for i, document in enumerate(pooled.documents)}
    chosen = [place[document] for document in documents]
    states = [pooled.states[site][chosen] for site in sites]
    return [x if means_vary(x, pooled.floor) else x[:1].expand_as(x) for x in states]


def _compared(
    x: list[Tensor], y: list[Tensor], method: Method, own: Mapping[str, Any], progress: bool
) -> tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]:
    """Quantities, their values [quantity, row, column], covariance and what folds add, and the settings they were had with."""
    if method == "matrix_renyi":
        options = {name: own[name] for name in ("order", "permutations", "seed")}
        found = stacked(matrix_similarities(x, y, **options, progress=progress))
        return QUANTITIES, found, {**options, "kernel": "gaussian"}
    if method == "neighbours":
        return OF_NEIGHBOURS, neighbour_similarities(x, y, k=own["k"]), {"k": own["k"], "seed": own["seed"]}
    if own["estimator"] == "minibatch":
        names = [*((0, i) for i in range(len(x))), *((1, j) for j in range(len(y)))]
        blocks = BlockSums(names, BLOCK)
        blocks.update(dict(zip(names, [*x, *y], strict=True)))
        values, covariance = (found(names[: len(x)], names[len(x) :]) for found in (blocks.cka, blocks.covariance))
        return (
            ("cka",), {"values": values[None], "covariance": covariance[None]},
            {**own, "block": BLOCK, "left_out_rows": blocks.left_out},
        )  # fmt: skip
    scores = cka_scores(x, y, debiased=own["debiased"])
    document = torch.arange(len(scores))
    found = {
        "values": cka_table(x, y, debiased=own["debiased"]), "covariance": column_covariances(scores, document, len(scores)),
        "scores": fold_scores(scores, document),
    }  # fmt: skip
    return ("cka",), {name: one[None] for name, one in found.items()}, dict(own)
