"""Do quantities of a model tell labels of spans apart: features of spans, and tests of each and of all together.

Answers that are right and wrong, documents of two kinds, words that are read fast or slowly: with entropies of ``attn_out``,
``mlp_out`` and ``resid_post`` at every layer, spans have 3L features (module-wise entropies as detectors of wrong answers:
TriLens, arXiv 2606.01033). With so many, the best looks good by chance: beside every number is what shuffled labels give.

Groups (texts, questions) are held out whole wherever something is chosen from labels: a feature's direction, and the probe, a
logistic regression of the standardised features. scikit-learn fits it, and is asked for where that is wanted.

Refused: labels of one class, empty spans, fewer than two groups of either class where something is held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int, counted, warn
from tl_entropy.functional.tokens.discrimination import area_errors, areas, ranks, risks
from tl_entropy.results.base import chosen_from
from tl_entropy.results.positions import Positions, by_document
from tl_entropy.results.tokens.features import Discrimination, SpanFeatures, truths
from tl_entropy.results.tokens.rows import TokenRows
from tl_entropy.results.tokens.words import WordSurprisal
from tl_entropy.torch_state import steady

How = Literal["mean", "max", "min", "first", "last"]
_HOW: tuple[How, ...] = ("mean", "max", "min", "first", "last")
PROBE = "probe"
_COVERAGES = tuple(i / 20 for i in range(1, 21))


@steady
def span_features(
    result: Any,
    spans: Sequence[Sequence[Sequence[int]]] | WordSurprisal | None = None,
    quantities: str | Iterable[str] | None = None,
    *,
    how: How | Sequence[How] = "mean",
    predicting: bool = False,
) -> SpanFeatures:
    """Quantities of a result at spans of tokens: one row a span, one column for each quantity, site and way to sum it up.

    Args:
        result: with a value at every position: of ``lens_entropy``, ``layer_divergence`` (a feature for each site), or of
            single tokens, such as ``token_surprisal``.
        spans: for each document its spans of positions, [(start, end), ...], end not included; words of ``word_surprisal`` of
            the same texts, which may be any spans of characters, such as answers; None makes each document one.
        quantities: of those that the result has, by name; None is all.
        how: what a span's feature is of its tokens' values: "mean", "max", "min", "first" or "last", or several.
        predicting: take each span from the positions before its tokens, whose distributions predicted them; of results by the
            token read. Results of single tokens are about the token itself, and refuse it.

    Returns:
        ``SpanFeatures``, with a row for each span given, in their order; one of which no token has a value is NaN.

    Warns:
        UserWarning: spans that end behind the values of their document.

    Raises:
        InputError: a quantity that the result lacks, spans for another number of documents, or an empty span.
        InputTypeError: a result without values of positions.

    >>> import tl_entropy as tle
    >>> found = tle.lens_entropy(tle.demo_model(), "import os, sys", sites="resid_post", layers=[-1], progress=False)
    >>> tle.span_features(found, [[(0, 1), (1, 4)]], how=("mean", "last")).features
    ('entropy resid_post.5, mean', 'entropy resid_post.5, last')
    """
    ways = [how] if isinstance(how, str) else list(how)
    for way in ways or ("",):
        check_choice("how", way, _HOW)
    if not isinstance(result, Positions) or not (isinstance(result, TokenRows) or hasattr(result, "quantities")):
        raise InputTypeError(f"result must have values of positions, as of lens_entropy; got {type(result).__name__}")
    columns = _columns(result, quantities)
    if predicting and isinstance(result, TokenRows):
        raise InputError("predicting: values of single tokens are about the token itself already; leave it out")
    places = by_document(result.document)
    if isinstance(spans, WordSurprisal):
        words: list[list[list[int]]] = [[] for _ in range(max([*places, *spans.documents], default=-1) + 1)]
        for document, ends in zip(spans.document.tolist(), spans.position.tolist(), strict=True):
            words[document].append(ends)
        spans = words
    if spans is not None and places and len(spans) <= max(places):
        raise InputError(f"spans must have a list for each of {max(places) + 1} documents; got {len(spans)}")
    lines, values, behind = [], [], []
    shift = int(predicting and spans is not None)
    table = torch.stack([column for _, column, _ in columns], 1).double()
    none = slice(0, 0)
    for document in places if spans is None else range(len(spans)):
        rows = places.get(document, none)
        position = result.position[rows]
        listed = [(int(position.min()), int(position.max()) + 1)] if spans is None else spans[document]
        for number, span in enumerate(listed):
            start, end = _checked(f"spans, document {document}, span {number}", span)
            if len(position) and end - shift > int(position.max()) + 1:
                behind.append(f"[{start}, {end}) of document {document}, whose last value is at {int(position.max())}")
            inside = (position >= start - shift) & (position < end - shift)
            here = table[rows][inside]
            lines.append((document, start, end, len(here)))
            values.append(torch.stack([_summed(here, way) for way in ways], 1).flatten())
    if behind:
        warn(
            f"spans: {counted(len(behind), 'span')} of {len(lines)} end behind the values of their document, and have features "
            f"of fewer tokens or none: {'; '.join(behind[:3])}{'; ...' * (len(behind) > 3)}"
        )
    names = tuple(f"{name}, {way}" for name, _, _ in columns for way in ways)
    where = torch.tensor(lines, dtype=torch.long).reshape(-1, 4)
    return SpanFeatures(
        values=torch.stack(values) if values else torch.zeros(0, len(names), dtype=torch.float64), features=names,
        units=tuple(unit for _, _, unit in columns for _ in ways), document=where[:, 0], start=where[:, 1], end=where[:, 2],
        tokens=where[:, 3], provenance=result.provenance, unit=result.unit,  # type: ignore[attr-defined]
    )  # fmt: skip


def _columns(result: Any, asked: str | Iterable[str] | None) -> list[tuple[str, Tensor, str]]:
    """Name, values [row] and unit of every quantity that was asked for, at every site."""
    if isinstance(result, TokenRows):
        there = {name: (column.values[:, None], column.unit) for name, column in result.columns().items()}
        sites = [""]
    else:
        measured = dict.fromkeys(("entropy", "surprisal", "kl", "reverse_kl", "jsd"), result.unit)
        there = {name: (values, measured.get(name.split(" ")[0], "")) for name, values in result.quantities().items()}
        sites = [f" {site}" for site in result.sites]
    wanted = there if asked is None else chosen_from("quantities", asked, there)
    return [(f"{name}{site}", there[name][0][:, i], there[name][1]) for name in wanted for i, site in enumerate(sites)]


def _checked(where: str, span: Any) -> tuple[int, int]:
    ends = tuple(span) if isinstance(span, Sequence) and not isinstance(span, str) else ()
    if len(ends) != 2 or any(isinstance(end, bool) or not hasattr(end, "__index__") for end in ends):
        raise InputTypeError(f"{where} must be (start, end), two positions; got {span!r:.80}")
    start, end = (check_int(where, end) for end in ends)
    if not 0 <= start < end:
        raise InputError(f"{where} must have 0 <= start < end, positions of tokens; got {start} and {end}")
    return start, end


def _summed(values: Tensor, way: How) -> Tensor:
    """One value [feature] of a span's tokens [token, feature], those without a value left out."""
    none = values.new_full(values.shape[1:], torch.nan)
    if not len(values):
        return none
    known = ~values.isnan()
    if way == "mean":
        return values.nanmean(0)
    if way in ("max", "min"):
        fill = -torch.inf if way == "max" else torch.inf
        found = values.masked_fill(~known, fill).amax(0) if way == "max" else values.masked_fill(~known, fill).amin(0)
        return torch.where(known.any(0), found, none)
    place = known.int().argmax(0) if way == "first" else len(values) - 1 - known.flip(0).int().argmax(0)
    return torch.where(known.any(0), values.gather(0, place[None])[0], none)


@steady
def discriminate(
    features: SpanFeatures,
    labels: Sequence[bool] | Any,
    *,
    groups: Sequence[Any] | None = None,
    probe: bool = True,
    folds: int = 5,
    shuffles: int = 1000,
    refits: int = 20,
    seed: int = 0,
) -> Discrimination:
    """How well each feature, and a linear probe of all of them, tells spans that are True from those that are False.

    Args:
        features: of ``span_features``; spans in which a feature is NaN are left out.
        labels: [span] truth values, such as "the answer is wrong"; or a mapping from (document, start, end) to them.
        groups: [span], what is held out together and sampled as one, such as questions; None is the spans' documents.
        probe: whether to fit a logistic regression of all features, standardised, with an L2 penalty of 1, by scikit-learn.
        folds: of groups, each of which is held out once.
        shuffles: of the labels, for the null of single features. Labels that are one of a group are shuffled between groups.
        refits: of the probe with shuffled labels.
        seed: of shuffles and folds.

    Returns:
        ``Discrimination``. Single features are looked at whole; a direction is chosen, and the probe fitted, on other groups.

    Raises:
        InputError: labels of another number, or of one class; fewer groups with either class than folds need; an infinite
            feature, where a probe is asked for.
        InputTypeError: features that are not of ``span_features``, or labels that are no truth values.
        ImportError: scikit-learn is not installed, and a probe is asked for.

    Source: areas, errors and risks as in ``functional/tokens/discrimination.py``; the largest of several under the null as in
    P. Westfall and S. Young, Resampling-based multiple testing, 1993.

    >>> import tl_entropy as tle
    >>> texts = ["import os", "x = 1", "import sys", "y = 2"]
    >>> found = tle.lens_entropy(tle.demo_model(), texts, sites="resid_post", layers=[0, -1], progress=False)
    >>> tle.discriminate(tle.span_features(found), [False, True] * 2, probe=False, folds=2).n_tests
    2
    """
    if not isinstance(features, SpanFeatures):
        raise InputTypeError(f"features must be of span_features; got {type(features).__name__}")
    folds, shuffles, refits = check_int("folds", folds, 2), check_int("shuffles", shuffles, 1), check_int("refits", refits, 0)
    label, group = truths(features, labels), _groups(features, groups)
    known = ~features.values.isnan().any(1)
    values, label, group = features.values[known], label[known], group[known].unique(return_inverse=True)[1]
    for truth in (True, False):
        n = len(group[label == truth].unique())
        if n < 2:
            raise InputError(f"labels must be {truth} in at least two groups of spans that have values; they are in {n}")
    draw = torch.Generator().manual_seed(seed)
    folded = _folds(label, group, folds, draw)
    shuffled = torch.stack([_shuffled(label, group, draw) for _ in range(shuffles)])
    infinite = values.isinf()
    if probe and bool(infinite.any()):
        name = features.features[int(infinite.any(0).int().argmax())]
        raise InputError(
            f"features: {name!r} is infinite at {counted(int(infinite.any(1).sum()), 'span')}, where no probe can be "
            "fitted; use probe=False, or leave it out by select"
        )
    ranked = ranks(values)
    [found] = areas(ranked, label[None])
    distances = (areas(ranked, shuffled) - 0.5).abs()
    largest, own = distances.amax(1), (found - 0.5).abs() - 1e-12
    scores = _oriented(ranked, label, folded)
    parts: dict[str, list[Tensor]] = {
        "auroc": [found], "se": [area_errors(values, label, group)], "oriented": [areas(ranks(scores), label[None])[0]],
        "p": [((distances >= own).sum(0) + 1) / (shuffles + 1)],
        "p_any": [((largest[:, None] >= own).sum(0) + 1) / (shuffles + 1)],
    }  # fmt: skip
    null = torch.zeros(0, dtype=torch.float64)
    if probe:
        fitted = _probe(values, label, folded, seed)[:, None]
        scores = torch.cat([scores, fitted], 1)
        [area] = areas(ranks(fitted), label[None])
        shuffled_fits = [
            areas(ranks(_probe(values, one, _folds(one, group, folds, draw), seed)[:, None]), one[None])[0, 0]
            for one in (_shuffled(label, group, draw) for _ in range(refits))
        ]
        null = torch.stack(shuffled_fits) if shuffled_fits else null
        more = {"auroc": area, "se": area_errors(fitted, label, group), "oriented": area}
        more |= {"p": ((null >= area - 1e-12).sum(0, keepdim=True) + 1) / (refits + 1), "p_any": torch.full((1,), torch.nan)}
        for name, value in more.items():
            parts[name].append(value)
    risk = risks(scores, label)
    at = [max(0, round(share * len(label)) - 1) for share in _COVERAGES]
    names = (*features.features, PROBE) if probe else features.features
    return Discrimination(
        **{name: torch.cat([one.double() for one in several]) for name, several in parts.items()}, aurc=risk.mean(0),
        risk=risk[at].T.contiguous(), null=largest, probe_null=null, features=names, coverages=_COVERAGES, n_tests=len(names),
        spans=(len(label), int(label.sum()), int((~known).sum())), groups=int(group.max()) + 1, provenance=features.provenance,
        unit=features.unit,
    )  # fmt: skip


def _groups(features: SpanFeatures, groups: Sequence[Any] | None) -> Tensor:
    if groups is None:
        return features.document
    given = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(given) != len(features.document):
        raise InputError(f"groups must be one for each of {len(features.document)} spans; got {len(given)}")
    numbers = {name: i for i, name in enumerate(dict.fromkeys(given))}
    return torch.tensor([numbers[name] for name in given])


def _folds(label: Tensor, group: Tensor, number: int, draw: torch.Generator) -> Tensor:
    """The fold [row] of each row: groups are dealt in random order, those with a True span first, so that folds are alike."""
    positive = torch.zeros(int(group.max()) + 1).index_add(0, group, label.float()) > 0
    order = torch.randperm(len(positive), generator=draw)
    order = order[positive[order].int().argsort(descending=True, stable=True)]
    number = min(number, int(positive.sum()), int((~positive).sum()) or number)
    fold = torch.empty(len(positive), dtype=torch.long)
    fold[order] = torch.arange(len(order)) % max(2, number)
    return fold[group]


def _shuffled(label: Tensor, group: Tensor, draw: torch.Generator) -> Tensor:
    """Labels in random order, between groups where each group has one, and else between spans."""
    number = int(group.max()) + 1
    positive = torch.zeros(number).index_add(0, group, label.float())
    share = positive / torch.bincount(group)
    if bool(((share == 0) | (share == 1)).all()):
        return (share > 0)[torch.randperm(number, generator=draw)][group]
    return label[torch.randperm(len(label), generator=draw)]


def _oriented(ranked: Tensor, label: Tensor, fold: Tensor) -> Tensor:
    """Ranks [row, feature], turned where in the other folds a low value speaks for True; rows of other folds do not matter."""
    found = torch.empty_like(ranked)
    for held in fold.unique().tolist():
        here, rest = fold == held, fold != held
        both = bool(label[rest].any()) and not bool(label[rest].all())
        sign = torch.ones(ranked.shape[1]) if not both else (areas(ranks(ranked[rest]), label[rest][None])[0] >= 0.5) * 2.0 - 1
        found[here] = torch.where(sign > 0, ranked[here], len(ranked) + 1 - ranked[here])
    return found


def _probe(values: Tensor, label: Tensor, fold: Tensor, seed: int) -> Tensor:
    """Held-out log-odds [row] of a logistic regression of all features."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError("a probe needs scikit-learn: pip install 'tl-entropy[clusters]', or use probe=False") from error
    found = torch.zeros(len(values), dtype=torch.float64)
    for held in fold.unique().tolist():
        here = fold == held
        if bool(label[~here].all()) or not bool(label[~here].any()):
            raise InputError(f"labels must be of both classes outside of each of {int(fold.max()) + 1} folds; use fewer folds")
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, random_state=seed))
        model.fit(values[~here].numpy(), label[~here].numpy())
        found[here] = torch.from_numpy(model.decision_function(values[here].numpy())).double()
    return found
