"""How far entropy profiles are from each other: one pair, and all pairs. ``embedding.py`` has their map in the plane.

An *entropy profile* is E [token, layer]: the lens entropy of each token at each state of the residual stream. Its distances are
of entropies alone: two layers that are equally uncertain about quite different tokens are at 0.

| metric | definition | unit |
|---|---|---|
| jsd | Jensen-Shannon divergence of the histograms of token entropies, layer by layer | ``unit``, 0 to log 2 |
| wasserstein | Wasserstein-1 between the token entropies, layer by layer | ``unit`` |
| fisher_rao | arccos Σ √(p·q) of the mean curves, each divided by its sum | rad, 0 to π/2 |
| srvf | L2 between the square-root velocities sign(f')·√abs(f') of the mean curves | √``unit`` |
| elastic_srvf | the same, after the warping of depth that brings the curves nearest | √``unit`` |
| euclidean | root of the mean over depth of the squared difference of the mean curves | ``unit`` |

Between all of many profiles, "euclidean" may compare other features of the mean curves: their steps from layer to layer
("delta"), their means over thirds of depth ("bucketed"), or the curves and their steps ("full"). Several Rényi orders count as
more layers by "jsd" and "wasserstein", and as more features by "euclidean".

Clusters are those of agglomerative clustering (scipy). Ward's criterion needs squared distances between points of a Euclidean
space, and is refused where there is none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_entropy.errors import InputError, check_choice, check_int, counted
from tl_entropy.functional.profiles.chance import adjusted_jsd
from tl_entropy.results.base import PER_NAT, Result, Unit
from tl_entropy.results.provenance import Provenance

Metric = Literal["jsd", "wasserstein", "fisher_rao", "srvf", "elastic_srvf", "euclidean"]
Aggregate = Literal["mean", "max", "sum"]
Features = Literal["mean", "delta", "bucketed", "full"]
Linkage = Literal["average", "complete", "single", "weighted", "ward"]

# The power of nats in which each metric comes.
POWERS = {"jsd": 1.0, "wasserstein": 1.0, "fisher_rao": 0.0, "srvf": 0.5, "elastic_srvf": 0.5, "euclidean": 1.0}
BY_LAYER = frozenset({"jsd", "wasserstein"})
"""Metrics with a value at each layer; the others compare whole curves."""
LINKAGES = ("average", "complete", "single", "weighted", "ward")

FEATURES = {
    "mean": "mean curves", "delta": "steps of mean curves", "bucketed": "thirds of mean curves",
    "full": "mean curves and their steps",
}  # fmt: skip

MOST_PRINTED = 12  # profiles
MOST_UNEVEN = 1.5  # times as many tokens as the shortest profile, beyond which a note says what that does to distances


class Scaled:
    """Base of these results, beside ``Result``: values in a power of ``unit``."""

    metric: str
    unit: Unit
    in_units: ClassVar[tuple[str, ...]]

    @property
    def _power(self) -> float:
        return POWERS[self.metric]

    @property
    def value_unit(self) -> str:
        """The unit of the distances: that of the entropies, its root ("√nats") for square-root velocities, or "rad"."""
        return {1.0: self.unit, 0.5: f"√{self.unit}"}.get(self._power, "rad")

    def to(self, unit: Unit) -> Self:
        """The same result in ``"nats"`` or ``"bits"``; square-root velocities change by the root, radians stay."""
        check_choice("unit", unit, PER_NAT)
        factor = (PER_NAT[unit] / PER_NAT[self.unit]) ** self._power
        values = {name: getattr(self, name) for name in self.in_units}
        changed = {name: value * factor for name, value in values.items() if value is not None}
        return dataclasses.replace(self, **{**changed, "unit": unit})  # type: ignore[type-var]


@dataclass(frozen=True, eq=False, repr=False)
class ProfileDistance(Scaled, Result):
    """The distance between two entropy profiles.

    ``chance`` is what two samples of one law would show at these numbers of tokens, and a distance near it says nothing. Where
    both profiles are of the same tokens (``paired``), as of one text before and after an intervention, it is the mean over all
    exchanges of a token's two entropies. Else it is the mean over all ways of dealing the pooled entropies of a layer into two
    samples of these sizes. Either takes tokens as independent; those of running text are less than that, so that chance is
    somewhat more.

    Attributes:
        metric: "jsd", "wasserstein", "fisher_rao", "srvf", "elastic_srvf" or "euclidean".
        aggregate: how layers become one number: "mean", "max", "sum"; None for metrics of whole curves.
        value: the distance, in ``value_unit``.
        by_depth: [depth], the distance at each layer, in ``value_unit``; None for metrics of whole curves.
        chance: [depth], what of it is chance, on average.
        paired: whether both profiles have the same rows (document, position and token), so that chance is that of pairs.
        n_bins: bins of the histograms; None where there are none.
        order: Rényi order of the entropies.
        names: what the two profiles are called.
        tokens: how many tokens each has.
        depths: how many states of the residual stream each has; the deeper one's are the axis of ``by_depth``.
        provenance: where the first comes from.
        other: where the second comes from.
        unit: "nats" or "bits".

    >>> import tl_entropy as tle
    >>> lens = tle.lens_entropy(tle.demo_model(), "import os, sys", progress=False)
    >>> tle.profile_distance(lens, lens, metric="wasserstein").value
    0.0
    """

    aligned = (("depth",),)

    metric: str
    aggregate: str | None
    value: float
    by_depth: Float[Tensor, "depth"] | None
    chance: Float[Tensor, "depth"] | None
    paired: bool
    n_bins: int | None
    order: float
    names: tuple[str, str]
    tokens: tuple[int, int]
    depths: tuple[int, int]
    provenance: Provenance
    other: Provenance
    unit: Unit = "nats"

    in_units = ("value", "by_depth", "chance")

    def adjusted(self) -> Float[Tensor, "depth"]:
        """The JSD of each layer without its chance, log 2 · (value - chance) / (log 2 - chance): [depth] in ``unit``.

        0 on average where only chance is at work, log 2 for laws that share no bin; NaN where samples this small leave nothing
        but chance, and noisy near that. For one number over layers, compare the means of ``by_depth`` and ``chance``.

        Raises:
            InputError: another metric, which has no upper end to scale by.
        """
        if self.metric != "jsd" or self.by_depth is None or self.chance is None:
            raise InputError(
                f"adjusted() is of the jsd, which ends at log 2; this is {self.metric}: read chance beside by_depth"
            )
        factor = PER_NAT[self.unit]
        return adjusted_jsd(self.by_depth / factor, self.chance / factor) * factor

    def to_pandas(self) -> pd.DataFrame:
        """One line for each layer, depth (0 to 1), distance, chance; for metrics of whole curves a single line, distance."""
        if self.by_depth is None or self.chance is None:
            return pd.DataFrame({"distance": [self.value]})
        depth = torch.linspace(0, 1, len(self.by_depth), dtype=torch.float64)
        columns = {"depth": depth, "distance": self.by_depth, "chance": self.chance}
        return pd.DataFrame({name: column.numpy() for name, column in columns.items()})

    def _title(self) -> list[str]:
        over = "" if self.aggregate is None else f", {self.aggregate} over layers"
        lines = [f"ProfileDistance: {self.metric} {self.value:.4g} {self.value_unit}{over}"]
        if self.aggregate is not None and self.chance is not None:
            level = float(getattr(self.chance, self.aggregate)())
            at_least = "at least " if self.aggregate == "max" else ""  # the largest of means lies below the mean largest
            lines[0] += f"; {at_least}{level:.4g} by chance"
        for name, tokens, depth in zip(self.names, self.tokens, self.depths, strict=True):
            lines.append(f"{name}: {counted(tokens, 'token')} x {counted(depth, 'site')}, order {self.order:g}")
        if len(set(self.depths)) > 1:
            lines.append(f"compared at {max(self.depths)} relative depths, linear between the layers of the shallower one")
        return lines

    def _table(self) -> pd.DataFrame | None:
        if self.by_depth is None:
            return None
        shown = self.to_pandas().set_index("depth").map(lambda value: f"{value:.4f}")
        shown.index = pd.Index([f"{depth:.2f}" for depth in shown.index], name="depth")
        return shown.rename(columns={"distance": f"{self.metric} ({self.value_unit})", "chance": f"chance ({self.value_unit})"})

    def _notes(self) -> list[str]:
        if self.paired:
            return ["chance: mean over exchanges within tokens, since both profiles are of the same tokens"]
        return ["chance: mean over independent samples of one law with these numbers of tokens; running text has somewhat more"]


@dataclass(frozen=True, eq=False, repr=False)
class PairwiseDistances(Scaled, Result):
    """The distances between all pairs of several entropy profiles, with their clusters.

    Attributes:
        distances: [profile, profile] float64 in ``value_unit``, symmetric, 0 on the diagonal.
        names: what the profiles are called, all different.
        groups: what each profile belongs to; the model, unless given.
        metric: as in ``ProfileDistance``.
        aggregate: "mean", "max", "sum" over layers; None for metrics of whole curves.
        n_bins: bins of the histograms; None where there are none.
        order: Rényi order of the entropies, or several.
        tokens: how many tokens each profile has.
        depths: how many states of the residual stream each has.
        models: the model of each.
        provenance: where the first profile comes from.
        unit: "nats" or "bits".
        features: of "euclidean", what of the curves is compared: "mean", "delta", "bucketed" or "full".

    >>> import tl_entropy as tle
    >>> lens = tle.lens_entropy(tle.demo_model(), ["import os", "import os, sys"], progress=False)
    >>> distances = tle.pairwise_distances(lens, metric="euclidean", progress=False)
    >>> distances.distances.diagonal().tolist()
    [0.0, 0.0]
    """

    along = None  # profiles in any order

    aligned = (("profile", "names", "groups", "tokens", "depths", "models"),)

    distances: Float[Tensor, "profile profile"]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    metric: str
    aggregate: str | None
    n_bins: int | None
    order: float | tuple[float, ...]
    tokens: tuple[int, ...]
    depths: tuple[int, ...]
    models: tuple[str, ...]
    provenance: Provenance
    unit: Unit = "nats"
    features: Features = "mean"

    in_units = ("distances",)

    def linkage(self, method: Linkage = "average") -> Any:
        """The hierarchical clustering as an array [profile - 1, 4] of ``scipy.cluster.hierarchy``, lower merges first.

        Args:
            method: the distance between two clusters: "average", "complete" or "single" over pairs of their members,
                "weighted" (each half of a cluster counts the same), "ward" (growth of the variance within clusters).

        Raises:
            InputError: an unknown method; pairs without a distance; or "ward" for distances that are not those of points in a
                Euclidean space.
        """
        from scipy.cluster import hierarchy
        from scipy.spatial.distance import squareform

        check_choice("method", method, LINKAGES)
        if bool(self.distances.isnan().any()):
            raise InputError("distances: some pairs have none, as the run was ended before they came; compare the others anew")
        if method == "ward":
            if self.metric not in ("euclidean", "srvf"):
                raise InputError(
                    f"method: 'ward' adds up variances, which {self.metric} distances have none of; use 'average', or the "
                    "metric 'euclidean' or 'srvf'"
                )
            if len(set(self.depths)) > 1:
                raise InputError(
                    "method: 'ward' needs all profiles in one space, and these of different depth are compared pair by pair; "
                    "use 'average'"
                )
        return hierarchy.linkage(squareform(self.distances.numpy(), checks=False), method=method)

    def clusters(self, n: int, method: Linkage = "average") -> tuple[int, ...]:
        """The cluster of each profile, from 0 on in the order of the profiles, when the hierarchy is cut into ``n``.

        Raises:
            InputError: fewer than one cluster, more than there are profiles, or as ``linkage``.
            InputTypeError: ``n`` is no int.
        """
        from scipy.cluster import hierarchy

        n = check_int("n", n, 1, len(self.names))
        return tuple(hierarchy.cut_tree(self.linkage(method), n_clusters=n)[:, 0].tolist())

    def matrix(self) -> pd.DataFrame:
        """The distances with the names of the profiles down and across."""
        return pd.DataFrame(self.distances.numpy(), index=list(self.names), columns=list(self.names))

    def to_pandas(self) -> pd.DataFrame:
        """The long form, one line for each pair: a, b, distance."""
        rows, columns = torch.triu_indices(len(self.names), len(self.names), 1)
        return pd.DataFrame(
            {
                "a": [self.names[i] for i in rows.tolist()],
                "b": [self.names[i] for i in columns.tolist()],
                "distance": self.distances[rows, columns].numpy(),
            }
        )

    def _title(self) -> list[str]:
        over = compared(self.features, self.order, self.aggregate)
        models = ", ".join(dict.fromkeys(self.models))
        return [f"PairwiseDistances: {counted(len(self.names), 'profile')}, {self.metric} ({self.value_unit}){over}; {models}"]

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        return "nearest to farthest", from_the_nearest(self.names, self.distances)

    def _table(self) -> pd.DataFrame:
        shown = self.matrix().iloc[:MOST_PRINTED, :MOST_PRINTED].map(lambda value: f"{value:.4g}")
        if len(self.names) > MOST_PRINTED:
            shown["..."] = "..."
            shown.loc["..."] = "..."
        return shown

    def _notes(self) -> list[str]:
        if self.metric not in BY_LAYER:
            return []
        if notes := of_unequal_lengths(self.metric, self.tokens):
            return notes
        few, many = min(self.tokens), max(self.tokens)
        tokens = counted(few, "token") if few == many else f"{few} to {many} tokens"
        return [f"profiles have {tokens}; equal laws differ, too, and more with fewer tokens: see profile_distance"]


def from_the_nearest(names: Sequence[str], distances: Tensor) -> dict[str, list[float]]:
    """The distances of each profile to the others, rising."""
    others = {name: torch.cat([row[:i], row[i + 1 :]]) for i, (name, row) in enumerate(zip(names, distances, strict=True))}
    return {name: row.sort().values.tolist() for name, row in others.items()}


def compared(features: str, order: float | tuple[float, ...], aggregate: str | None) -> str:
    """What is to be said of what distances compare, where that is not one order's mean curves."""
    several = f"orders {', '.join(f'{o:g}' for o in order)}" if isinstance(order, tuple) else ""
    over = f"{aggregate} over layers{' and orders' if several else ''}" if aggregate else ""
    return "".join(f", {part}" for part in (f"of {FEATURES[features]}" if features != "mean" else "", over, several) if part)


def of_unequal_lengths(metric: str, tokens: Sequence[int]) -> list[str]:
    """What to say of distances between samples of such different sizes that these decide much of them."""
    few, many = min(tokens), max(tokens)
    if metric not in BY_LAYER or many <= MOST_UNEVEN * few:
        return []
    return [
        f"profiles have {few} to {many} tokens, and short ones lie far from the others by chance alone: give equal numbers of "
        f"tokens, such as result.select(positions=slice(0, {few})); profile_distance has the chance of a pair"
    ]
