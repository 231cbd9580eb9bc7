"""Entropy profiles as points of a plane: a map of their distances.

Principal coordinates (classical scaling) keep the distances as well as a plane can, and say how well; t-SNE and UMAP keep
neighbours alone. Only the former have a unit, and only theirs is changed by ``to``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_entropy.errors import check_choice, counted
from tl_entropy.results.base import PER_NAT, Result, Unit
from tl_entropy.results.profiles.distances import MOST_PRINTED, POWERS, Features, compared, from_the_nearest, of_unequal_lengths
from tl_entropy.results.provenance import Provenance

Method = Literal["pca", "tsne", "umap"]


@dataclass(frozen=True, eq=False, repr=False)
class ProfileEmbedding(Result):
    """Entropy profiles as points of a plane, so that near profiles are near each other.

    Attributes:
        coordinates: [profile, 2] float64. Of "pca", in the unit of the distances (for the jsd, of their roots); of "tsne" and
            "umap", without a unit: there neither the axes nor the distances between far clusters mean anything.
        names: what the profiles are called.
        groups: what each belongs to.
        method: "pca" (principal coordinates), "tsne" or "umap".
        metric: the metric of the distances, as in ``ProfileDistance``.
        aggregate: "mean", "max", "sum" over layers; None for metrics of whole curves.
        order: Rényi order of the entropies, or several.
        tokens: how many tokens each profile has.
        explained: of "pca", each axis's share of all variance (its eigenvalue over the sum of absolute eigenvalues).
        negative: of "pca", the share of negative eigenvalues, which no plane or space can show; 0 for Euclidean distances.
        seed: of the random numbers; None where there are none.
        settings: the method's own settings as they were used.
        provenance: where the first profile comes from.
        unit: "nats" or "bits".
        features: what the distances compare, as in ``PairwiseDistances``.

    >>> import tl_entropy as tle
    >>> lens = tle.lens_entropy(tle.demo_model(), ["import os", "import os, sys", "class A: pass"], progress=False)
    >>> places = tle.profile_embedding(tle.pairwise_distances(lens, metric="euclidean", progress=False), method="pca")
    >>> tuple(places.coordinates.shape)
    (3, 2)
    """

    along = None

    aligned = (("profile", "names", "groups", "tokens"),)

    coordinates: Float[Tensor, "profile 2"]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    method: str
    metric: str
    aggregate: str | None
    order: float | tuple[float, ...]
    tokens: tuple[int, ...]
    explained: tuple[float, float] | None
    negative: float | None
    seed: int | None
    settings: Mapping[str, float]
    provenance: Provenance
    unit: Unit = "nats"
    features: Features = "mean"

    def to(self, unit: Unit) -> Self:
        """The same result in ``"nats"`` or ``"bits"``; only principal coordinates have a unit."""
        check_choice("unit", unit, PER_NAT)
        power = POWERS[self.metric] / (2 if self.metric == "jsd" else 1) if self.method == "pca" else 0.0
        factor = (PER_NAT[unit] / PER_NAT[self.unit]) ** power
        return dataclasses.replace(self, coordinates=self.coordinates * factor, unit=unit)

    @property
    def axis_names(self) -> tuple[str, str]:
        """What to call the two axes, such as "PC 1 (61 %)"."""
        if self.explained is None:
            name = {"tsne": "t-SNE", "umap": "UMAP"}[self.method]
            return f"{name} 1", f"{name} 2"
        first, second = (f"PC {i} ({share:.0%})".replace("%", " %") for i, share in enumerate(self.explained, 1))
        return first, second

    def to_pandas(self) -> pd.DataFrame:
        """One line for each profile: name, group, x, y."""
        x, y = self.coordinates.T.numpy()
        return pd.DataFrame({"name": self.names, "group": self.groups, "x": x, "y": y})

    def _title(self) -> list[str]:
        settings = "".join(f", {name} {value:g}" for name, value in self.settings.items())
        seed = "" if self.seed is None else f", seed {self.seed}"
        of = f"the root of {self.metric}" if self.metric == "jsd" else self.metric
        name = {"pca": "principal coordinates", "tsne": "t-SNE", "umap": "UMAP"}[self.method]
        of += compared(self.features, self.order, None)
        shown = f"{counted(len(self.names), 'profile')}, {name} of {of}{settings}{seed}"
        return [f"ProfileEmbedding: {shown}; {self.provenance.model}"]

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        of_points = torch.cdist(self.coordinates, self.coordinates)
        return "nearest to farthest, on this map", from_the_nearest(self.names, of_points)

    def _table(self) -> pd.DataFrame:
        shown = self.to_pandas().set_index("name").rename(columns=dict(zip("xy", self.axis_names, strict=True)))
        shown.index.name = None
        return shown.head(MOST_PRINTED)

    def _notes(self) -> list[str]:
        notes = [f"{MOST_PRINTED} of {len(self.names)} profiles; to_pandas() has all"] * (len(self.names) > MOST_PRINTED)
        notes += of_unequal_lengths(self.metric, self.tokens)
        if self.negative is None:
            return [*notes, "neither axes nor distances between far clusters mean anything by themselves"]
        if self.negative > 1e-6:
            notes.append(f"{self.negative:.1%} of the eigenvalues are negative: no Euclidean space has these distances")
        return notes
