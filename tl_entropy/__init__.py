"""tl_entropy: information measures on the insides of TransformerLens models.

    >>> import tl_entropy as tle
    >>> result = tle.lens_entropy(tle.demo_model(), tle.demo_texts(1)[0][:400], progress=False)

Names are imported when they are first used, so that ``import tl_entropy`` pulls in neither torch nor matplotlib nor
transformer_lens.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_entropy import functional, plots
    from tl_entropy.analyses.lens import LensAccumulator, lens_entropy
    from tl_entropy.analyses.soft import label_plan, soft_information
    from tl_entropy.analyses.soft_sums import SoftAccumulator
    from tl_entropy.capture.adapter import Adapter
    from tl_entropy.capture.loading import load_model
    from tl_entropy.capture.stream import StreamReport, stream
    from tl_entropy.demo import demo_model, demo_names, demo_texts
    from tl_entropy.errors import FileError, InputError, InputTypeError, ModelError, NonFiniteError, TLEntropyError
    from tl_entropy.labels import LabelPlan, ngram
    from tl_entropy.results import LensEntropy, LensSummary, Provenance, SoftInformation, load
    from tl_entropy.sites import Site

__version__ = "0.2.0"

_HOMES = {
    "tl_entropy.analyses.lens": ("LensAccumulator", "lens_entropy"),
    "tl_entropy.analyses.soft": ("label_plan", "soft_information"),
    "tl_entropy.analyses.soft_sums": ("SoftAccumulator",),
    "tl_entropy.capture.adapter": ("Adapter",),
    "tl_entropy.capture.loading": ("load_model",),
    "tl_entropy.capture.stream": ("StreamReport", "stream"),
    "tl_entropy.demo": ("demo_model", "demo_names", "demo_texts"),
    "tl_entropy.errors": ("FileError", "InputError", "InputTypeError", "ModelError", "NonFiniteError", "TLEntropyError"),
    "tl_entropy.labels": ("LabelPlan", "ngram"),
    "tl_entropy.results": ("LensEntropy", "LensSummary", "Provenance", "SoftInformation", "load"),
    "tl_entropy.sites": ("Site",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ("functional", "plots")

__all__ = [
    "Adapter", "FileError", "InputError", "InputTypeError", "LabelPlan", "LensAccumulator", "LensEntropy", "LensSummary",
    "ModelError", "NonFiniteError", "Provenance", "Site", "SoftAccumulator", "SoftInformation", "StreamReport",
    "TLEntropyError", "demo_model", "demo_names", "demo_texts", "functional", "label_plan", "lens_entropy", "load",
    "load_model", "ngram", "plots", "soft_information", "stream",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"tl_entropy.{name}")
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'tl_entropy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
