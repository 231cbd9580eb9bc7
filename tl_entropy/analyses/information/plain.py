r"""Soft information of states from anywhere: an accumulator over plain batches, without a model.

    H(Z), I(X;Z), H(Z given x) and all that stands beside them (``functional/information/estimates.py``)

of states that come batch by batch, with labels and documents that nobody knows beforehand. Sums are kept by label and
document, so that documents can be dealt to folds once their sizes are known: the numbers are those of ``soft_information`` on
the same states, where up to 4096 labelled rows are read. Beyond, the sample on which c(n) and errors over anchors are measured
is another one.

Memory grows with the pairs of a label and a document that occur, 8 (n_bins + 2) bytes each. Where that is too much, documents
may be named by folds that they are dealt to by hand, 20 names in all. Without documents every row is dealt to a fold at random,
as is right for rows drawn independently.

Refused: what soft entropy refuses; labels that are neither whole numbers nor strings nor tuples; batches with documents and
without; merging accumulators of other settings.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tl_entropy.analyses.information.keys import in_order, keys_of
from tl_entropy.analyses.saving import SCHEMA, write
from tl_entropy.errors import InputError, check_int
from tl_entropy.functional.information.anchors import Sample, SampledRows
from tl_entropy.functional.information.chance import SAMPLE
from tl_entropy.functional.information.cross_fitting import SoftSums
from tl_entropy.functional.information.mutual import SoftMutualInformation, record
from tl_entropy.functional.information.soft import Invalid, directed_rows, kernel, soft_assignments
from tl_entropy.functional.information.temperature import Calibration
from tl_entropy.functional.probabilities import entropy, extensive
from tl_entropy.functional.statistics import balanced_folds
from tl_entropy.state import decoded, encoded
from tl_entropy.torch_state import Steady

Pair = tuple[Hashable, Hashable]

_FIELDS = (
    "information", "se", "anchors_se", "share", "lower", "fold_jackknife", "in_two_folds", "plug_in", "null", "ceiling",
    "corrected_ceiling", "chance_adjusted", "entropy", "efficiency", "regularity", "rows", "coverage", "singletons",
)  # fmt: skip


class StateInformation(Steady):
    """Soft entropy and information of states that come in batches, about one label set or several.

    Args:
        d: width of the states.
        n_bins: number of anchors m.
        seed: of the anchors.
        anchors: [bin, d] to use instead, of any length; ``n_bins`` and ``seed`` then say nothing.
        temperature: ε to use instead of the calibrated one.
        calibration: how ε follows from d and n_bins: "exact" or "leading_order".
        center: a state [d] to subtract first.
        invalid: "error", or "drop" to leave out rows that are zero or not finite, and count them.
        folds: groups of documents, of about equal size, none of which predicts itself.

    >>> states = StateInformation(64)
    >>> for batch in torch.cat([torch.eye(64)[:2]] * 50).split(30):
    ...     states.update(batch, ["one", "two"] * 15 if len(batch) == 30 else ["one", "two"] * 5)
    >>> found = states.mutual_information()
    >>> found.labels, found.counts.tolist(), round(found.share, 3)
    (('one', 'two'), [50, 50], 1.0)
    """

    def __init__(
        self,
        d: int,
        n_bins: int = 100,
        seed: int = 0,
        *,
        anchors: Tensor | np.ndarray | None = None,
        temperature: float | None = None,
        calibration: Calibration = "exact",
        center: Tensor | None = None,
        invalid: Invalid = "error",
        folds: int = 20,
    ) -> None:
        self.d, self.folds = check_int("d", d, 2), check_int("folds", folds, 2)
        self.anchors, self.temperature = kernel(torch.empty(0, d), n_bins, seed, anchors, temperature, calibration)
        self.center, self.invalid = center, invalid
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.rows = self.dropped = 0
        self._mass = torch.zeros(len(self.anchors), dtype=torch.float64)
        self._sets: dict[str, _Sums] = {}
        self._documents: dict[Hashable, list[int]] = {}  # rows seen, and those with a label
        self._documented: bool | None = None
        self._sample: list[_Sampled] = []
        self._deal = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def update(self, z: Tensor | np.ndarray, labels: Any = None, *, documents: Any = None) -> None:
        """Take in a batch; all or nothing.

        Args:
            z: [row, d] states, of any float dtype.
            labels: [row] whole numbers, strings or tuples, None (or a number below 0, or what is missing in pandas) where a row
                has none; or a mapping from names of label sets to such. One label set without a name is called "labels".
            documents: [row] whole numbers, strings or tuples: which rows belong together, in this batch and in all others.

        Raises:
            InputError: a width, length or state that doesn't fit, or documents where other batches had none.
            InputTypeError: labels or documents of another kind.
            NonFiniteError: a row with a NaN or an infinity.
        """
        rows, kept = directed_rows(z, False if self.center is None else self.center, self.invalid, none=True)
        if rows.shape[1] != self.d:
            raise InputError(f"z must be [row, {self.d}]; got {list(rows.shape)}")
        if self._documented not in (None, documents is not None):
            raise InputError("documents must be given with every batch or with none")
        chosen = kept.nonzero()[:, 0].tolist()
        given = labels if isinstance(labels, Mapping) else {} if labels is None else {"labels": labels}
        named = {str(name): keys_of(f"labels {name!r}", values, len(z), chosen) for name, values in given.items()}
        if documents is None:
            belongs: list[Any] = torch.randint(self.folds, (len(rows),), generator=self._deal).tolist()
        else:
            belongs = keys_of("documents", documents, len(z), chosen)
            if None in belongs:
                raise InputError("documents must have one for every row; got None, or a number below 0")
        p = soft_assignments(rows, self.anchors, self.temperature).cpu()
        doubles = p.double()
        summed = torch.cat([doubles, extensive(doubles)[:, None], torch.ones(len(p), 1, dtype=torch.float64)], dim=1)
        self._documented = documents is not None
        self.rows, self.dropped = self.rows + len(p), self.dropped + len(z) - len(p)
        self._mass = self._mass + doubles.sum(0)
        for name, keys in named.items():
            self._sets.setdefault(name, _Sums(len(self.anchors))).add(keys, belongs, summed)
        limit = self._sample[-1].order if len(self._sample) >= SAMPLE else math.inf
        for i, document in enumerate(belongs):
            seen = self._documents.setdefault(document, [0, 0])
            own = {name: keys[i] for name, keys in named.items() if keys[i] is not None}
            seen[0], seen[1] = seen[0] + 1, seen[1] + bool(own)
            order = zlib.crc32(repr((document, seen[0])).encode())
            if own and order <= limit:
                self._sample.append(_Sampled(order, document, seen[0], p[i].clone(), own))
        self._trim()

    def merge(self, other: StateInformation) -> None:
        """Take in what another has seen, of other documents; any order of merging gives the same.

        Raises:
            InputError: the two have other settings or are one, or one has documents and the other none.
        """
        if other is self:
            raise InputError("cannot merge: an accumulator has seen what it has seen itself; merge it with another one")
        ours, theirs = ((one.temperature, one.folds, one.invalid) for one in (self, other))
        alike = ours == theirs and torch.equal(self.anchors, other.anchors) and torch.equal(self._shift(), other._shift())
        if not alike:
            raise InputError("cannot merge: anchors, temperature, center, invalid and folds must be the same")
        if {self._documented, other._documented} == {True, False}:
            raise InputError("cannot merge: documents must be given with every batch or with none")
        self._documented = other._documented if self._documented is None else self._documented
        self.rows, self.dropped = self.rows + other.rows, self.dropped + other.dropped
        self._mass = self._mass + other._mass
        for name, sums in other._sets.items():
            self._sets.setdefault(name, _Sums(len(self.anchors))).merge(sums)
        for document, (rows, labelled) in other._documents.items():
            seen = self._documents.setdefault(document, [0, 0])
            seen[0], seen[1] = seen[0] + rows, seen[1] + labelled
        self._sample += other._sample
        self._trim()

    def entropy(self) -> float:
        """H(Z) of all rows, in nats, from 0 to log n_bins; NaN before the first."""
        return entropy(self._mass / self.rows).item() if self.rows else math.nan

    def mutual_information(self, name: str | None = None) -> SoftMutualInformation:
        """I(X;Z) about a label set, with bounds, ceilings and errors; of the rows that have a label.

        Its ``labels`` are a tuple, in their own order where they have one. Its ``jackknife``, which needs the rows, is NaN.

        Raises:
            InputError: no such label set, several and none named, or not one row with a label.
        """
        sums = self._named(name)
        labels, label, counts = sums.labels()
        number = {key: i for i, key in enumerate(labels)}
        documents = in_order(self._documents)
        fold = balanced_folds(torch.tensor([self._documents[key][1] for key in documents]), self.folds)
        place = {key: i for i, key in enumerate(documents)}
        folds = int(fold.max()) + 1
        of_pair = fold[torch.tensor([place[document] for _, document in sums.pairs])]
        pair, group = (label * folds + of_pair).unique(return_inverse=True)
        total = torch.zeros(len(pair), sums.table.shape[1], dtype=torch.float64).index_add(0, group, sums.filled())
        chosen = sorted(self._sample, key=lambda row: (place[row.document], row.index, row.rank))
        order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0)).tolist()
        which = next(key for key, value in self._sets.items() if value is sums)
        sample = Sample(
            SampledRows(torch.stack([chosen[i].p for i in order])[:, None]),
            torch.tensor([number.get(chosen[i].labels.get(which), -2) for i in order]),
        )
        return record(
            SoftSums(total[:, None, :-2], total[:, -2:-1], total[:, -1], pair // folds, pair % folds), sample, folds=folds,
            whole=sum(labelled for _, labelled in self._documents.values()) <= SAMPLE, labels=labels, counts=counts,
            n_bins=len(self.anchors), temperature=self.temperature, coverage=int(counts.sum()) / self.rows,
            dropped=self.dropped, jackknife=math.nan,
        )  # fmt: skip

    def conditional_entropy(self, name: str | None = None) -> dict[Hashable, float]:
        """H(Z given x) of every label x of a label set, in nats; the most frequent first."""
        sums = self._named(name)
        labels, label, counts = sums.labels()
        mass = torch.zeros(len(labels), len(self.anchors), dtype=torch.float64).index_add(0, label, sums.filled()[:, :-2])
        values = (extensive(mass) / mass.sum(-1)).tolist()
        return {labels[i]: values[i] for i in counts.argsort(descending=True, stable=True).tolist()}

    def results(self) -> dict[str, float]:
        """H(Z) and its efficiency, and every number of each label set as "quantity/label set"; in nats."""
        found = {
            "entropy": self.entropy(),
            "efficiency": self.entropy() / math.log(len(self.anchors)),
            "rows": float(self.rows),
        }
        for line in self.to_pandas().to_dict("records"):
            found |= {f"{quantity}/{line['label']}": float(line[quantity]) for quantity in _FIELDS}
        return found

    def to_pandas(self) -> pd.DataFrame:
        """One line for each label set, with its numbers in nats, and the reason where there is no information."""
        lines: list[dict[str, Any]] = []
        for name, sums in self._sets.items():
            if sums.pairs:
                of = self.mutual_information(name)
                values, reason = {quantity: float(getattr(of, quantity)) for quantity in _FIELDS}, of.reason
            else:
                values = dict.fromkeys(_FIELDS, math.nan) | {"rows": 0.0, "coverage": 0.0}
                reason = "no row with a label was seen"
            lines.append({"label": name, **values, "reason": reason})
        return pd.DataFrame(lines, columns=["label", *_FIELDS, "reason"])

    def state_dict(self) -> dict[str, Any]:
        """What was seen, as plain tensors, lists and numbers, for ``load_state_dict`` of one with the same settings."""
        return {
            "rows": self.rows, "dropped": self.dropped, "mass": self._mass.clone(), "documented": self._documented,
            "deal": self._deal.get_state(), "documents": [[key, *seen] for key, seen in self._documents.items()],
            "sets": {name: {"pairs": list(s.pairs), "sums": s.filled().clone()} for name, s in self._sets.items()},
            "sample": [[row.order, row.document, row.index, dict(row.labels)] for row in self._sample],
            "sampled": torch.stack([row.p for row in self._sample]) if self._sample else torch.empty(0, len(self.anchors)),
            "anchors": self.anchors.clone(), "temperature": self.temperature,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave, in place of what was seen here.

        Raises:
            InputError: the state is of other anchors or another temperature.
        """
        if not torch.equal(self.anchors, state["anchors"]) or self.temperature != state["temperature"]:
            raise InputError("state must be of the same anchors and temperature; make the accumulator with the same settings")
        self.reset()
        self.rows, self.dropped, self._documented = state["rows"], state["dropped"], state["documented"]
        self._mass = state["mass"].clone()
        self._deal.set_state(state["deal"])
        self._documents = {key: [rows, labelled] for key, rows, labelled in state["documents"]}
        for name, of in state["sets"].items():
            self._sets[name] = _Sums(len(self.anchors))
            self._sets[name].place([label for label, _ in of["pairs"]], [document for _, document in of["pairs"]])
            self._sets[name].table[: len(of["sums"])] = of["sums"]
        rows = zip(state["sample"], state["sampled"], strict=True)
        self._sample = [_Sampled(order, document, index, p.clone(), own) for (order, document, index, own), p in rows]

    def save(self, path: str | Path) -> Path:
        """Write what was seen to one file, which ``load_accumulator`` reads; folders on the way are made.

        Raises:
            SaveError: the folder cannot be written to, or the disk has no room; a file that was there stays as it was.
        """
        own = {"d": self.d, "folds": self.folds, "invalid": self.invalid, "center": self.center}
        return write(path, {"kind": type(self).__name__, "schema": SCHEMA, "own": own, "state": encoded(self.state_dict())})

    @classmethod
    def of_state(cls, content: Mapping[str, Any]) -> Self:
        """From a file's content."""
        found, state = cls.__new__(cls), decoded(content["state"])
        found.anchors, found.temperature = state["anchors"], state["temperature"]
        for name, value in content["own"].items():
            setattr(found, name, value)
        found.reset()
        found.load_state_dict(state)
        return found

    def _shift(self) -> Tensor:
        """What is subtracted from every state [d]."""
        return torch.zeros(self.d) if self.center is None else self.center.cpu()

    def _named(self, name: str | None) -> _Sums:
        there = ", ".join(self._sets) or "none"
        if name is None and len(self._sets) != 1:
            raise InputError(f"name must be one of the label sets, of which there are {there}")
        chosen = next(iter(self._sets)) if name is None else name
        if chosen not in self._sets:
            raise InputError(f"name must be one of the label sets, {there}; got {name!r}")
        if not self._sets[chosen].pairs:
            raise InputError(f"no row with a label of {chosen!r} was seen")
        return self._sets[chosen]

    def _trim(self) -> None:
        """Keep the rows that come first in the order of the sample, which is drawn from what names a row."""
        self._sample.sort(key=lambda row: row.rank)
        del self._sample[SAMPLE:]


class _Sampled:
    """A row of the sample; ``rank`` is where it stands among all.

    Without documents, rows of merged parts have names in common; then it stands by what it is.
    """

    __slots__ = ("document", "index", "labels", "order", "p", "rank")

    def __init__(self, order: int, document: Hashable, index: int, p: Tensor, labels: Mapping[str, Hashable]) -> None:
        self.order, self.document, self.index, self.p, self.labels = order, document, index, p, labels
        self.rank = (order, repr(document), index, p.numpy().tobytes(), repr(sorted(labels.items())))


class _Sums:
    """Σ p, Σ H(p) and the number of rows of every pair of a label and a document, [pair, bin + 2] float64."""

    def __init__(self, bins: int) -> None:
        self.pairs: dict[Pair, int] = {}
        self.table = torch.zeros(16, bins + 2, dtype=torch.float64)

    def place(self, labels: Sequence[Hashable], documents: Sequence[Hashable]) -> Tensor:
        """Where each pair stands; there is room for all then."""
        at = torch.tensor([self.pairs.setdefault(pair, len(self.pairs)) for pair in zip(labels, documents, strict=True)])
        if len(self.pairs) > len(self.table):
            more = max(len(self.pairs), 2 * len(self.table)) - len(self.table)
            self.table = torch.cat([self.table, self.table.new_zeros(more, self.table.shape[1])])
        return at

    def add(self, labels: Sequence[Hashable], documents: Sequence[Hashable], summed: Tensor) -> None:
        """Add rows [row, bin + 2]; those with None for a label have none."""
        known = [i for i, label in enumerate(labels) if label is not None]
        if known:
            at = self.place([labels[i] for i in known], [documents[i] for i in known])
            self.table.index_add_(0, at, summed[torch.tensor(known)])

    def merge(self, other: _Sums) -> None:
        """Add all of another's."""
        if other.pairs:
            at = self.place(*zip(*other.pairs, strict=True))  # which makes room, perhaps in another table
            self.table.index_add_(0, at, other.filled())

    def filled(self) -> Tensor:
        """The rows in use."""
        return self.table[: len(self.pairs)]

    def labels(self) -> tuple[tuple[Hashable, ...], Tensor, Tensor]:
        """The labels, in a fixed order, the number of each pair's [pair], and the rows of each label [label]."""
        labels = in_order({label: None for label, _ in self.pairs})
        number = {key: i for i, key in enumerate(labels)}
        label = torch.tensor([number[key] for key, _ in self.pairs])
        counts = torch.zeros(len(labels), dtype=torch.float64).index_add(0, label, self.filled()[:, -1]).long()
        return tuple(labels), label, counts
