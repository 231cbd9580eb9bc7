"""What a lens is: a map from the residual stream at a site to what the last residual stream would be, before the final norm.

Any function of a site and its rows that gives rows of the same shape will do. None stands for the logit lens, which changes
nothing. A lens that knows what it fits, such as ``TunedLens``, has a method ``check`` as well, which refuses a model or a site
before a pass over a corpus and not in the middle of it; a plain function is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.errors import InputTypeError
from tl_entropy.sites import Site


class Lens(Protocol):
    """Anything that translates rows of the residual stream at a site to rows of the last one."""

    def __call__(self, site: Site, rows: Tensor, /) -> Tensor:
        """``rows`` [rows, d_model] as they came past ``site``, to [rows, d_model] as the final norm takes them."""


@runtime_checkable
class CheckedLens(Protocol):
    """A lens that knows which models and sites it fits."""

    def check(self, adapter: Adapter, sites: Sequence[Site], /) -> None:
        """Raise InputError for a model or a site that the lens does not fit."""


def lens_name(lens: Lens | None) -> str:
    """What to call a lens in a result's provenance: its ``name``, else a function's name, else its type's.

    >>> lens_name(None), lens_name(lambda site, rows: rows)
    ('logit lens', '<lambda>')
    """
    if lens is None:
        return "logit lens"
    names: Any = (getattr(lens, "name", None), getattr(lens, "__name__", None))
    return next((name for name in names if isinstance(name, str) and name), type(lens).__name__)


def check_lens(lens: Lens | None, adapter: Adapter, sites: Sequence[Site]) -> None:
    """Refuse what can be known to be wrong before anything is measured.

    Raises:
        InputTypeError: ``lens`` can't be called.
        InputError: the lens says that it does not fit the model or one of the sites.
    """
    if lens is None:
        return
    if not callable(lens) or isinstance(lens, type):
        raise InputTypeError(
            f"lens must be a function of a site and its rows [rows, d_model], a TunedLens, or None; got {lens!r}"
        )
    if isinstance(lens, CheckedLens):
        lens.check(adapter, sites)
