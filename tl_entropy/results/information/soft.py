"""Results of soft entropy and mutual information: every place in the model, label set, number of bins and seed.

A result keeps, beside each value, the values with each fold of documents left out. So every number that can be built from it,
differences between layers and ratios included, has a standard error, and nothing has to be measured again to get it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self, SupportsInt

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_entropy.errors import InputError, check_choice
from tl_entropy.functional.information.estimates import chance_adjusted
from tl_entropy.functional.information.soft import unresolved
from tl_entropy.functional.statistics import jackknife_error
from tl_entropy.results.base import PER_NAT, Result, Unit, fields_at, places_of
from tl_entropy.results.positions import site_columns
from tl_entropy.results.printing import plus_minus, title
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site

Quantity = Literal["information", "share", "entropy", "efficiency", "plug_in", "null", "ceiling", "regularity"]
QUANTITIES: dict[str, str] = {
    "information": "I(X;Z), corrected for chance",
    "share": "I(X;Z) / ceiling",
    "entropy": "H(Z)",
    "efficiency": "H(Z) / log bins",
    "plug_in": "plug-in I(X;Z)",
    "null": "I(X;Z) of shuffled labels",
    "ceiling": "ceiling of I(X;Z)",
    "regularity": "plug-in I(X;Z) / H(Z)",
}
"""What a result can be asked for, and what the number is called in tables and figures."""

UNITLESS = ("share", "efficiency", "regularity")


@dataclass(frozen=True, eq=False, repr=False)
class SoftInformation(Result):
    """Soft entropy H(Z) and information I(X;Z) about every label set, at every place of a model.

    A place is a site, or one head of it; a draw is a set of anchors: a number of bins and a seed. Values with the axes
    [left, place, label, draw] have the value over all documents at left = 0, and at left = 1 + f the one without fold f.

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
        ceiling: [left, place, label, draw] the most that any labels could say, H(Z) - mean H(p_i), in ``unit``.
        temperatures: [place, draw] the temperature of the assignments.
        fold_tokens: [fold, label] positions counted in each fold of documents.
        tokens: [label] positions counted.
        coverage: [label] share of the positions read that are counted for the label.
        classes: [label] number of different labels seen.
        singletons: [label] share of the different labels that were seen once.
        documents: number of documents with a position that is counted.
        dropped: number of positions left out since a state there was zero or not finite.
        label_texts: with ``keep_labels``, the text of every single label of each label set.
        label_counts: [single] how often each was seen, label sets one after the other.
        label_information: [place, single, draw] KL(p̄_x ‖ p̄) of every label seen twice or more, in ``unit``; NaN for others.
        unit: "nats" or "bits".
        provenance: model, settings, corpus, versions.
    """

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
    label_texts: tuple[tuple[str, ...], ...] = ()
    label_counts: Int[Tensor, "single"] | None = None
    label_information: Float[Tensor, "place single draw"] | None = None
    unit: Unit = "nats"

    in_units = ("entropy", "plug_in", "null", "ceiling", "label_information")

    def values(self, of: Quantity = "information") -> Float[Tensor, "left place label draw"]:
        """A quantity of every place, label set and draw: of all documents at left = 0, then with each fold left out.

        "information" is the plug-in value corrected for chance, NaN where labels are too rare to be told from chance; "share"
        is information / ceiling; "efficiency" is H(Z) / log n_bins; "regularity" is plug-in / H(Z). The others are in ``unit``.
        """
        check_choice("of", of, QUANTITIES)
        if of in ("entropy", "plug_in", "null", "ceiling"):
            stored: Tensor = getattr(self, of)
            return stored
        if of == "regularity":
            return self.plug_in / self.entropy
        if of == "efficiency":
            bins = torch.tensor(self.n_bins, dtype=torch.float64)
            return self.entropy / (bins.log() * PER_NAT[self.unit])
        per_nat = PER_NAT[self.unit]
        nats = chance_adjusted(self.plug_in / per_nat, self.null / per_nat, self.ceiling / per_nat)
        return nats / (self.ceiling / per_nat) if of == "share" else nats * per_nat

    def value(self, of: Quantity = "information") -> Float[Tensor, "place label draw"]:
        """A quantity over all documents [place, label, draw]."""
        return self.values(of)[0]

    def error(self, of: Quantity = "information") -> Float[Tensor, "place label draw"]:
        """Its standard error over documents [place, label, draw]; NaN for a single document."""
        return self.error_of(self.values(of))

    def error_of(self, values: Float[Tensor, "left place label draw"]) -> Float[Tensor, "place label draw"]:
        """Standard error over documents of anything computed from ``values(...)`` alike for every left-out fold.

        ``result.error_of(result.values()[:, 3:] - result.values()[:, :-3])`` has that of differences between layers.
        """
        parts = [
            jackknife_error(values[:, :, i], self.fold_tokens[:, min(i, len(self.labels) - 1)]) for i in range(values.shape[2])
        ]
        return torch.stack(parts, dim=1)

    def select(
        self,
        *,
        sites: str | Iterable[str] | None = None,
        layers: SupportsInt | Iterable[int] | None = None,
        heads: SupportsInt | Iterable[int] | None = None,
        labels: str | Iterable[str] | None = None,
        n_bins: SupportsInt | Iterable[int] | None = None,
        seeds: SupportsInt | Iterable[int] | None = None,
    ) -> Self:
        """The part of the result at the given sites, layers (-1 is the embedding), heads, label sets, bins and seeds.

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
        axes |= {"label_texts": chosen} if self.label_texts else {}
        changed |= {name: tuple(getattr(self, name)[i] for i in kept) for name, kept in axes.items()}
        return dataclasses.replace(self, **changed)

    def to_pandas(self) -> pd.DataFrame:
        """The long form: one line for each site, layer, head (-1 for none), label set, n_bins and seed.

        Columns: information and its se, share and its se, entropy and its se, efficiency, plug_in and its se, null, ceiling,
        regularity, tokens, documents, coverage, classes, singletons, dropped, temperature, and the reason where information
        is NaN.
        """
        values = {of: self.value(of) for of in QUANTITIES}  # type: ignore[arg-type]
        errors = {of: self.error(of) for of in ("information", "share", "entropy", "plug_in")}
        lines = []
        for i, (site, head) in enumerate(zip(self.sites, self.heads, strict=True)):
            for j, label in enumerate(self.labels):
                for k, (bins, seed) in enumerate(zip(self.n_bins, self.seeds, strict=True)):
                    line: dict[str, Any] = {"site": site.name, "layer": site.layer, "head": head, "label": label}
                    line |= {"n_bins": bins, "seed": seed}
                    for of, value in values.items():
                        line[of] = value[i, j, k].item()
                        if of in errors:
                            line[f"{of}_se"] = errors[of][i, j, k].item()
                    line |= {name: getattr(self, name)[j].item() for name in ("tokens", "coverage", "classes", "singletons")}
                    line |= {"documents": self.documents, "dropped": self.dropped}
                    line |= {"temperature": self.temperatures[i, k].item()}
                    line["reason"] = unresolved(line["information"], line["ceiling"] / PER_NAT[self.unit])
                    lines.append(line)
        return pd.DataFrame(lines)

    def optimality(self, input: str | None = None, output: str | None = None) -> pd.DataFrame:
        """Complexity I(X;Z), expressivity I(Y;Z) and optimality, their ratio, of an input and an output label set.

        Both are corrected for chance; ``plug_in_optimality`` is the ratio of the plug-in values, which nears 1 for rare labels
        whatever the states are. None takes the only label set of that side.

        Returns:
            One line for each site, layer, head, n_bins and seed: complexity, expressivity (in ``unit``), optimality, each with
            its standard error over documents, and plug_in_optimality.
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
            frame[f"{name}_se"] = jackknife_error(of, self.fold_tokens[:, j]).flatten().tolist()
        frame["plug_in_optimality"] = (self.plug_in[0, :, y] / self.plug_in[0, :, x]).flatten().tolist()
        return frame

    def label_table(self, label: str | None = None) -> pd.DataFrame:
        """What the states say about single labels: KL(p̄_x ‖ p̄) of every label seen twice or more, and how often it was seen.

        These values are not corrected for chance, which adds the more to a label the rarer it is: compare labels that are seen
        about as often.

        Returns:
            One line for each site, layer, head, n_bins, seed and label text: text, count, information (in ``unit``), the most
            frequent first.

        Raises:
            InputError: the result was measured without ``keep_labels=True``.
        """
        if self.label_information is None or self.label_counts is None:
            raise InputError("this result holds no single labels; measure with soft_information(..., keep_labels=True)")
        j = self.labels.index(label) if label in self.labels else self._only_label(label)
        part = self._classes_of(j)
        counts, texts = self.label_counts[part], self.label_texts[j]
        order = torch.argsort(counts, descending=True, stable=True)
        order = order[counts[order] > 1]
        frames = []
        for i, (site, head) in enumerate(zip(self.sites, self.heads, strict=True)):
            for k, (bins, seed) in enumerate(zip(self.n_bins, self.seeds, strict=True)):
                frame = pd.DataFrame({"text": [texts[c] for c in order.tolist()], "count": counts[order].tolist()})
                frame["information"] = self.label_information[i, part, k][order].tolist()
                where = {"site": site.name, "layer": site.layer, "head": head, "n_bins": bins, "seed": seed}
                frames.append(pd.DataFrame({name: [value] * len(frame) for name, value in where.items()}).join(frame))
        return pd.concat(frames, ignore_index=True)

    def label_on(self, side: Literal["input", "output"], asked: str | None = None) -> str:
        """The label set of a side: the one asked for, or the only one there is.

        Raises:
            InputError: no such label set, or several on that side and none named.
        """
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

    def _shown(self) -> list[int]:
        """The places in the table: those without heads, or the first heads where there is nothing else."""
        return [i for i, head in enumerate(self.heads) if head < 0] or list(range(min(len(self.heads), 12)))

    def _table(self) -> pd.DataFrame:
        """Information ± error and H(Z), places by label sets, means over draws."""
        tables = []
        for bins in dict.fromkeys(self.n_bins):
            draws = [k for k, b in enumerate(self.n_bins) if b == bins]
            text = {"H(Z)": plus_minus(*self._means("entropy", 0, draws))}
            for j, label in enumerate(self.labels):
                text[f"I({label};Z)"] = plus_minus(*self._means("information", j, draws))
            text["ceiling"] = [f"{value:.3f}" for value in self._means("ceiling", 0, draws)[0]]
            names = [str(s) if h < 0 else f"{s} head {h}" for s, h in zip(self.sites, self.heads, strict=True)]
            names = [f"{name}, {bins} bins" if len(set(self.n_bins)) > 1 else name for name in names]
            tables.append(pd.DataFrame(text, index=names).iloc[self._shown()])
        return pd.concat(tables)

    def _means(self, of: Quantity, label: int, draws: list[int]) -> tuple[list[float], list[float]]:
        """Means over draws and their errors, by place."""
        values = self.values(of)[..., draws].mean(-1, keepdim=True)
        value, error = values[0, :, label, 0], self.error_of(values)[:, label, 0]
        return value.tolist(), error.tolist()

    def _notes(self) -> list[str]:
        folds = int((self.fold_tokens.sum(1) > 0).sum())
        errors = f" ± standard error over {self.documents} documents"
        if folds < 2:
            errors = f"; one {'document' if self.documents == 1 else 'fold'}, so no standard errors"
        notes = [f"information corrected for chance{errors}"]
        if len(set(self.seeds)) > 1:
            notes[0] += f", means over {len(set(self.seeds))} seeds of anchors, whose spread ± does not hold"
        if not bool((self.fold_tokens == self.fold_tokens[:, :1]).all()):
            notes.append(f"H(Z) and ceiling shown are those of the positions with {self.labels[0]}; others in to_pandas()")
        constant = [name for name in self.provenance.settings.get("constant_in_documents", ()) if name in self.labels]
        if constant:
            notes.append(
                f"{', '.join(constant)}: one label a document, but chance is that of single positions and too low for them; "
                "compare with labels shuffled between documents"
            )
        for j, label in enumerate(self.labels):
            counted = f"{int(self.tokens[j])} positions ({self.coverage[j]:.1%} of those read)"
            notes.append(f"{label}: {counted}, {int(self.classes[j])} labels, {self.singletons[j]:.1%} of them seen once")
        unknown: dict[str, dict[str, None]] = {}  # why a value is NaN, and of which label sets
        value, ceiling = self.value(), self.ceiling[0] / PER_NAT[self.unit]
        for i, j, k in value.isnan().nonzero().tolist():
            unknown.setdefault(unresolved(math.nan, ceiling[i, j, k].item()), {})[self.labels[j]] = None
        notes += [f"nan ({', '.join(labels)}): {why}" for why, labels in unknown.items()]
        hidden = len(self.heads) - len(self._shown())
        if hidden:
            notes.append(f"{hidden} heads not shown: see to_pandas(), select(sites=...), plots.heads()")
        if self.dropped:
            notes.append(f"{self.dropped} positions dropped: a state there was zero or not finite")
        return notes

    def _title(self) -> list[str]:
        axes = f"{len(self.sites)} places x {len(self.labels)} label sets x {len(self.seeds)} draws"
        return [title(self, axes)]
