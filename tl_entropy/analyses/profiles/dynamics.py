"""Layer dynamics: velocity from layer to layer and distance to the output, from what was measured of one run.

Nothing is read from the model here. What was measured before is turned into measures of how the prediction moves through the
layers, in two families (``results/profiles/dynamics.py``): of the entropies alone ("curve", from a ``LensEntropy``), and of the
whole distributions ("vocabulary", from a ``LayerDivergence``).

Standard errors are over documents: of means, the one of all means here (``functional.statistics``); of distances between
curves, which are no means, the delete-a-group jackknife over folds of documents (Busing, Meijer and van der Leeden 1999).

Refused: results of different runs, rows or sites; sites that are no states of the residual stream, since these have no site
before them; divergences from anything but the output and the site before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tl_entropy.analyses.profiles.reading import one_order
from tl_entropy.errors import InputError, InputTypeError, check_int
from tl_entropy.functional.profiles.chance import histogram_jsd_chance, wasserstein_chance
from tl_entropy.functional.profiles.curves import curve_fisher_rao_distance, histogram_jsd, wasserstein_distance
from tl_entropy.functional.statistics import balanced_folds, jackknife_error
from tl_entropy.results.lens.divergence import LayerDivergence, unit_of
from tl_entropy.results.lens.entropy import LensEntropy
from tl_entropy.results.lens.settling import STREAM_SITES
from tl_entropy.results.models.contrast import run_names
from tl_entropy.results.positions import token_means
from tl_entropy.results.profiles.dynamics import Family, LayerDynamics
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site
from tl_entropy.torch_state import steady

Measured = LensEntropy | LayerDivergence

_CURVE_UNITS = {
    "velocity": "nats", "fisher_rao_velocity": "rad", "distance_to_output": "rad", "jsd_to_output": "nats",
}  # fmt: skip
_BEYOND = 1e-6  # histograms reach so much beyond the range of the entropies, nats


@steady
def layer_dynamics(*results: Measured, order: float | None = None, n_bins: int = 50, folds: int = 20) -> LayerDynamics:
    r"""How far each layer moves the prediction, and how far it still is from the output.

    Every result given adds what can be told from it; ``LayerDynamics`` has the definitions:

    - ``lens_entropy(...)``: the family "curve", of the entropies alone;
    - ``layer_divergence(..., against="previous")``: velocities of the family "vocabulary";
    - ``layer_divergence(..., against="output")``: distances to the output of the family "vocabulary".

    The measures of curves take the last site for the output; let it be the last ``resid_post``.

    Args:
        results: one or several of these, each once, of one run: the same model, lens, interventions, tokens and sites. In
            either unit. All sites are states of the residual stream (embed, resid_pre, resid_mid, resid_post), at least two.
        order: Rényi order of the entropies; None takes the only one measured, or 1.
        n_bins: bins of the histograms of entropies, over [min - 1e-6, max + 1e-6] of all sites together.
        folds: groups of documents that the jackknife leaves out in turn; with fewer documents, one each. The bins of the
            histograms stay those of all tokens.

    Returns:
        ``LayerDynamics``: [quantity, site] values with standard errors, in nats and radians.

    Raises:
        InputError: results of different runs, rows or sites, one kind twice, sites that are no states of the residual stream,
            fewer than two sites, an order that was not measured, or no position.
        InputTypeError: something else than these results, or a summary, which holds no single position; an order that is not
            one number.

    Source: the measures of curves are those of the package entropy-profiler 0.2.1 (``LayerAnalyzer``); deviating from it, the
    velocity of the first site is NaN and not 0, and a JSD is in nats until ``.to("bits")``.

    >>> import tl_entropy as tle
    >>> model, text = tle.demo_model(), "import os\n"
    >>> entropy = tle.lens_entropy(model, text, progress=False)
    >>> steps = tle.layer_divergence(model, text, against="previous", metrics="fisher_rao", progress=False)
    >>> found = layer_dynamics(entropy, steps)
    >>> found.value("distance_to_output")[-1].item()
    0.0
    >>> bool((found.value("fisher_rao_velocity")[1:] == steps.metric("fisher_rao").double().mean(0)).all())
    True
    """
    n_bins = check_int("n_bins", n_bins, 2)
    folds = check_int("folds", folds, 2)
    given = {kind: result.to("nats") for kind, result in _kinds(results).items()}
    sites = _common_sites(given)
    _check_run(given)
    rows: list[_Row] = []
    entropies = given.get("entropy")
    if isinstance(entropies, LensEntropy):
        order = one_order("lens_entropy", entropies, order)
        values = entropies.entropy[:, :, entropies.orders.index(order)].double()
        rows += _curve_rows(values, entropies.document, n_bins, folds)
    elif order is not None:
        raise InputError(
            f"order: got {order}, and none of the results holds entropies; give one of lens_entropy, or leave it out"
        )
    for kind, suffix in (("previous", "velocity"), ("output", "to_output")):
        if isinstance(result := given.get(kind), LayerDivergence):
            for metric in result.metrics:
                mean, se = (_at_the_end(x, len(sites)) for x in token_means(result.metric(metric), result.document))
                rows.append(_Row(f"{metric}_{suffix}", "vocabulary", unit_of(metric, "nats"), mean, se))
    first = next(iter(given.values()))
    return LayerDynamics(
        sites=sites, quantities=tuple(row.quantity for row in rows), families=tuple(row.family for row in rows),
        units=tuple(row.unit for row in rows), values=torch.stack([row.values for row in rows]),
        errors=torch.stack([row.errors for row in rows]),
        chance=torch.stack([torch.full_like(row.values, math.nan) if row.chance is None else row.chance for row in rows]),
        tokens=first.n_tokens, documents=len(first.documents), order=order, n_bins=n_bins,
        provenance=_provenance([result.provenance for result in results], order=order, n_bins=n_bins, folds=folds),
    )  # fmt: skip


class _Row(NamedTuple):
    """One quantity: values, errors and chance are [site]."""

    quantity: str
    family: Family
    unit: str
    values: Tensor
    errors: Tensor
    chance: Tensor | None = None


def _curve_rows(entropy: Tensor, document: Tensor, n_bins: int, folds: int) -> list[_Row]:
    """The family "curve" of ``entropy`` [token, site], nats."""
    limits = (float(entropy.min()) - _BEYOND, float(entropy.max()) + _BEYOND)
    whole = _distances(entropy, limits, n_bins)
    _, index, sizes = document.unique(return_inverse=True, return_counts=True)
    fold = balanced_folds(sizes, folds)[index]
    fold_rows = fold.bincount()
    left_out = [_distances(entropy[fold != i], limits, n_bins) for i in range(len(fold_rows)) if len(fold_rows) > 1]
    errors = jackknife_error(torch.stack([whole, *left_out]), fold_rows)
    by_site = entropy.T.contiguous()
    moved = wasserstein_chance(by_site[1:], by_site[:-1], paired=True)
    apart = histogram_jsd_chance(by_site, by_site[-1].expand_as(by_site), n_bins=n_bins, limits=limits, paired=True)
    chance = {"velocity": _at_the_end(moved, len(by_site)), "jsd_to_output": apart}
    return [
        _Row("entropy", "curve", "nats", *token_means(entropy, document)),
        *(
            _Row(name, "curve", unit, whole[i], errors[i], chance.get(name))
            for i, (name, unit) in enumerate(_CURVE_UNITS.items())
        ),
    ]


def _distances(entropy: Tensor, limits: tuple[float, float], n_bins: int) -> Tensor:
    """[4, site] of ``entropy`` [token, site]: the quantities of ``_CURVE_UNITS``."""
    by_site = entropy.T.contiguous()
    last, sites = by_site[-1].expand_as(by_site), len(by_site)
    return torch.stack(
        [
            _at_the_end(wasserstein_distance(by_site[1:], by_site[:-1]), sites),
            _at_the_end(_fisher_rao(by_site[1:], by_site[:-1]), sites),
            _fisher_rao(by_site, last),
            histogram_jsd(by_site, last, n_bins=n_bins, limits=limits),
        ]
    )


def _fisher_rao(a: Tensor, b: Tensor) -> Tensor:
    """Fisher-Rao distance between rows of ``a`` and ``b``; NaN where one is 0 everywhere, and so has no shape."""
    flat = (a.sum(1) == 0) | (b.sum(1) == 0)
    a, b = (torch.where(flat[:, None], 1.0, x) for x in (a, b))
    return curve_fisher_rao_distance(a, b).masked_fill(flat, math.nan)


def _at_the_end(values: Tensor, sites: int) -> Tensor:
    """``values`` as the last of so many sites, float64; NaN at those before, which have none."""
    return torch.cat([values.new_full((sites - len(values),), math.nan), values]).double()


def _kinds(results: Sequence[Any]) -> dict[str, Measured]:
    """The results by what each says: "entropy", or the divergence from "output" or "previous"."""
    found: dict[str, Measured] = {}
    for result in results:
        if not isinstance(result, Measured):
            raise InputTypeError(
                "results must be a LensEntropy or LayerDivergence, of every position (keep='positions'); "
                f"got {type(result).__name__}"
            )
        kind = "entropy" if isinstance(result, LensEntropy) else result.against
        if kind not in ("entropy", "output", "previous"):
            raise InputError(
                f"results: a divergence against {kind} is no layer dynamics; measure against 'output' or 'previous'"
            )
        if kind in found:
            shown = "results of lens_entropy" if kind == "entropy" else f"divergences against {kind}"
            raise InputError(f"results: there are two {shown}; give one of each kind, and of each run its own layer_dynamics")
        found[kind] = result
    if not found:
        raise InputError("results is empty; give what lens_entropy or layer_divergence returned")
    return found


def _common_sites(given: Mapping[str, Measured]) -> tuple[Site, ...]:
    """The sites that all results are of."""
    by_kind = {kind: _steps(result) if kind == "previous" else result.sites for kind, result in given.items()}
    for kind, sites in by_kind.items():
        if parts := [site for site in sites if site.name not in STREAM_SITES]:
            raise InputError(
                f"results ({_named(kind)}): {parts[0]} is no state of the residual stream, and has no site before it; "
                "keep those that are, such as select(sites=('embed', 'resid_post'))"
            )
    first, sites = next(iter(by_kind.items()))
    for kind, others in by_kind.items():
        if others != sites:
            raise InputError(
                f"sites differ: {_shown(sites)} ({_named(first)}), {_shown(others)} ({_named(kind)}); measure with the same "
                "sites and layers; of all but 'previous' a select(...) will do"
            )
    if len(sites) < 2:
        raise InputError(f"results hold {len(sites)} site; nothing moves from it: give at least two")
    return sites


def _steps(result: Measured) -> tuple[Site, ...]:
    """The sites that a divergence from the site before is of, the first included."""
    asked = result.provenance.settings.get("sites")
    if asked is None:
        raise InputError(
            "results (previous): its provenance does not say which site came before the first; name the sites with "
            "accumulator.compute(settings={'sites': ('embed', 'resid_post.0', ...)})"
        )
    sites = tuple(Site.parse(site) for site in asked)
    if sites[1:] != result.sites:
        raise InputError(
            f"results (previous): it is narrowed to {_shown(result.sites)}, but its steps are those between {_shown(sites)}; "
            "measure with the sites wanted, and don't select"
        )
    return sites


def _check_run(given: Mapping[str, Measured]) -> None:
    """Raise InputError unless all results are of one run of one model, and of the same rows."""
    (first, one), *others = given.items()
    if not one.n_tokens:
        raise InputError("results hold no position to measure")
    names = run_names([result.provenance for result in given.values()])
    if len(set(names)) > 1:
        shown = "; ".join(f"{name} ({_named(kind)})" for kind, name in zip(given, names, strict=True))
        raise InputError(f"results are of different runs: {shown}; measure all of one model with the same settings")
    for kind, other in others:
        for name in ("document", "position", "token"):
            if not torch.equal(getattr(one, name), getattr(other, name)):
                raise InputError(
                    f"{name} differs: the {one.n_tokens} tokens ({_named(first)}) are not the {other.n_tokens} "
                    f"({_named(kind)}); give both the same texts and positions, and where text is generated, generate it once"
                )


def _provenance(origins: Sequence[Provenance], **settings: Any) -> Provenance:
    """Where all came from: the settings in which none differs, and those of the dynamics."""
    merged = {name: value for origin in origins for name, value in origin.settings.items()}
    agreed = {
        name: value for name, value in merged.items()
        if all(origin.settings.get(name, value) == value for origin in origins)
    }  # fmt: skip
    interrupted = any(origin.interrupted for origin in origins)
    return replace(origins[0], settings={**agreed, **settings}, interrupted=interrupted)


def _named(kind: str) -> str:
    return kind if kind == "entropy" else f"against {kind}"


def _shown(sites: Sequence[Site]) -> str:
    return ", ".join(map(str, sites[:6])) + (f", ... ({len(sites)})" if len(sites) > 6 else "")
