"""Results of soft entropy and mutual information: every place in the model, label set, number of bins and seed.

Behind each value a result keeps what every fold of documents, and every random anchor, contributes to its error. So every
number that can be built from it, differences between layers and ratios included, has a standard error, and nothing has to be
measured again to get it.

Files of 0.5.0 hold the information corrected for chance, and values with each fold left out. They are read as they were:
``estimator`` is then "chance_adjusted", and what came later is not in them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, SupportsInt

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_entropy.errors import InputError, check_choice, check_int
from tl_entropy.functional.information.chance import MIN_CEILING
from tl_entropy.functional.information.estimates import chance_adjusted, reason_for_nan
from tl_entropy.results.base import PER_NAT, Result, Unit, fields_at, places_of
from tl_entropy.results.information import tables, uncertainty
from tl_entropy.results.information.uncertainty import Part
from tl_entropy.results.positions import site_columns
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Layers, Places, Site

Quantity = Literal[
    "information", "share", "entropy", "efficiency", "plug_in", "null", "ceiling", "regularity", "corrected_ceiling", "lower",
    "fold_jackknife", "chance_adjusted",
]  # fmt: skip
QUANTITIES: dict[str, str] = {
    "information": "I(X;Z)",
    "share": "I(X;Z) / ceiling",
    "entropy": "H(Z)",
    "efficiency": "H(Z) / log bins",
    "plug_in": "plug-in I(X;Z)",
    "null": "plug-in I(X;Z) of shuffled labels",
    "ceiling": "ceiling of plug-in I(X;Z)",
    "regularity": "plug-in I(X;Z) / H(Z)",
    "corrected_ceiling": "ceiling of I(X;Z)",
    "lower": "lower bound of I(X;Z)",
    "fold_jackknife": "fold jackknife of I(X;Z)",
    "chance_adjusted": "chance-adjusted I(X;Z)",
}
"""What a result can be asked for, and what the number is called in tables and figures."""

UNITLESS = ("share", "efficiency", "regularity")
NEW = ("corrected_ceiling", "lower", "fold_jackknife")
"""What a file of 0.5.0 does not hold."""


@dataclass(frozen=True, eq=False, repr=False)
class SoftInformation(Result):
    """Soft entropy H(Z) and information I(X;Z) about every label set, at every place of a model.

    A place is a site, or one head of it; a draw is a set of anchors: a number of bins and a seed. Tensors with the axes
    [left, place, label, draw] have the value at left = 0; then, for every fold of documents, the value less what that fold
    contributes to its error; then, for every anchor, the value less what the anchor contributes. The variance of anything
    computed alike from all of these is the sum of the squares of its distances from that at left = 0.

    Attributes:
        sites: what the place axis means: the site of each place.
        heads: the head of each place; -1 for a site without heads.
        labels: what the label axis means: names of the label sets.
        sides: "input" for n-grams up to a position, "output" for n-grams after it, "other".
        n_bins: what the draw axis means: number of anchors.
        seeds: what the draw axis means: seed of the anchors.
        entropy: [left, place, label, draw] H(Z) of the positions that have the label, in ``unit``.
        plug_in: [left, place, label, draw] I(X;Z) as defined, in ``unit``.
        null: [left, place, label, draw] its mean over all permutations of the labels, in ``unit``.
        ceiling: [left, place, label, draw] the most that it could be, H(Z) - mean H(p_i), in ``unit``.
        temperatures: [place, draw] the temperature of the assignments.
        fold_tokens: [fold, label] positions counted in each fold of documents.
        tokens: [label] positions counted.
        coverage: [label] share of the positions read that are counted for the label.
        classes: [label] number of different labels seen.
        singletons: [label] share of the different labels that were seen once.
        documents: number of documents with a position that is counted.
        provenance: model, settings, corpus, versions.
        dropped: number of positions left out since a state there was zero or not finite.
        information: [left, place, label, draw] I(X;Z), cross-fitted, in ``unit``; NaN where nothing can be said.
        corrected_ceiling: [place, label, draw] the most that it could be, in ``unit``.
        lower: [place, label, draw] a bound that the true information is not below, in expectation, in ``unit``.
        fold_jackknife: [place, label, draw] information by leaving out folds, in ``unit``: its distance from ``information`` is
            what few positions a label cannot settle.
        in_two_folds: [label] share of the positions whose label is in two folds of documents or more.
        one_fold: for label sets that are not n-grams, the labels seen twice or more in one fold of documents alone, the most
            frequent first, 20 at most: what states say about them cannot be told from what they say about the documents.
        label_texts: with ``keep_labels``, the text of every single label of each label set.
        label_counts: [single] how often each was seen, label sets one after the other.
        label_information: [place, single, draw] KL(p̄_x ‖ p̄) of every label seen twice or more, in ``unit``; NaN for others.
        label_corrected: [place, single, draw] the same without the bias of few rows, in ``unit``; NaN for labels in one fold.
        label_se: [place, single, draw] its standard error over documents, in ``unit``.
        label_entropy: [place, single, draw] H(Z given x) of every label seen twice or more, in ``unit``.
        unit: "nats" or "bits".

    >>> import tl_entropy as tle
    >>> texts = ["import os, sys"] * 3
    >>> result = tle.soft_information(tle.demo_model(), texts, labels="token", layers=[0, 5], n_bins=10, progress=False)
    >>> tuple(result.value("information").shape)  # place, label set, draw of anchors
    (3, 1, 1)
    """

    aligned = (("place", "sites", "heads"), ("label", "labels", "sides"), ("draw", "n_bins", "seeds"))

    sites: tuple[Site, ...]
    heads: tuple[int, ...]
    labels: tuple[str, ...]
    sides: tuple[str, ...]
    n_bins: tuple[int, ...]
    seeds: tuple[int, ...]
    entropy: Float[Tensor, "left place label draw"]
    plug_in: Float[Tensor, "left place label draw"]
    null: Float[Tensor, "left place label draw"]
    ceiling: Float[Tensor, "left place label draw"]
    temperatures: Float[Tensor, "place draw"]
    fold_tokens: Float[Tensor, "fold label"]
    tokens: Int[Tensor, "label"]
    coverage: Float[Tensor, "label"]
    classes: Int[Tensor, "label"]
    singletons: Float[Tensor, "label"]
    documents: int
    provenance: Provenance
    dropped: int = 0
    information: Float[Tensor, "left place label draw"] | None = None
    corrected_ceiling: Float[Tensor, "place label draw"] | None = None
    lower: Float[Tensor, "place label draw"] | None = None
    fold_jackknife: Float[Tensor, "place label draw"] | None = None
    in_two_folds: Float[Tensor, "label"] | None = None
    one_fold: tuple[tuple[str, ...], ...] = ()
    label_texts: tuple[tuple[str, ...], ...] = ()
    label_counts: Int[Tensor, "single"] | None = None
    label_information: Float[Tensor, "place single draw"] | None = None
    label_corrected: Float[Tensor, "place single draw"] | None = None
    label_se: Float[Tensor, "place single draw"] | None = None
    label_entropy: Float[Tensor, "place single draw"] | None = None
    unit: Unit = "nats"

    schema: ClassVar[int] = 2
    in_units = (
        "entropy", "plug_in", "null", "ceiling", "information", "corrected_ceiling", "lower", "fold_jackknife",
        "label_information", "label_corrected", "label_se", "label_entropy",
    )  # fmt: skip

    @property
    def estimator(self) -> str:
        """What the information is: "cross_fitted", or "chance_adjusted" in files of 0.5.0."""
        return str(self.provenance.settings.get("estimator", "chance_adjusted"))

    def values(self, of: Quantity = "information") -> Float[Tensor, "left place label draw"]:
        """A quantity of every place, label set and draw, with what folds and anchors contribute to its error.

        "information" is cross-fitted, NaN where nothing can be said; "share" is information / corrected_ceiling;
        "chance_adjusted" is ceiling (plug_in - null) / (ceiling - null), the information of files of 0.5.0; "efficiency" is
        H(Z) / log n_bins; "regularity" is plug-in / H(Z). "lower" and "fold_jackknife" have no error: NaN behind left = 0
        (over corpora of known truth they varied .6 to 1.3 times as much as the information).

        Raises:
            InputError: an unknown quantity, or one that a file of 0.5.0 does not hold.
        """
        check_choice("of", of, QUANTITIES)
        if self.information is None:
            if of in NEW:
                raise InputError(f"of: {of} is not in results of 0.5.0, as this one is; measure again to have it")
            of = "chance_adjusted" if of == "information" else of
        if of in ("entropy", "plug_in", "null", "ceiling", "information"):
            stored: Tensor = getattr(self, of)
            return stored
        if of in NEW:
            value: Tensor = getattr(self, of)
            if of == "corrected_ceiling":  # whose folds and anchors contribute what those of the ceiling do
                return self.ceiling + (value - self.ceiling[0])
            return torch.cat([value[None], torch.full_like(self.ceiling[1:], torch.nan)])
        if of == "regularity":
            return self.plug_in / self.entropy
        if of == "efficiency":
            bins = torch.tensor(self.n_bins, dtype=torch.float64)
            return self.entropy / (bins.log() * PER_NAT[self.unit])
        if of == "share":
            return self.values() / (self.ceiling if self.information is None else self.values("corrected_ceiling"))
        per_nat = PER_NAT[self.unit]
        return chance_adjusted(self.plug_in / per_nat, self.null / per_nat, self.ceiling / per_nat) * per_nat

    def value(self, of: Quantity = "information") -> Float[Tensor, "place label draw"]:
        """A quantity over all documents [place, label, draw]."""
        return self.values(of)[0]

    def error(self, of: Quantity = "information", *, part: Part = "both") -> Float[Tensor, "place label draw"]:
        """Its standard error over documents and over anchors, or one ``part`` of it, as ``error_of`` has it."""
        return self.error_of(self.values(of), part=part)

    def error_of(
        self, values: Float[Tensor, "left place label draw"], *, part: Part = "both"
    ) -> Float[Tensor, "place label draw"]:
        """Standard error of anything computed alike from every entry of ``values(...)`` along the first axis.

        ``result.error_of(result.values()[:, 3:] - result.values()[:, :-3])`` has that of differences between layers.

        Args:
            values: the draws of the result on the last axis, or one value of them all.
            part: "documents", that over folds of documents; "anchors", that over draws of anchors, of each draw: where the
                result has several seeds, by components of variance between them, else by a jackknife over the anchors of
                one; "both", the root of the sum of their squares.

        Returns:
            The error, NaN for one fold of documents (but its "anchors"), and for two anchors of one seed (but their
            "documents"). Files of 0.5.0 have errors over documents alone.

        Raises:
            InputError, InputTypeError: ``values`` has other axes than ``values(...)``; or an unknown part.
        """
        return uncertainty.error_of(self, values, part)

    def mean(self, values: Float[Tensor, "left place label draw"]) -> tuple[Tensor, Tensor, Tensor]:
        """The mean over draws of ``values(...)``, or anything computed alike from it, with its error in two parts.

        Returns:
            Mean, standard error over documents, and over anchors, each [place, label]. Draws of one seed share their anchors;
            between several seeds the error is that of their mean.

        Raises:
            InputError, InputTypeError: ``values`` has other axes than ``values(...)``.
        """
        return uncertainty.mean_of(self, values)

    def select(
        self,
        *,
        sites: Places | None = None,
        layers: Layers | None = None,
        heads: SupportsInt | Iterable[int] | None = None,
        labels: str | Iterable[str] | None = None,
        n_bins: SupportsInt | Iterable[int] | None = None,
        seeds: SupportsInt | Iterable[int] | None = None,
    ) -> Self:
        """The part of the result at the given sites, layers, heads, label sets, bins and seeds.

        Sites and layers are asked for as where they are measured: short names are of every layer, ``layers`` (numbers, negative
        ones from the last layer here, or a slice) restricts them, and "resid_post.3" is one alone. The embedding is taken
        by its name, "embed".

        Raises:
            InputError: something asked for is not in the result; the message lists what is.
        """
        places = site_columns(self.sites, sites, layers)
        places = [places[i] for i in places_of("heads", heads, [self.heads[i] for i in places])]
        chosen, draws = places_of("labels", labels, self.labels), places_of("n_bins", n_bins, self.n_bins)
        draws = [draws[i] for i in places_of("seeds", seeds, [self.seeds[i] for i in draws])]
        at: dict[str, Any] = {"place": places, "label": chosen, "draw": draws}
        if self.label_information is not None:
            parts = [self._classes_of(i) for i in chosen]
            at["single"] = [row for part in parts for row in range(part.start, part.stop)]
        changed: dict[str, Any] = fields_at(self, **at)
        axes = {"sites": places, "heads": places, "labels": chosen, "sides": chosen, "n_bins": draws, "seeds": draws}
        axes |= {name: chosen for name in ("label_texts", "one_fold") if getattr(self, name)}
        changed |= {name: tuple(getattr(self, name)[i] for i in kept) for name, kept in axes.items()}
        return dataclasses.replace(self, **changed)

    def to_pandas(self) -> pd.DataFrame:
        """The long form: one line for each site, layer, head (-1 for none), label set, n_bins and seed.

        Columns: information with its se over documents and anchors and both parts of it, share and its se, entropy and its se,
        efficiency, plug_in and its se, null, ceiling, regularity, corrected_ceiling, lower, fold_jackknife, chance_adjusted,
        tokens, coverage, classes, singletons, in_two_folds, documents, dropped, temperature, and the reason where information
        is NaN. Files of 0.5.0 have fewer.
        """
        later = (*NEW, "chance_adjusted") if self.information is None else ()
        return tables.long_form(self, tuple(of for of in QUANTITIES if of not in later))

    def reason(self, place: int, label: int, draw: int) -> str:
        """Why the information there is NaN; empty where it is a number.

        Raises:
            InputError, InputTypeError: no place, label set or draw of this result has that number.
        """
        axes = {"place": (place, self.sites), "label": (label, self.labels), "draw": (draw, self.seeds)}
        place, label, draw = (check_int(name, at, -len(there), len(there) - 1) for name, (at, there) in axes.items())
        if not bool(self.value()[place, label, draw].isnan()):
            return ""
        ceiling = self.ceiling[0, place, label, draw].item() / PER_NAT[self.unit]
        if self.in_two_folds is not None:
            inside = (self.in_two_folds[label] * self.tokens[label]).item()
            return reason_for_nan(ceiling, inside, int((self.fold_tokens[:, label] > 0).sum())) or "not a number"
        if ceiling <= MIN_CEILING:
            return "the ceiling is 0: all states are assigned alike"
        return "labels too rare: chance alone reaches nearly the ceiling"

    def optimality(self, input: str | None = None, output: str | None = None) -> pd.DataFrame:
        """Complexity I(X;Z), expressivity I(Y;Z) and optimality, their ratio, of an input and an output label set.

        ``plug_in_optimality`` is the ratio of the plug-in values, which nears 1 for rare labels whatever the states are. None
        takes the only label set of that side.

        Returns:
            One line for each site, layer, head, n_bins and seed: complexity, expressivity (in ``unit``), optimality, each with
            its standard error, and plug_in_optimality.
        """
        x, y = (self.labels.index(self.label_on(*asked)) for asked in (("input", input), ("output", output)))
        lines = self.to_pandas()[["site", "layer", "head", "n_bins", "seed", "label"]]
        frame = lines[lines["label"] == self.labels[x]].drop(columns="label").reset_index(drop=True)
        values = self.values()
        complexity, expressivity = values[:, :, [x]], values[:, :, [y]]
        for name, of, j in (
            ("complexity", complexity, x), ("expressivity", expressivity, y), ("optimality", expressivity / complexity, x),
        ):  # fmt: skip
            frame[name] = of[0].flatten().tolist()
            found = uncertainty.jackknifed(self, of, "both", [j]) if self.information is None else self.error_of(of)
            frame[f"{name}_se"] = found.flatten().tolist()
        frame["plug_in_optimality"] = (self.plug_in[0, :, y] / self.plug_in[0, :, x]).flatten().tolist()
        return frame

    def label_table(self, label: str | None = None) -> pd.DataFrame:
        """What the states say about single labels: of every label seen twice or more, how often it was seen and KL(p̄_x ‖ p̄).

        Returns:
            One line for each site, layer, head, n_bins, seed and label text, the most frequent first: text, count, information
            (without the bias of few rows: it may be below 0, and is NaN for labels in one fold of documents) and its standard
            error over documents, plug_in (never negative, and the larger the rarer the label), entropy (H(Z given x)), in
            ``unit``. Files of 0.5.0 have plug_in alone.

        Raises:
            InputError: the result was measured without ``keep_labels=True``.
        """
        if self.label_information is None:
            raise InputError("this result holds no single labels; measure with soft_information(..., keep_labels=True)")
        j = self.labels.index(label) if isinstance(label, str) and label in self.labels else self._only_label(label)
        return tables.single_labels(self, self._classes_of(j), self.label_texts[j])

    def label_on(self, side: Literal["input", "output"], asked: str | None = None) -> str:
        """The label set of a side: the one asked for, or the only one there is.

        Raises:
            InputError: no such side or label set, or several on that side and none named.
        """
        check_choice("side", side, ("input", "output"))
        there = [label for label, s in zip(self.labels, self.sides, strict=True) if s == side]
        if asked is not None:
            check_choice(side, asked, self.labels)
            return asked
        if len(there) != 1:
            raise InputError(f"{side}: name one of the label sets; this result has {', '.join(there) or 'none'} on that side")
        return there[0]

    def _only_label(self, asked: str | None) -> int:
        if asked is not None or len(self.labels) != 1:
            raise InputError(f"label must be one of {', '.join(self.labels)}; got {asked!r}")
        return 0

    def _classes_of(self, label: int) -> slice:
        first = sum(map(len, self.label_texts[:label]))
        return slice(first, first + len(self.label_texts[label]))

    def _title(self) -> list[str]:
        return tables.title_lines(self)

    def _table(self) -> pd.DataFrame:
        return tables.table(self)

    def _notes(self) -> list[str]:
        return tables.notes(self)
