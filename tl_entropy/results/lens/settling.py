r"""Where the prediction of a token settles: from where on its most probable token, or its whole distribution, is the output's.

With D_l the Jensen-Shannon divergence of layer l to the output, a token settles at the first layer that comes as near as a
threshold g, c = min {l : min_{j ≤ l} D_j ≤ g}, and it is a deep-thinking token where c ≥ ⌈ρ·L⌉ (Chen et al. 2026, arXiv
2602.13517, equations 4 to 6). The running minimum changes nothing about the first layer; without it, c is the first layer from
which on all stay as near as g, as "decided" asks it of the most probable token.

The paper does not say its unit. Its figure 3 has divergences up to 0.96, which in nats cannot be (log 2 is 0.69), so bits are
meant. Its text has layers from ⌈ρ·L⌉, its algorithm 1 from ⌈(1 - ρ)·L⌉; text and results (ρ = 0.85) agree with the former.

Refused: divergences to anything but the output, thresholds that every divergence is below, layers that were not measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_entropy.errors import InputError, check_choice, check_number
from tl_entropy.functional.statistics import document_sums
from tl_entropy.results.base import PER_NAT, Unit
from tl_entropy.results.positions import token_means
from tl_entropy.sites import Site
from tl_entropy.torch_state import Steady

STREAM_SITES = frozenset({"embed", "resid_pre", "resid_mid", "resid_post"})
"""Sites that are states of the residual stream, one after the other, and not parts written into it."""

Deep = Literal["rho", "1 - rho"]
"""From which share of the depth on a token is deep: as the paper's text has it, or its algorithm."""

_OUTPUT = 1e-6  # nats; of the last layer to the output, which it is


class Settling(Steady):
    """Of results with a divergence and an agreement at every row and site: where each row settles."""

    divergence: Float[Tensor, "row site metric"]
    agreement: Bool[Tensor, "row site"]
    document: Int[Tensor, "row"]
    sites: tuple[Site, ...]
    metrics: tuple[str, ...]
    against: str
    unit: Unit

    def decided(self) -> Tensor:
        """[row] int64: the column of ``sites`` at which the position is decided; ``len(sites)`` where it never is.

        That is the first site of the residual stream from which the most probable token is, there and at all later sites of
        the stream, that of the model's own output.

        Raises:
            InputError: no site here is a state of the residual stream.
        """
        stream = stream_columns(self.sites)
        return _columns(stream, len(self.sites))[first_to_stay(self.agreement[:, stream])]

    def decided_sites(self) -> list[Site | None]:
        """For each row the site at which the position is decided, as ``decided()`` counts it; None where it never is.

        Raises:
            InputError: no site here is a state of the residual stream.
        """
        return _named(self.sites, self.decided())

    def settled(self, threshold: float = 0.5, *, unit: Unit, running_minimum: bool = True) -> Tensor:
        """[row] int64: the column of ``sites`` at which the position settles; ``len(sites)`` where it never does.

        That is the first site of the residual stream whose Jensen-Shannon divergence to the output is at most ``threshold``.

        Args:
            threshold: g, at least 0 and below log 2, which no divergence exceeds.
            unit: that of ``threshold``, whatever that of the result: the numbers depend on it, so it has to be said.
            running_minimum: what counts is the smallest divergence so far, as in the paper: a position settles once. False is
                the first site from which on the divergence stays at or below the threshold.

        Raises:
            InputError: no Jensen-Shannon divergence to the output here, no state of the residual stream, or such a threshold.

        Source: Chen et al. 2026, Think Deep, Not Just Long, arXiv 2602.13517, equations 4 and 5 (their g is 0.5).

        >>> import tl_entropy as tle
        >>> result = tle.layer_divergence(tle.demo_model(), "import os, sys", metrics="jsd", progress=False)
        >>> result.settled(0.5, unit="bits").tolist(), result.settled(0.5, unit="nats").tolist()
        ([5, 4, 5, 4], [1, 1, 4, 3])
        """
        near, stream = self._near(threshold, unit), stream_columns(self.sites)
        first = first_to_stay(near.long().cummax(1).values if running_minimum else near)
        return _columns(stream, len(self.sites))[first]

    def settled_sites(self, threshold: float = 0.5, *, unit: Unit, running_minimum: bool = True) -> list[Site | None]:
        """For each row the site at which the position settles, as ``settled`` counts it; None where it never does.

        Raises:
            InputError: as ``settled``.
        """
        return _named(self.sites, self.settled(threshold, unit=unit, running_minimum=running_minimum))

    def deep_thinking_ratio(
        self,
        rho: float = 0.85,
        *,
        threshold: float = 0.5,
        unit: Unit,
        running_minimum: bool = True,
        deep: Deep = "rho",
        by: Literal["document"] | None = None,
    ) -> pd.DataFrame:
        """Share of the positions that settle late: at layer ⌈ρ·L⌉ or after it, where L layers are counted from 1.

        The state after block l is layer l + 1; the embedding, where it was measured, is layer 0. (The paper's are layers 1 to
        L: measure ``sites="resid_post"`` for a token that is near the output at the embedding and not after it.)

        Args:
            rho: ρ, above 0 and at most 1.
            threshold: as in ``settled``.
            unit: that of ``threshold``.
            running_minimum: as in ``settled``.
            deep: "rho" has layers from ⌈ρ·L⌉ on, as the paper's text; "1 - rho" from ⌈(1 - ρ)·L⌉ on, as its algorithm 1.
            by: "document" gives a line for each, such as an answer.

        Returns:
            One line: ratio, se (over documents), tokens, documents, first_deep (layer, counted from 1); by document: document,
            ratio, tokens, first_deep.

        Raises:
            InputError: as ``settled``; layers that were not measured; a last layer that is not the output; no rows.

        Source: Chen et al. 2026, arXiv 2602.13517, equation 6 and algorithm 1.

        >>> import tl_entropy as tle
        >>> texts = [text[:600] for text in tle.demo_texts(2)]
        >>> result = tle.layer_divergence(tle.demo_model(), texts, metrics="jsd", progress=False)
        >>> found = {unit: result.deep_thinking_ratio(0.85, unit=unit)["ratio"].item() for unit in ("nats", "bits")}
        >>> {unit: round(ratio, 3) for unit, ratio in found.items()}  # g = 0.5; of the whole two texts it is .043 and .168
        {'nats': 0.046, 'bits': 0.132}
        """
        check_choice("by", by, (None, "document"))
        column = self.settled(threshold, unit=unit, running_minimum=running_minimum)
        first, before = deep_columns(self.sites, rho, deep)
        last = self.sites.index(max(site for site in self.sites if site.name == "resid_post"))
        if len(column) and float(self._jsd()[:, last].max()) > _OUTPUT:
            raise InputError(
                f"deep_thinking_ratio: {self.sites[last]} is not the model's output here, so layers behind it are missing, or "
                "the lens changes it; measure all layers"
            )
        late = ~torch.isin(column, torch.tensor(before, dtype=torch.long))
        if by == "document":
            documents, sums, tokens = document_sums(late.double(), self.document)
            shares = {"document": documents, "ratio": sums / tokens, "tokens": tokens.long()}
            return pd.DataFrame({name: value.numpy() for name, value in shares.items()}).assign(first_deep=first)
        mean, se = token_means(late.double(), self.document)
        counts = len(column), len(self.document.unique())
        return ratio_line(mean, se, *counts, first)

    def settled_profile(self, threshold: float = 0.5, *, unit: Unit, running_minimum: bool = True) -> pd.DataFrame:
        """Share of the positions that have settled by each site of the residual stream, with errors over documents.

        Args:
            threshold: as in ``settled``.
            unit: that of ``threshold``.
            running_minimum: as in ``settled``.

        Returns:
            One line for each such site: site, layer, mean, se, tokens, documents.

        Raises:
            InputError: as ``settled``, or no rows.
        """
        column, stream = self.settled(threshold, unit=unit, running_minimum=running_minimum), stream_columns(self.sites)
        mean, se = token_means((torch.tensor(stream) >= column[:, None]).double(), self.document)
        places = {"site": [self.sites[i].name for i in stream], "layer": [self.sites[i].layer for i in stream]}
        counts = {"tokens": len(column), "documents": len(self.document.unique())}
        return pd.DataFrame({**places, "mean": mean.tolist(), "se": se.tolist(), **counts})

    def _jsd(self) -> Tensor:
        """[row, site] of Jensen-Shannon divergences to the output, in nats."""
        if self.against != "output" or "jsd" not in self.metrics:
            raise InputError(
                f"settled: this result has {', '.join(self.metrics)} against {self.against}, and what is asked for are "
                "Jensen-Shannon divergences from the output; measure layer_divergence(..., metrics='jsd')"
            )
        return self.divergence[:, :, self.metrics.index("jsd")].double() / PER_NAT[self.unit]

    def _near(self, threshold: float, unit: Unit) -> Tensor:
        """[row, state of the stream]: whether the divergence is at most the threshold."""
        return near(self._jsd()[:, stream_columns(self.sites)], threshold, unit)


def near(jsd: Tensor, threshold: float, unit: Unit) -> Tensor:
    """Whether divergences in nats are at most a threshold in its unit.

    Raises:
        InputError: a threshold that is no number from 0 to below log 2, or an unknown unit.

    >>> near(torch.tensor([0.3, 0.4]), 0.5, "bits").tolist()
    [True, False]
    """
    check_choice("unit", unit, PER_NAT)
    most = math.log(2) * PER_NAT[unit]
    threshold = check_number("threshold", threshold)
    if not 0 <= threshold < most:
        raise InputError(
            f"threshold must be from 0 to below log 2, which no Jensen-Shannon divergence exceeds ({most:.3g} {unit}); got "
            f"{threshold:g} {unit}"
        )
    return jsd <= threshold / PER_NAT[unit]


def deep_columns(sites: Sequence[Site], rho: float, deep: Deep) -> tuple[int, list[int]]:
    """The first deep layer, counted from 1, and where in ``sites`` the states of the stream before it are.

    Raises:
        InputError: no share of the depth, or a block whose state is missing.

    >>> deep_columns([Site("embed", -1), Site("resid_post", 0), Site("resid_post", 1)], 0.85, "rho")
    (2, [0, 1])
    """
    check_choice("deep", deep, ("rho", "1 - rho"))
    rho = check_number("rho", rho)
    if not 0 < rho <= 1:
        raise InputError(f"rho must be a share of the depth, above 0 and at most 1; got {rho:g}")
    blocks = sorted(site.layer for site in sites if site.name == "resid_post")
    if not blocks or blocks != list(range(len(blocks))):
        raise InputError(
            f"deep_thinking_ratio: the state after every block has to be measured, and there is resid_post of layers "
            f"{', '.join(map(str, blocks)) or 'none'} here; measure sites='resid_post' at all layers"
        )
    # A share such as 0.85 has no exact binary form: 0.85 of 20 layers is 17, and not a rounding above it.
    share = rho if deep == "rho" else 1 - rho
    first = max(1, math.ceil(round(share * len(blocks), 9)))
    inside = {"resid_pre": 0, "resid_mid": 1, "resid_post": 1, "embed": 1}
    return first, [i for i in stream_columns(sites) if sites[i].layer + inside[sites[i].name] < first]


def ratio_line(mean: Tensor, se: Tensor, tokens: int, documents: int, first: int) -> pd.DataFrame:
    """The line of a deep-thinking ratio."""
    line = {"ratio": mean.item(), "se": se.item(), "tokens": tokens, "documents": documents, "first_deep": first}
    return pd.DataFrame([line])


def stream_columns(sites: Sequence[Site], *, required: bool = True) -> list[int]:
    """Where in ``sites`` the states of the residual stream are.

    Raises:
        InputError: nowhere, and one is required.
    """
    found = [i for i, site in enumerate(sites) if site.name in STREAM_SITES]
    if required and not found:
        raise InputError(f"decided: none of the sites is a state of the residual stream ({', '.join(sorted(STREAM_SITES))})")
    return found


def first_to_stay(holds: Tensor) -> Tensor:
    """For each row of ``holds`` [row, site] the first site from which on it holds; the number of sites where it never does.

    >>> first_to_stay(torch.tensor([[True, False, True, True], [True, True, True, False]])).tolist()
    [2, 4]
    """
    stays = holds.flip(1).long().cumprod(1).sum(1)
    return holds.shape[1] - stays


def _columns(stream: Sequence[int], n_sites: int) -> Tensor:
    """[place in the stream] where in the sites each is; last, what stands for never."""
    return torch.tensor([*stream, n_sites])


def _named(sites: Sequence[Any], column: Tensor) -> list[Site | None]:
    places = (*sites, None)
    return [places[i] for i in column.tolist()]
