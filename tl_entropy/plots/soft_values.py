"""What figures of soft information read from a result: values, names of axes, and why some are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tl_entropy.errors import InputError
from tl_entropy.plots.style import named
from tl_entropy.results import SoftInformation
from tl_entropy.results.information.soft import NEW, QUANTITIES, UNITLESS, Quantity
from tl_entropy.results.information.tables import unsure

# The same for all label sets that are counted at the same positions.
ALIKE = ("entropy", "efficiency", "ceiling", "corrected_ceiling")


def results_by_name(results: Any, of: Quantity) -> dict[str, SoftInformation]:
    """Every result under its name, all in one unit unless ``of`` has none."""
    asking = "results: give a mapping, whose keys"
    by_name: dict[str, SoftInformation] = named(results, (SoftInformation,), "soft_information", asking=asking)
    estimators = {result.estimator for result in by_name.values()}
    if of in ("information", "share", *NEW) and len(estimators) > 1:
        raise InputError(
            f"results: their information is not of one estimator ({', '.join(sorted(estimators))}): some are of 0.5.0; measure "
            "these again, or compare of='chance_adjusted', which all have"
        )
    if of not in UNITLESS and len({result.unit for result in by_name.values()}) > 1:
        raise InputError("results are in nats and in bits; bring them to one unit with result.to('bits')")
    return by_name


def means(result: SoftInformation, of: Quantity) -> tuple[np.ndarray, np.ndarray]:
    """A quantity, mean over draws, and the standard error of that mean over documents and anchors: each [place, label]."""
    value, documents, anchors = result.mean(result.values(of))
    return value.numpy(), (documents if result.information is None else torch.hypot(documents, anchors)).numpy()


def no_finding(result: SoftInformation, of: Quantity) -> np.ndarray:
    """[place, label] where the printed table says *unsure* of an information or its share; nowhere of other quantities."""
    flags = unsure(result).numpy()
    return flags if of in ("information", "share") else np.zeros_like(flags)


def axis_name(of: Quantity, unit: str, label: str | None = None) -> str:
    """What an axis says of a quantity; with ``label`` in the place of X.

    >>> axis_name("plug_in", "bits", "token"), axis_name("share", "bits")
    ('Plug-in I(token;Z) (bits)', 'I(X;Z) / ceiling')
    """
    name = QUANTITIES[of].partition(",")[0]
    name = name[0].upper() + name[1:].replace("X", label or "X")
    return name if of in UNITLESS else f"{name} ({unit})"


def reason(result: SoftInformation) -> str:
    """Why there are places without a value."""
    reasons = result.to_pandas()["reason"]
    return "; ".join(dict.fromkeys(reasons[reasons != ""])) or "not a number"


def bound(result: SoftInformation, of: Quantity) -> Quantity:
    """The ceiling that belongs to a quantity: what was found without the bias of few rows has one without it, too."""
    return "ceiling" if of in ("plug_in", "null", "chance_adjusted") or result.information is None else "corrected_ceiling"


def same_for_all(result: SoftInformation, of: Quantity, labels: Sequence[str]) -> bool:
    """Whether a quantity is the same for all the label sets, since they are counted at the same positions."""
    if of not in ALIKE:
        return False
    values = means(result, of)[0][:, [result.labels.index(label) for label in labels]]
    return np.allclose(values, values[:, :1], rtol=1e-9)
