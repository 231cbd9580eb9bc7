"""What ``layer_geometry`` is asked for: its measures, and options that they use.

Refused: measures that there are not, labels without a measure of them, and options that no measure asked for uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tl_entropy.errors import InputError, InputTypeError, check_choice, is_iterable
from tl_entropy.functional.states.geometry import Normalise
from tl_entropy.results.states.geometry import MEASURES, OF_GRAM, Measure

OF_LABELS = ("lidar", "info_nce")

N_SAMPLES = 2000
"""Tokens that TwoNN, and the error of the effective rank, are measured on, where nothing else is asked for."""


def check_used(
    measures: Sequence[Measure], *, order: float, normalise: Normalise, n_samples: int, n_documents: int | None = None
) -> None:
    """Raise InputError for an option that has no effect on these measures, unless it is left at its default.

    >>> check_used(["curvature"], order=2.0, normalise="centred", n_samples=2000)
    Traceback (most recent call last):
    tl_entropy.errors.InputError: order belongs to prompt_entropy, normalized_prompt_entropy, dataset_entropy; leave it out...
    """
    for name, value, default, owners in (
        ("order", order, 1.0, OF_GRAM),
        ("normalise", normalise, "centred", OF_GRAM),
        ("n_samples", n_samples, N_SAMPLES, ("two_nn", "effective_rank")),
        ("n_documents", n_documents, None, ("dataset_entropy", *OF_LABELS)),
    ):
        if value != default and not {*owners} & {*measures}:
            raise InputError(f"{name} belongs to {', '.join(owners)}; leave it out for {', '.join(measures)}")


def chosen_measures(asked: Any, labels: Any) -> tuple[Measure, ...]:
    """The measures asked for, in the order in which they are listed everywhere."""
    if asked is not None and not is_iterable(asked):
        raise InputTypeError(f"measures must be one or several of {', '.join(MEASURES)}; got {asked!r}")
    names = [asked] if isinstance(asked, str) else list(MEASURES if asked is None else asked)
    for name in names:
        check_choice("measures", name, MEASURES)
    if not names or len(set(names)) < len(names):
        raise InputError(f"measures must hold at least one of {', '.join(MEASURES)}, each once; got {asked!r}")
    wanted = [name for name in OF_LABELS if name in names]
    if labels is None and asked is not None and wanted:
        raise InputError(f"measures: {wanted[0]} compares documents with the same label; give labels, one for each document")
    if labels is not None and not wanted:
        raise InputError(f"labels are for {' and '.join(OF_LABELS)} alone; ask for one of them, or leave labels out")
    return tuple(name for name in MEASURES if name in names and (labels is not None or name not in OF_LABELS))
