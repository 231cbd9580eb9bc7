"""Given mean states, which are subtracted before states are assigned: one for each site captured.

Refused: anything but tensors by sites, and sites without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.sites import Site


def checked_centers(centers: Mapping[Site | str, Tensor] | None, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """Given means, of which there is one for each site captured, under the site or its text."""
    if centers is None:
        return {}
    expected = "center must be True, False or a mapping from Site to tensor"
    if not isinstance(centers, Mapping):
        raise InputTypeError(f"{expected}; got {type(centers).__name__}")
    for key, mean in centers.items():
        if not isinstance(mean, Tensor):
            raise InputTypeError(f"{expected}; got {type(mean).__name__} for {key}")
    by_place = {Site.parse(key, "center"): mean for key, mean in centers.items()}
    found = {site: by_place[site] for site in sites if site in by_place}
    missing = [site for site in sites if site not in found]
    if missing:
        raise InputError(
            f"center must have the mean state of every site captured; it lacks {', '.join(map(str, missing))}: give it keys "
            f"such as {missing[0]!r} or '{missing[0]}'; got {', '.join(map(repr, centers)) or 'none'}"
        )
    return found
