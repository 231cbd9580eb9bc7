"""From what ``layer_geometry`` has gathered to its values at every site, with their covariance over documents.

Those of the effective rank and TwoNN are linear, from what sampled tokens add, tokens of one document together, and so are
those of LiDAR and InfoNCE, from what labels add, and that of the dataset entropy of many documents; others leave out documents
in folds.

A measure that is not defined at a site, for want of documents or of states that differ, or that fails there, is NaN there, and
a note says why: a pass over a corpus should not be lost to one of its numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from tl_entropy.analyses.sharing import dealt
from tl_entropy.analyses.states.geometry_sums import Directions, Moments, TextGram
from tl_entropy.analyses.states.pooled import means_vary
from tl_entropy.errors import InputError, counted
from tl_entropy.functional.lens.entropies import in_double
from tl_entropy.functional.states.geometry import (
    Normalise,
    different_places,
    dimension_of_different,
    dimension_scores,
    directed_rows,
    effective_rank_of_covariance,
    rank_scores,
)
from tl_entropy.functional.states.matrix_scores import linear_scores
from tl_entropy.functional.states.views import info_nce_scores, lidar_scores
from tl_entropy.functional.statistics import FOLDS, fold_scores, jackknife_scores, sampled_covariance
from tl_entropy.sites import Site

JACKKNIFE_UP_TO = 200
"""Documents up to which the error of the dataset entropy leaves out folds, which takes its eigenvalues 20 times more."""

_FREE_VIEWS = 1.5  # to a dimension, beyond one a text, from which on the error of LiDAR is that of its spread over corpora

OfSite = Callable[[int, Callable[[str], None]], tuple[Tensor, Tensor]]
"""From the number of a site, and what takes notes on it, to its value and what groups add to that [group]."""

FAILURES = (ValueError, RuntimeError, ArithmeticError, MemoryError)
"""What a measure may fail with: states that it refuses, eigenvalues that don't converge, memory that runs out."""


_NO_ENTROPY = {
    ("prompt_entropy", True): "one token, or one state, only",
    ("prompt_entropy", False): "no state of some length",
    ("normalized_prompt_entropy", True): "fewer than three tokens, or one state only",
    ("normalized_prompt_entropy", False): "one token only, or no state of some length",
}
"""Why a document has no entropy, by measure and whether states are centred."""


class Noted:
    """Notes on values, each with the sites that it is about; and ``folds``, by measure what documents add [fold, site]."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = sites
        self._where: dict[str, list[Site]] = {}
        self.folds: dict[str, Tensor] = {}

    def note(self, text: str, *sites: Site) -> None:
        """Keep a note about these sites, or about no site in particular."""
        self._where.setdefault(text, []).extend(sites)

    def lines(self) -> tuple[str, ...]:
        """All notes; the sites are named where they are not all."""
        named = {text: ", ".join(map(str, sites)) for text, sites in self._where.items() if len(sites) < len(self.sites)}
        return tuple(f"{text} (at {named[text]})" if named.get(text) else text for text in self._where)

    def nothing(self) -> Tensor:
        """[site] NaN."""
        return torch.full((len(self.sites),), math.nan, dtype=torch.float64)

    def nothing_paired(self) -> Tensor:
        """[site, site] NaN."""
        return torch.full((len(self.sites), len(self.sites)), math.nan, dtype=torch.float64)

    def each(self, name: str, groups: int, of: OfSite) -> tuple[Tensor, Tensor]:
        """A measure at every site [site], and what groups add [group, site]; NaN with a note where it is not defined, or fails.

        Where several processes compute at once, each has some of the sites.
        """

        def one(i: int) -> tuple[Tensor, Tensor, list[str]]:
            said: list[str] = []
            try:
                value, added = of(i, said.append)
            except FAILURES as error:
                value, added = torch.tensor(math.nan), torch.full((groups,), math.nan)
                said.append(f"{name} is nan: {_why(error)}")
            return value.double().cpu(), added.double().cpu(), said

        found = dealt(name, range(len(self.sites)), lambda sites: list(map(one, sites)))
        for site, (_, _, said) in zip(self.sites, found, strict=True):
            for text in said:
                self.note(text, site)
        return torch.stack([value for value, _, _ in found]), torch.stack([added for _, added, _ in found], dim=1)

    def failed(self, name: str, error: BaseException, *sites: Site) -> None:
        """Say why a measure is NaN, in the words of ``error`` but for the argument that it names."""
        self.note(f"{name} is nan: {_why(error)}", *sites)


def _why(error: BaseException) -> str:
    return str(error).removeprefix("x: ") or type(error).__name__


def document_means(name: str, values: Tensor, normalise: Normalise, noted: Noted) -> tuple[Tensor, Tensor]:
    """Means of ``values`` [document, site] over documents that have one, and their covariance [site, site]."""
    why = "fewer than two steps of some length" if name == "curvature" else _NO_ENTROPY[name, normalise == "centred"]
    for site, missing in zip(noted.sites, values.isnan().sum(0).tolist(), strict=True):
        if missing:
            noted.note(f"{name}: {missing} of {len(values)} documents have none ({why})", site)
    n = (~values.isnan()).sum(0)
    mean = values.nansum(0) / torch.where(n > 0, n, math.nan)
    scores = (values - mean).nan_to_num(0) / torch.where(n > 1, n * (n - 1), math.nan).sqrt()
    noted.folds[name] = fold_scores(scores, torch.arange(len(scores)))
    return mean, scores.mT @ scores


def effective_ranks(
    moments: Sequence[Moments], samples: Sequence[Tensor], documents: Tensor, noted: Noted
) -> tuple[Tensor, Tensor]:
    """Effective rank of all tokens, and its covariance from sampled ones [token, d_model] of these documents [token]."""

    def rank(i: int, _: Callable[[str], None]) -> tuple[Tensor, Tensor]:
        of_site = moments[i]
        if not of_site.vary:
            raise InputError(f"the {of_site.n} tokens all have one state")
        value = effective_rank_of_covariance(of_site.scatter)
        centred = samples[i].double() - of_site.mean.cpu()
        return value, rank_scores(of_site.scatter.cpu() / of_site.n, centred)

    values, scores = noted.each("effective_rank", len(documents), rank)
    noted.folds["effective_rank"] = fold_scores(scores, documents)
    return values, sampled_covariance(scores, documents, moments[0].n)


def anisotropies(directions: Sequence[Directions], tokens: int, noted: Noted) -> tuple[Tensor, Tensor]:
    """Anisotropy of ``tokens`` tokens and its covariance [site, site]."""
    for site, of_site in zip(noted.sites, directions, strict=True):
        directed = int(of_site.counts.sum())
        if directed < tokens:
            noted.note(f"anisotropy: without {counted(tokens - directed, 'state')} of length 0", site)
        if directed < 2:
            noted.note("anisotropy is nan: fewer than two states with a direction", site)
    found = [of_site.anisotropy() for of_site in directions]
    return torch.stack([value for value, _ in found]), of_scores("anisotropy", [scores for _, scores in found], noted)


def of_scores(name: str, scores: Sequence[Tensor], noted: Noted) -> Tensor:
    """Covariance [site, site] of what the groups add to the error of each site [group]."""
    together = torch.stack(list(scores), dim=1)
    noted.folds[name] = fold_scores(together, torch.arange(len(together)))
    return together.mT @ together


def dimensions(samples: Sequence[Tensor], documents: Tensor, noted: Noted) -> tuple[Tensor, Tensor]:
    """TwoNN dimension of sampled tokens [token, d_model] at each site, with its covariance over their documents [token]."""

    def dimension(i: int, note: Callable[[str], None]) -> tuple[Tensor, Tensor]:
        places = different_places(samples[i])
        different = in_double(samples[i])[places]
        if repeats := len(samples[i]) - len(different):
            note(f"two_nn: {repeats} of {len(samples[i])} sampled states repeat others and are left out")
        if len(different) < 3:
            raise InputError(f"it needs at least three different states; there are {len(different)}")
        value = dimension_of_different(different)
        added, scores = dimension_scores(different).cpu(), torch.zeros(len(documents), dtype=torch.float64)
        scores[places.cpu()] = (added - added.mean()) * len(documents) / len(different)
        return value, scores

    values, scores = noted.each("two_nn", len(documents), dimension)
    noted.folds["two_nn"] = fold_scores(scores, documents)
    return values, sampled_covariance(scores, documents, len(documents))


def dataset_entropies(
    means: Sequence[Tensor], order: float, normalise: Normalise, floor: float, noted: Noted
) -> tuple[Tensor, Tensor]:
    """Entropy of the documents' mean states [document, d_model] at each site, and its covariance [site, site].

    Means of states that differ by less than ``floor`` of their length, the ``spread_floor`` of these states, are equal.
    """
    n = len(means[0])
    least = 3 if normalise == "centred" else 2  # with fewer it is 0, whatever they are
    if n < least:
        centred = " where they are centred" if normalise == "centred" else ""
        noted.note(f"dataset_entropy is nan: it needs at least {'three' if least == 3 else 'two'} documents{centred}")
        return noted.nothing(), noted.nothing_paired()
    fold = torch.arange(n) % FOLDS
    folds = min(n, FOLDS) if least < n <= JACKKNIFE_UP_TO else 0
    gram = TextGram(normalise, floor=floor)

    def entropies(sets: Sequence[Tensor]) -> list[list[float]]:
        return [[float(gram.extended(x[fold != left]).entropy(order)) for left in range(-1, folds)] for x in sets]

    values = torch.tensor(dealt("dataset_entropy", means, entropies), dtype=torch.float64).T
    for site, value in zip(noted.sites, values[0].tolist(), strict=True):
        if math.isnan(value):
            noted.note(f"dataset_entropy is nan: the mean states of all {n} documents are equal", site)
    if n > JACKKNIFE_UP_TO and order > 0:
        added = dealt("dataset_entropy", means, lambda sets: [_linear_scores(x, order, normalise, floor) for x in sets])
        scores = torch.stack(added, dim=1)
        noted.folds["dataset_entropy"] = fold_scores(scores, torch.arange(n))
        return values[0], sampled_covariance(scores, torch.arange(n), n)
    left = jackknife_scores(values, torch.bincount(fold)[:folds].double())
    return values[0], of_scores("dataset_entropy", left.unbind(1), noted)


def _linear_scores(means: Tensor, order: float, normalise: Normalise, floor: float) -> Tensor:
    """[document] what each adds to the dataset entropy of many; NaN where none has a direction."""
    rows = directed_rows(in_double(means), normalise, floor)
    return linear_scores(rows, order).cpu() if bool(rows.any()) else torch.full((len(rows),), math.nan, dtype=torch.float64)


def of_views(
    name: str, means: Sequence[Tensor], labels: Sequence[Hashable], floor: float, noted: Noted
) -> tuple[Tensor, Tensor]:
    """LiDAR or InfoNCE of mean states [document, d_model], of documents with a view, another one with their label.

    Their covariance is over labels, which stand for texts: views of one text are not independent. It is from derivatives:
    leaving labels out in folds gives up to four times the spread over corpora where they are few beside d_model. LiDAR has none
    where what varies within texts is known from too few views beyond one a text.

    LiDAR, which knows no scale, is NaN where the means vary by less than ``floor`` of their length.
    """
    views = Counter(labels)
    kept = torch.tensor([views[label] > 1 for label in labels], dtype=torch.bool)
    chosen = [label for label in labels if views[label] > 1]
    if len(chosen) < len(labels):
        noted.note(f"{name}: without {counted(len(labels) - len(chosen), 'document')} whose label no second one has")
    if (n := len(set(chosen))) < 2:
        noted.note(f"{name} is nan: it needs at least two labels with two documents each")
        return noted.nothing(), noted.nothing_paired()

    measured = info_nce_scores if name == "info_nce" else lidar_scores
    if n < 3:
        noted.note(f"{name} has no error: it needs at least three labels")
    told = n > 2 and (name == "info_nce" or _lidar_is_told(len(chosen) - n, n, means[0].shape[1], noted))

    def of_site(i: int, _: Callable[[str], None]) -> tuple[Tensor, Tensor]:
        x = means[i][kept]
        if name != "info_nce" and not means_vary(x, floor):
            raise InputError(f"the mean states of all {len(x)} documents are equal")
        value, added = measured(x, chosen)
        return value, added / math.sqrt(n * (n - 1)) if told else torch.full((n,), math.nan)

    values, scores = noted.each(name, n, of_site)
    return values, of_scores(name, scores.unbind(1), noted)


def _lidar_is_told(free: int, texts: int, d_model: int, noted: Noted) -> bool:
    """Whether the error of LiDAR can be told from so many views beyond one a text, with a note where it cannot, or is rough."""
    if free < _FREE_VIEWS * d_model:
        noted.note(
            "lidar has no error, and hangs on delta: what varies within texts is known from "
            f"{counted(free, 'view')} beyond one a text, of {_FREE_VIEWS * d_model:g} needed for d_model {d_model}"
        )
        return False
    if texts < d_model:
        noted.note(f"lidar: errors may be too wide by a half: {texts} texts, fewer than d_model {d_model}")
    return True
