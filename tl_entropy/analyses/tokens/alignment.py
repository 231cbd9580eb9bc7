r"""Values of tokens from one tokenizer's tokens to another's, and the correlation of two quantities token by token.

Two models with different tokenizers cut one text into different tokens, and the characters are what these have in common
(``functional/tokens/characters.py``). Where both have the same tokens, values go from row to row and stay as they are; where
the tokens differ, each value is spread over its characters and gathered again, as a sum that is conserved or as a mean.

A token has no value where the source has none for part of it: a first token that no BOS precedes is predicted by nothing, and
positions may have been left out. What shares a character of several bytes with a token that is not there has none, either, for
nobody can say how much of it is whose. Spans do not tell whether it does, so that a character outside ASCII at the edge of what
is missing counts as shared.

Refused: results of different texts; tokens that differ where the text is not known; sums of what has no unit, such as ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError, check_choice, check_int, counted, is_iterable
from tl_entropy.functional.statistics import balanced_folds, group_sums, jackknife_error
from tl_entropy.functional.tokens.characters import transfer
from tl_entropy.results.base import PER_NAT, Unit, chosen_from, in_unit
from tl_entropy.results.positions import by_document
from tl_entropy.results.tokens.correlation import AlignedValues, How, TokenCorrelation
from tl_entropy.results.tokens.rows import TokenRows
from tl_entropy.torch_state import steady

LEAST_PAIRS = 3
_CONSTANT = 1e-12  # of their size: values that differ by less differ by rounding


@steady
def align_tokens(
    source: TokenRows, target: TokenRows, *, of: str | Iterable[str] = "surprisal", how: How = "sum"
) -> AlignedValues:
    r"""Quantities of ``source`` on the tokens of ``target``, another result of the same texts.

    With the same tokens on both sides, every value goes to the same token. Otherwise they go through characters, text by text:
    "sum" spreads each value evenly over the token's characters, and each token of the target adds up its own, so that the total
    over a text is conserved; "mean" is the mean over the target token's characters of the value of the source token there.

    Args:
        source: whose values are wanted: a result with a row for each token, such as ``TokenSurprisal``.
        target: whose tokens are to have them.
        of: which quantities, by their names in ``source.columns()``.
        how: "sum" for what adds up, such as nats of surprisal; "mean" for what does not, such as ranks.

    Returns:
        ``AlignedValues`` with the target's rows, in the units of the source; NaN where the source has no value for all that a
        token stands for.

    Raises:
        InputError: a quantity that the source has not, documents or texts that differ (the first is named), tokens that differ
            in a document whose text is not known, a sum of what has no unit where tokens differ.
        InputTypeError: something that is no result with a row for each token.

    >>> import tl_entropy as tle
    >>> found = tle.token_surprisal(tle.demo_model(), "import os\n", progress=False)
    >>> align_tokens(found, found).values[:, 0].equal(found.surprisal)
    True
    """
    for name, rows in (("source", source), ("target", target)):
        if not isinstance(rows, TokenRows):
            raise InputTypeError(
                f"{name} must be a result with a row for each token, such as of token_surprisal; got {type(rows).__name__}"
            )
    check_choice("how", how, ("sum", "mean"))
    columns = source.columns()
    names = list(dict.fromkeys(chosen_from("of", _named(of), columns)))
    if not names:
        raise InputError(f"of is empty; choose from {', '.join(columns)}")
    bases = [columns[name].unit.removesuffix("²") for name in names]
    unit: Unit = "bits" if "bits" in bases and "nats" not in bases else "nats"
    factors, units = in_unit((columns[name].unit for name in names), unit)
    values = torch.stack([columns[name].values.double() for name in names], 1) * factors
    there, wanted = by_document(source.document), by_document(target.document)
    _check_documents(source, there, target, wanted)
    both = set(source.token.tolist()) & set(target.token.tolist())
    one_vocabulary = all(source.strings[token] == target.strings[token] for token in both)
    aligned = torch.full((target.n_tokens, len(names)), torch.nan, dtype=torch.float64)
    spread = False
    for document, to in wanted.items():
        if document not in there:
            continue
        one, other = _Part.of(source, there[document]), _Part.of(target, to)
        text = target.texts.get(document) if one.placed and other.placed and document in source.texts else None
        row, met = one.meets(other)
        lengths = source.lengths.get(document, math.inf), target.lengths.get(document, math.inf)
        same_document = text is not None or lengths[0] == lengths[1]
        if one_vocabulary and same_document and one.agrees(other, row, met):
            aligned[to] = values[there[document]][row].where(met[:, None], torch.nan)
            continue
        if text is None:
            raise InputError(
                f"source and target have different tokens in document {document}, and its text is not known to both, so "
                "nothing says which belong together: measure texts rather than token ids, on models with fast tokenizers"
            )
        plain = [name for name in names if not columns[name].unit]
        if how == "sum" and plain:
            raise InputError(f"how='sum' is for what adds up, and {plain[0]} does not; take how='mean', as the tokens differ")
        aligned[to] = _by_characters(values[there[document]], one, other, text, lengths, how)
        spread = True
    return AlignedValues(
        values=aligned, quantities=tuple(names), units=units,
        abouts=tuple(columns[name].about for name in names), how=how if spread else None,
        document=target.document, position=target.position, token=target.token, span=target.span, strings=target.strings,
        texts=target.texts, lengths=target.lengths, names=target.names, generated=target.generated,
        provenance=source.provenance, target=target.provenance, unit=unit,
    )  # fmt: skip


@steady
def token_correlation(
    x: TokenRows,
    y: TokenRows,
    *,
    of: str | Sequence[str] = "surprisal",
    on: Literal["x", "y"] = "y",
    how: How = "sum",
    normalize: Literal["min_max"] | None = None,
    folds: int = 20,
) -> TokenCorrelation:
    r"""How far one quantity of every token goes with another: the least-squares line of y against x, R², and correlations.

    ``x`` and ``y`` are results of the same texts, of two models with the same tokens or with different ones, or one result
    twice, with two quantities. All tokens count the same. With e the residuals, z = (1, x) and D documents,

        covariance of (intercept, slope) = D / (D - 1) · A⁻¹ (Σ_d s_d s_dᵀ) A⁻¹,   A = Σ z zᵀ,   s_d = Σ z·e over document d

    which allows for tokens of a document that are alike (Liang and Zeger 1986). It is too small with few documents, below some
    20. The standard error of r is by the jackknife over folds of documents.

    Neither slope nor R² says which of two models is right, or that either is: noise in x draws the slope towards 0 (errors in
    variables), and noise in any of them lowers R². And R² between surprisals of tokens is high already because the frequency
    and length of tokens enter both. See ``results/tokens/correlation.py``.

    Args:
        x: what goes on the x axis; a result with a row for each token.
        y: what goes on the y axis.
        of: the quantity, or two: that of x and that of y.
        on: whose tokens the pairs are of, where they differ; the other's values come to them by ``align_tokens``.
        how: "sum" for what adds up, "mean" for what does not; used only where the tokens differ.
        normalize: "min_max" puts both on a scale from 0, the lowest of a document, to 1, its highest (0 where all are the
            same), as ``functional.min_max`` of each text. What documents differ by is then no part of the line.
        folds: number of groups of documents for the jackknife; with fewer documents, each is one.

    Returns:
        ``TokenCorrelation``, in y's unit of information, with all pairs.

    Raises:
        InputError: an x or y that is the same for all tokens, fewer than 3 pairs, and whatever ``align_tokens`` refuses.
        InputTypeError: something that is no result with a row for each token.
        NonFiniteError: an infinite value, as the surprisal of what a model held to be impossible; the token is named.

    >>> import tl_entropy as tle
    >>> found = tle.token_surprisal(tle.demo_model(), "import os\n", progress=False)
    >>> again = token_correlation(found, found.to("bits"))
    >>> round(again.slope, 6), abs(round(again.intercept, 6)), again.units
    (1.0, 0.0, ('bits', 'bits'))
    """
    check_choice("on", on, ("x", "y"))
    folds = check_int("folds", folds, 2)
    check_choice("normalize", normalize, (None, "min_max"))
    pair = (of, of) if isinstance(of, str) else _named(of)
    if len(pair) != 2:
        raise InputError(f"of must be one quantity, or two, that of x and that of y; got {pair}")
    target = x if on == "x" else y
    on_x, on_y = align_tokens(x, target, of=pair[0], how=how), align_tokens(y, target, of=pair[1], how=how)
    unit = (on_y if on_y.units[0].removesuffix("²") in PER_NAT else on_x).unit
    on_x, on_y = on_x.to(unit), on_y.to(unit)
    values = torch.cat([on_x.values, on_y.values], 1)
    known = ~values.isnan().any(1)
    document, position, token = target.document[known], target.position[known], target.token[known]
    pairs = values[known]
    if len(pairs) < LEAST_PAIRS:
        raise InputError(
            f"x and y have {counted(len(pairs), 'token')} with a value of both; a line needs at least {LEAST_PAIRS}: measure "
            "more text"
        )
    if len(bad := (~pairs.isfinite()).any(1).nonzero()):
        row = int(bad[0])
        raise NonFiniteError(
            f"x or y is infinite at position {int(position[row])} of document {int(document[row])} (and {len(bad) - 1} more "
            "tokens): no line goes through it; leave it out with select(...)"
        )
    _, index, sizes = document.unique(return_inverse=True, return_counts=True)
    units = on_x.units[0], on_y.units[0]
    if normalize is not None:
        pairs, units = _min_max(pairs, index, len(sizes)), ("", "")
        pair = tuple(f"{name}, min-max" for name in pair)
    for name, argument, column in zip(("x", "y"), pair, pairs.T, strict=True):
        if column.max() - column.min() <= _CONSTANT * column.abs().max():
            raise InputError(
                f"{name}: its {argument} is {column[0]:g} for all {len(pairs)} tokens, and what does not vary goes with nothing"
            )
    fold = balanced_folds(sizes, folds)[index]
    line = _line(pairs[:, 0], pairs[:, 1], index)
    ranks = torch.stack([_ranks(column) for column in pairs.T], 1)
    pearson, pearson_error = _pearson(pairs, fold)
    return TokenCorrelation(
        x=pairs[:, 0], y=pairs[:, 1], quantities=(pair[0], pair[1]), units=units, **line,
        pearson=pearson, pearson_error=pearson_error, spearman=_pearson(ranks, torch.zeros_like(fold))[0],
        left_out=int((~known).sum()), on=on, how=(on_x if on == "y" else on_y).how, document=document, position=position,
        token=token, strings=target.strings, names=target.names, provenance=y.provenance, x_provenance=x.provenance, unit=unit,
    )  # fmt: skip


def _min_max(pairs: Tensor, document: Tensor, documents: int) -> Tensor:
    """Pairs [row, 2] on a scale from 0 to 1 within each document, numbered from 0; 0 where all of its values are the same."""
    place = document[:, None].expand_as(pairs)
    low, high = (
        pairs.new_zeros(documents, 2).scatter_reduce(0, place, pairs, which, include_self=False)[document]
        for which in ("amin", "amax")
    )
    return (pairs - low) / (high - low).where(high > low, 1.0)


def _named(of: Any) -> tuple[str, ...]:
    """Names of quantities, one or several, as a tuple."""
    if not is_iterable(of):
        raise InputTypeError(f"of must be the name of a quantity, or several; got {of!r}")
    return (of,) if isinstance(of, str) else tuple(of)


class _Part(NamedTuple):
    """The rows of one document."""

    position: Tensor
    token: Tensor
    span: Tensor

    @classmethod
    def of(cls, rows: TokenRows, part: slice) -> _Part:
        return cls(rows.position[part].contiguous(), rows.token[part], rows.span[part])  # a search wants them in a row

    @property
    def placed(self) -> bool:
        """Whether it is known where in the text the tokens are."""
        return bool((self.span >= 0).all())

    def meets(self, other: _Part) -> tuple[Tensor, Tensor]:
        """For each row of ``other``, this part's row of the same position, and whether there is one."""
        row = torch.searchsorted(self.position, other.position).clamp(max=len(self.position) - 1)
        return row, self.position[row] == other.position

    def agrees(self, other: _Part, row: Tensor, met: Tensor) -> bool:
        """Whether all tokens of the same position are the same, at the same place, and there are any."""
        same = self.token[row] == other.token
        if self.placed and other.placed:
            same &= (self.span[row] == other.span).all(1)
        return bool(met.any()) and bool(same[met].all())

    def beside_missing(self, text: str, length: float) -> Tensor:
        """Which rows [row] may share a character with a token that has no row here, of a document of ``length`` tokens."""
        starts, ends = self.span.unbind(1)
        marks = torch.zeros(len(text) + 1, dtype=torch.long)
        before = torch.cat([self.position.new_full((1,), -1), self.position[:-1]])
        for i in (self.position > before + 1).nonzero().flatten().tolist():
            start, end = int(starts[i]), int(ends[i - 1]) if i else 0
            touching = start <= end  # no character lies between, so what is missing shares one of these
            if touching or not text[start : start + 1].isascii():
                marks[start] = 1
            if i and (touching or not text[end - 1 : end].isascii()):
                marks[end - 1] = 1
        last = int(ends.max())
        if int(self.position[-1]) + 1 < length and not text[last - 1].isascii():
            marks[last - 1] = 1
        marked = torch.cat([marks.new_zeros(1), marks.cumsum(0)])
        return marked[ends] > marked[starts]


def _check_documents(source: TokenRows, there: dict[int, slice], target: TokenRows, wanted: dict[int, slice]) -> None:
    """Refuse results of different documents; one without rows, as of a token that nothing predicts, is known by its text."""
    for document in sorted(set(there) | set(wanted)):
        for name, rows, has in (("source", source, there), ("target", target, wanted)):
            if document not in has and document not in rows.texts:
                raise InputError(
                    f"source and target must be of the same texts; document {document} is not in {name}: "
                    "narrow the other with select(documents=...)"
                )
        mine, theirs = source.texts.get(document), target.texts.get(document)
        if mine is not None and theirs is not None and mine != theirs:
            same = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
            raise InputError(
                f"source and target must be of the same texts; those of document {document} differ from character {same} on "
                f"({mine[same : same + 20]!r} and {theirs[same : same + 20]!r})"
            )


def _by_characters(values: Tensor, source: _Part, target: _Part, text: str, lengths: tuple[float, float], how: How) -> Tensor:
    """Values [target, quantity] of one text, of ``lengths`` tokens in both, from those of the source's tokens."""
    values = values.masked_fill(source.beside_missing(text, lengths[0])[:, None], torch.nan)
    columns = [transfer(column, source.span, target.span, len(text), how=how) for column in values.T]
    return torch.stack(columns, 1).masked_fill(target.beside_missing(text, lengths[1])[:, None], torch.nan)


def _line(x: Tensor, y: Tensor, document: Tensor) -> dict[str, Any]:
    """The least-squares line of y [row] against x [row], with errors over documents, numbered from 0."""
    n, documents = len(x), int(document.max()) + 1
    centre = x.mean()
    apart = x - centre
    square = apart.square().sum()
    slope = (apart * (y - y.mean())).sum() / square
    residuals = y - y.mean() - slope * apart
    scores = group_sums(torch.stack([residuals, apart * residuals], 1), document, documents)
    # Of (height of the line at the mean of x, slope), whose A is diagonal.
    effects = scores / torch.stack([square.new_tensor(n), square])
    effects[:, 0] -= centre * effects[:, 1]
    factor = documents / (documents - 1) if documents > 1 else torch.nan
    intercept_error, slope_error = (effects.square().sum(0) * factor).sqrt().tolist()
    return {
        "slope": slope.item(), "intercept": (y.mean() - slope * centre).item(), "slope_error": slope_error,
        "intercept_error": intercept_error,
    }  # fmt: skip


def _pearson(pairs: Tensor, fold: Tensor) -> tuple[float, float]:
    """Pearson's r of pairs [row, 2], and its standard error by the jackknife over folds; NaN for one fold."""
    x, y = (pairs - pairs.mean(0)).T  # without what they share, sums of squares keep their digits
    sums = group_sums(torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], 1), fold, int(fold.max()) + 1)
    whole = sums.sum(0)
    n, sx, sy, xx, yy, xy = torch.cat([whole[None], whole - sums]).T
    of_x, of_y = xx - sx * sx / n, yy - sy * sy / n
    constant = (of_x <= 1e-12 * xx) | (of_y <= 1e-12 * yy)  # what is left of a constant is rounding
    r = ((xy - sx * sy / n) / (of_x * of_y).sqrt()).clamp(-1, 1).masked_fill(constant, torch.nan)
    return r[0].item(), jackknife_error(r, sums[:, 0]).item()


def _ranks(values: Tensor) -> Tensor:
    """Ranks [row] from 1; ties share the mean of theirs."""
    _, index, counts = values.unique(return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0) - (counts.double() - 1) / 2
    return ranks[index]
