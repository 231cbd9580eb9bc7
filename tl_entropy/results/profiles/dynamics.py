"""Layer dynamics: how far each layer moves the prediction, and how far what it says is from the output.

There are two families of measures, and they answer different questions.

- "vocabulary": divergences between the distributions over the vocabulary, token by token, then averaged over tokens.
- "curve": of each site only the entropies of the tokens are kept, and these are compared between sites. Two sites whose
  distributions are permutations of each other are then the same, however far apart they are in the vocabulary.

So "vocabulary" is what a quantity's name means where both families have it. The measures of curves are those of the
literature on entropy profiles; with few tokens they show much that is chance, which the result says beside them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, Self

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from tl_entropy.errors import InputError, check_choice
from tl_entropy.results.base import Result, Unit, chosen_from, in_unit
from tl_entropy.results.printing import over, plus_minus, title
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site

Family = Literal["curve", "vocabulary"]
FAMILIES = ("curve", "vocabulary")

MOST_NAMED = 6  # sites in a note


@dataclass(frozen=True, eq=False, repr=False)
class LayerDynamics(Result):
    """Entropy, velocity and distance to the output at each site, of a run of one model.

    With E [token, site] the entropies, p the lens distribution of a token at a site, p' that at the site before, and r that of
    the model's output:

    | family | quantity | definition | unit, range |
    |---|---|---|---|
    | curve | entropy | mean of E over tokens | ``unit``, from 0 |
    | curve | velocity | Wasserstein-1 between E at the site and at the one before | ``unit``, from 0 |
    | curve | fisher_rao_velocity | arccos Σ √(a·b), a and b these two columns of E, each divided by its sum | rad, 0 to π/2 |
    | curve | distance_to_output | the same between the site and the last site | rad, 0 to π/2 |
    | curve | jsd_to_output | JSD between histograms of E at the site and at the last site | ``unit``, 0 to log 2 |
    | vocabulary | kl_velocity, ... | mean over tokens of KL(p' ‖ p), and of any other metric of ``LayerDivergence`` | its own |
    | vocabulary | kl_to_output, ... | mean over tokens of KL(r ‖ p), and of any other metric | its own |

    The Fisher-Rao distance of the vocabulary is 2·arccos Σ √(p·r), from 0 to π: it has a factor of 2 that the one between
    curves has not.

    Attributes:
        sites: what the second axis means, in order of depth. For the family "curve" the last one stands for the output.
        quantities: what the first axis means; a name may come once in each family.
        families: of each quantity, "curve" or "vocabulary".
        units: of each quantity, "nats", "bits", "rad" or "".
        values: [quantity, site]; NaN at the first site for velocities, as it has no site before it, and for Fisher-Rao
            measures of a curve that is 0 everywhere.
        errors: [quantity, site] standard errors over documents; NaN for a single document.
        chance: [quantity, site] for velocity and jsd_to_output of "curve", what two sites of one law would show with this many
            tokens: the mean over all exchanges of a token's two entropies, tokens taken to be independent. NaN where it does
            not apply.
        tokens: number of positions counted.
        documents: number of documents that they are of.
        order: Rényi order of the entropies; None without the family "curve".
        n_bins: number of bins of the histograms, equal ones over the range of all E.
        unit: "nats" or "bits".
        provenance: model, settings, corpus, versions.

    >>> import tl_entropy as tle
    >>> lens = tle.lens_entropy(tle.demo_model(), "import os, sys", progress=False)
    >>> float(tle.layer_dynamics(lens).value("distance_to_output")[-1])
    0.0
    """

    aligned = (("quantity", "quantities", "families", "units"),)

    sites: tuple[Site, ...]
    quantities: tuple[str, ...]
    families: tuple[Family, ...]
    units: tuple[str, ...]
    values: Float[Tensor, "quantity site"]
    errors: Float[Tensor, "quantity site"]
    chance: Float[Tensor, "quantity site"]
    tokens: int
    documents: int
    order: float | None
    n_bins: int
    provenance: Provenance
    unit: Unit = "nats"

    def value(self, quantity: str, family: Family | None = None) -> Float[Tensor, "site"]:
        """One quantity [site], in its unit; ``family`` None is "vocabulary" where that has it, else "curve".

        Raises:
            InputError: it is not in this result.
        """
        return self.values[self._row(quantity, family)]

    def error(self, quantity: str, family: Family | None = None) -> Float[Tensor, "site"]:
        """Its standard errors over documents [site]; NaN for a single document."""
        return self.errors[self._row(quantity, family)]

    def unit_of(self, quantity: str, family: Family | None = None) -> str:
        """Its unit; empty for total variation."""
        return self.units[self._row(quantity, family)]

    def to(self, unit: Unit) -> Self:
        """The same result in ``"nats"`` or ``"bits"``; radians and total variation stay."""
        factors, units = in_unit(self.units, unit)
        scaled = {name: getattr(self, name) * factors[:, None] for name in ("values", "errors", "chance")}
        return dataclasses.replace(self, units=units, unit=unit, **scaled)

    def main_velocity(self, family: Family | None = None) -> tuple[str, Family]:
        """The velocity that tables and figures take by themselves, and its family.

        It is ``velocity`` of "curve", and of "vocabulary" ``fisher_rao_velocity``, a distance whose sum over layers is the
        length of a path, or else the first that was measured. ``family`` None is "vocabulary" where that has one, else "curve".

        Raises:
            InputError: the family has none.
        """
        for of in self._searched(family):
            there = [name for name, its in zip(self.quantities, self.families, strict=True) if its == of]
            preferred = "velocity" if of == "curve" else "fisher_rao_velocity"
            if found := [name for name in (preferred, *there) if name in there and name.endswith("velocity")]:
                return found[0], of
        raise InputError("family: there is no velocity in it; measure layer_divergence(..., against='previous') as well")

    def importance(self, family: Family | None = None) -> pd.DataFrame:
        """What each layer does, by the measures of one family: one line for each site.

        Args:
            family: "curve" or "vocabulary"; None is "vocabulary" where it is there, else "curve".

        Returns:
            site, layer, entropy (where the result has it), a column for every quantity of the family, and, where there is a
            velocity, ``share``: this site's part of the sum of the family's main velocity over all sites, 0 to 1.

        Raises:
            InputError: a family that is not in this result.
        """
        chosen = next(of for of in self._searched(family) if of in self.families)
        frame = pd.DataFrame({"site": [site.name for site in self.sites], "layer": [site.layer for site in self.sites]})
        for name, its, value in zip(self.quantities, self.families, self.values, strict=True):
            if its == chosen or name == "entropy":
                frame[name] = value.numpy()
        if any(name in frame and name.endswith("velocity") for name in self.quantities):
            velocity = self.value(*self.main_velocity(chosen))
            frame["share"] = (velocity / velocity.nansum()).numpy()
        return frame

    def to_pandas(self) -> pd.DataFrame:
        """The long form: site, layer, family, quantity, unit, value, se, chance."""
        lines = [
            {
                "site": site.name, "layer": site.layer, "family": self.families[i], "quantity": quantity,
                "unit": self.units[i], "value": self.values[i, j].item(), "se": self.errors[i, j].item(),
                "chance": self.chance[i, j].item(),
            }
            for i, quantity in enumerate(self.quantities)
            for j, site in enumerate(self.sites)
        ]  # fmt: skip
        return pd.DataFrame(lines)

    def _searched(self, family: Family | None) -> tuple[Family, ...]:
        """The families that ``family`` stands for, the first choice first."""
        if family is None:
            return ("vocabulary", "curve")
        check_choice("family", family, dict.fromkeys(self.families))
        return (family,)

    def _row(self, quantity: str, family: Family | None) -> int:
        there, searched = list(zip(self.quantities, self.families, strict=True)), self._searched(family)
        chosen_from("quantity", quantity, [name for name, of in there if of in searched])
        return next(there.index((quantity, of)) for of in searched if (quantity, of) in there)

    def _title(self) -> list[str]:
        return [title(self, over(self.tokens, self.documents, site=len(self.sites)))]

    def _table(self) -> pd.DataFrame:
        cells = [
            [text.replace("nan", "") for text in plus_minus(value.tolist(), error.tolist())]
            for value, error in zip(self.values, self.errors, strict=True)
        ]
        heads = pd.MultiIndex.from_tuples(list(zip(self.families, self.quantities, self.units, strict=True)))
        return pd.DataFrame(list(zip(*cells, strict=True)), index=[str(site) for site in self.sites], columns=heads)

    def _notes(self) -> list[str]:
        errors = "± standard error over documents" if self.documents > 1 else "one document, so no standard errors"
        notes = [errors]
        if "curve" in self.families:
            order = "" if self.order == 1 else f" of order {self.order:g}"
            notes.append(f"curve: of the tokens' entropies{order}; the output is {self.sites[-1]}, the last site")
        if "vocabulary" in self.families:
            notes.append("vocabulary: of the distributions over the vocabulary, mean over tokens")
        for i, (quantity, family) in enumerate(zip(self.quantities, self.families, strict=True)):
            if within := (self.chance[i] > self.values[i] / 2).nonzero().flatten().tolist():
                named = ", ".join(str(self.sites[j]) for j in within[:MOST_NAMED]) + ", ..." * (len(within) > MOST_NAMED)
                notes.append(f"{quantity} ({family}): at {named} more than half is what {self.tokens} tokens show by chance")
        return notes
