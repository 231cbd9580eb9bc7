"""Which runs, models or texts have entropy profiles of one shape: distances between profiles.

A profile is E [token, layer], a ``LensEntropy`` at one Rényi order on the states of the residual stream, in order of depth.
Token entropies are compared as samples, layer by layer (Jensen-Shannon divergence of histograms, Wasserstein-1), or mean curves
as a whole (Euclidean, Fisher-Rao, square-root velocities, plain or elastic). Profiles may differ in tokens, texts, model and
depth. Those of different depth are compared at relative depths from 0 (first site) to 1 (last site), as many as the deeper of
the two has sites; in between, every token's trajectory is taken as linear. This takes the sites as evenly spaced.

Distances of samples are above 0 for two samples of one law, the JSD by much: 0.84 bits with 50 bins at 8 tokens. A
``ProfileDistance`` holds that chance beside its value; for two profiles of the same tokens it is that of pairs.

Source: metrics as in entropy-profiler, whose JSD is in bits (``.to("bits")``) and needs equal depths; elastic distance:
Srivastava and Klassen, Functional and Shape Data Analysis, 2016.

Refused: fewer than two profiles, and what ``profile_reading`` refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import count, pairwise
from typing import cast

import torch
from torch import Tensor

from tl_entropy.analyses.profiles.reading import check_shapes, read_profiles
from tl_entropy.capture.progress import Bar
from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int, check_orders, is_iterable, keeping, printable
from tl_entropy.functional.profiles.chance import histogram_jsd_chance, wasserstein_chance
from tl_entropy.functional.profiles.curves import common_depth, elastic_srvf_distance, histogram_jsd, wasserstein_distance
from tl_entropy.functional.profiles.pairwise import CurveMetric, SampleMetric, pairwise_curves, pairwise_samples
from tl_entropy.results import LensEntropy
from tl_entropy.results.models.contrast import run_names
from tl_entropy.results.profiles.distances import (
    BY_LAYER,
    FEATURES,
    POWERS,
    Aggregate,
    Features,
    Metric,
    PairwiseDistances,
    ProfileDistance,
)
from tl_entropy.torch_state import steady

N_BINS = 50


@steady
def profile_distance(
    a: LensEntropy,
    b: LensEntropy,
    *,
    metric: Metric = "jsd",
    aggregate: Aggregate = "mean",
    order: float | None = None,
    n_bins: int = N_BINS,
) -> ProfileDistance:
    """How far two entropy profiles are from each other.

    Args:
        a: the lens entropy of every position, at states of the residual stream.
        b: another, of the same or another model, text and depth.
        metric: of token entropies at each layer "jsd" or "wasserstein"; of mean curves "fisher_rao", "srvf", "elastic_srvf"
            (needs ``pip install 'tl-entropy[elastic]'``) or "euclidean". See ``results.distances`` for the definitions.
        aggregate: "mean", "max" or "sum" over layers, for "jsd" and "wasserstein".
        order: the Rényi order; None takes the only one, or 1.
        n_bins: for "jsd", bins over the range of both profiles' entropies at a layer.

    Returns:
        ``ProfileDistance``, in nats (√nats, rad), with each layer's value and what of it is chance: over exchanges of a token's
        two entropies where both profiles have the same rows (document, position and token equal), else over all ways of
        dealing the entropies of both.

    Raises:
        InputError: an unknown metric, an option that belongs to another, no tokens, orders or sites that do not match, for
            "fisher_rao" a mean curve that is 0 everywhere.
        NonFiniteError: an entropy that is not finite; the profile ("a" or "b") and the place are named.
        InputTypeError: something that is no ``LensEntropy``, or an order that is not one number.

    >>> import tl_entropy as tle
    >>> model, text = tle.demo_model(), "import os"
    >>> result = tle.lens_entropy(model, text, progress=False)
    >>> profile_distance(result, result, metric="wasserstein").value
    0.0
    """
    over, bins = _options(metric, aggregate, n_bins)
    read, (order,) = read_profiles({"a": a, "b": b}, [order])
    profiles = [profile[0] for profile in read]
    if metric == "fisher_rao":
        check_shapes(dict(zip("ab", profiles, strict=True)))
    paired = all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("document", "position", "token"))
    depths = (profiles[0].shape[1], profiles[1].shape[1])
    one, other = (common_depth(profile, max(depths)) for profile in profiles)
    by_depth = chance = None
    if metric == "jsd":
        by_depth = histogram_jsd(one.T, other.T, n_bins=n_bins)
        chance = histogram_jsd_chance(one.T, other.T, n_bins=n_bins, paired=paired)
    elif metric == "wasserstein":
        by_depth = wasserstein_distance(one.T, other.T)
        chance = wasserstein_chance(one.T, other.T, paired=paired)
    if by_depth is not None:
        value = _over_layers(by_depth, aggregate)
    elif metric == "elastic_srvf":
        value = elastic_srvf_distance(one.mean(0), other.mean(0))
    else:
        value = pairwise_curves(torch.stack([one.mean(0), other.mean(0)]), cast(CurveMetric, metric))[0, 1]
    first, second = _numbered(run_names([a.provenance, b.provenance]))
    return ProfileDistance(
        metric=metric, aggregate=over, value=float(value), by_depth=by_depth, chance=chance, paired=paired, n_bins=bins,
        order=order, names=(first, second), tokens=(a.n_tokens, b.n_tokens), depths=depths, provenance=a.provenance,
        other=b.provenance,
    )  # fmt: skip


@steady
def pairwise_distances(
    results: Mapping[str, LensEntropy] | Sequence[LensEntropy] | LensEntropy,
    *,
    metric: Metric = "jsd",
    aggregate: Aggregate = "mean",
    order: float | Sequence[float] | None = None,
    features: Features = "mean",
    n_bins: int = N_BINS,
    names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    progress: bool = True,
) -> PairwiseDistances:
    """The distances between all pairs of several entropy profiles, each equal to ``profile_distance`` of the two.

    By "jsd" and "wasserstein" short profiles lie far from all others, and from each other, by chance alone, so that clusters of
    profiles with 8 and with 200 tokens are mostly of their lengths. Give profiles of equal numbers of tokens, such as
    ``result.select(positions=slice(0, n))``; the result says where they are not, and ``profile_distance`` has a pair's chance.

    Args:
        results: a mapping from names to lens entropies, a list of them, or a single one, whose documents are the profiles.
        metric: as for ``profile_distance``.
        aggregate: as for ``profile_distance``.
        order: as for ``profile_distance``; or several Rényi orders at once, for "jsd", "wasserstein" and "euclidean": each
            counts as more layers, or as more features.
        features: for "euclidean", what of the mean curves is compared, by the root of the mean over features of squared
            differences: "mean", the curves; "delta", their steps from layer to layer; "bucketed", their means over the first,
            the middle and the last third of depth (at least three sites); "full", the curves and their steps. Of profiles of
            different depth, those of the deeper one's depths.
        n_bins: as for ``profile_distance``.
        names: what to call the profiles of a list, or the documents; None takes the names of the runs, or of the documents.
        groups: what each profile belongs to; None is its model.
        progress: show a progress bar, for "elastic_srvf", which works pair by pair.

    Returns:
        ``PairwiseDistances``, in nats (√nats, rad).

    Raises:
        InputError: fewer than two profiles, names that are equal or not one for each, and as ``profile_distance``.
        NonFiniteError: an entropy that is not finite; the profile and the place are named.
        InputTypeError: something that is no ``LensEntropy``, names or groups that are no list, and as ``profile_distance``.

        What ends it, such as Ctrl-C in the long run of "elastic_srvf", has as its ``partial`` the result with NaN for the pairs
        that were still to come.

    Source: the features are those of entropy-profiler 0.2.1, after Entropy-Lens, arXiv 2502.16570.

    >>> import tl_entropy as tle
    >>> result = tle.lens_entropy(tle.demo_model(), ["import os", "def f(x):"], progress=False)
    >>> pairwise_distances(result, metric="euclidean").names
    ('document 0', 'document 1')
    """
    over, bins = _options(metric, aggregate, n_bins)
    check_choice("features", features, FEATURES)
    if features != "mean" and metric != "euclidean":
        raise InputError(f"features={features!r} belongs to metric='euclidean'; {metric} has its own: leave it out")
    asked = [None] if order is None else check_orders("order", order, different=True)
    if len(asked) > 1 and metric not in (*BY_LAYER, "euclidean"):
        raise InputError(f"order: {metric} compares one curve, and so one order; got {', '.join(f'{o:g}' for o in asked)}")
    if isinstance(results, LensEntropy):
        (whole,), orders = read_profiles({"results": results}, asked)
        found = [results.names.get(d, f"document {d}") for d in results.documents]
        arguments = [f"results ({name})" for name in found]
        profiles = list(whole.split(results.document.unique_consecutive(return_counts=True)[1].tolist(), 1))
        origins = [results.provenance] * len(profiles)
    elif not isinstance(results, Mapping | Sequence):
        raise InputTypeError(f"results must be one LensEntropy, or a mapping or list of them; got {type(results).__name__}")
    else:
        if isinstance(results, Mapping) and names is not None:
            raise InputError("names: the mapping already names the profiles; leave names out")
        by_key = dict(results) if isinstance(results, Mapping) else dict(enumerate(results))
        arguments = [f"results[{key!r}]" for key in by_key]
        profiles, orders = read_profiles(dict(zip(arguments, by_key.values(), strict=True)), asked)
        origins = [item.provenance for item in by_key.values()]
        found = [printable(str(name)) for name in results] if isinstance(results, Mapping) else run_names(origins)
    if len(profiles) < 2:
        raise InputError(f"results: distances need at least two profiles; got {len(profiles)}")
    models = tuple(origin.model for origin in origins)
    called = _numbered(found) if names is None else tuple(map(printable, _one_each("names", names, len(profiles))))
    if len(set(called)) < len(called):
        raise InputError(f"names must all be different; got {', '.join(called)}")
    if metric == "fisher_rao":
        check_shapes(dict(zip(arguments, (profile[0] for profile in profiles), strict=True)))
    depths = tuple(profile.shape[-1] for profile in profiles)
    if features == "bucketed" and max(depths) < 3:
        raise InputError(f"features='bucketed' needs three sites or more, of which it makes thirds; got {max(depths)}")
    whole = torch.full((len(profiles), len(profiles)), torch.nan, dtype=torch.float64).fill_diagonal_(0.0)
    found_by_now = PairwiseDistances(
        distances=whole, names=called, groups=models if groups is None else _one_each("groups", groups, len(profiles)),
        metric=metric, aggregate=over, n_bins=bins, order=orders if len(orders) > 1 else orders[0],
        tokens=tuple(profile.shape[1] for profile in profiles), depths=depths, models=models, provenance=origins[0],
        features=features,
    )  # fmt: skip
    with keeping(lambda _: found_by_now if bool(whole.triu(1).nansum() > 0) else None):
        _fill(whole, profiles, metric, aggregate, features, n_bins, progress)
    return found_by_now


def _options(metric: str, aggregate: str, n_bins: int) -> tuple[str | None, int | None]:
    """What of ``aggregate`` and ``n_bins`` the metric has."""
    check_choice("metric", metric, POWERS)
    check_choice("aggregate", aggregate, ("mean", "max", "sum"))
    n_bins = check_int("n_bins", n_bins, 2)
    if metric not in BY_LAYER and aggregate != "mean":
        raise InputError(f"aggregate={aggregate!r} is over layers, and {metric} compares whole curves; leave it out")
    if metric != "jsd" and n_bins != N_BINS:
        raise InputError(f"n_bins={n_bins} belongs to metric='jsd', which makes histograms; {metric} has none: leave it out")
    return aggregate if metric in BY_LAYER else None, n_bins if metric == "jsd" else None


def _over_layers(values: Tensor, aggregate: str) -> Tensor:
    found: Tensor = values.amax(-1) if aggregate == "max" else getattr(values, aggregate)(-1)
    return found


def _fill(
    whole: Tensor, profiles: Sequence[Tensor], metric: Metric, aggregate: str, features: Features, n_bins: int, progress: bool
) -> None:
    """Into ``whole`` [profile, profile] the distances of profiles [order, token, depth], each on the axis of the deeper one."""
    data = list(profiles) if metric in BY_LAYER else [profile.mean(1) for profile in profiles]
    depths = torch.tensor([profile.shape[-1] for profile in profiles])
    if metric == "elastic_srvf":
        rows, columns = torch.triu_indices(len(data), len(data), 1)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        for i, j in Bar(pairs, total=len(rows), desc="elastic", unit="pair", show=progress):
            depth = max(data[i].shape[-1], data[j].shape[-1])
            whole[i, j] = whole[j, i] = elastic_srvf_distance(common_depth(data[i][0], depth), common_depth(data[j][0], depth))
        return
    for depth in depths.unique().tolist():
        members = (depths <= depth).nonzero()[:, 0]
        here = [common_depth(data[i], depth) for i in members.tolist()]
        if len(here) < 2:
            continue
        if metric in BY_LAYER:  # [token, depth of every order]
            samples = [torch.cat(list(one), 1) for one in here]
            block = _over_layers(pairwise_samples(samples, cast(SampleMetric, metric), n_bins=n_bins), aggregate)
        else:
            curves = torch.stack([_featured(one, features).flatten() for one in here])
            block = pairwise_curves(curves, cast(CurveMetric, metric))
        # Pairs of two shallower profiles have their distance already, on their own axis; those of a deeper one come later.
        deepest = depths[members] == depth
        index = torch.meshgrid(members, members, indexing="ij")
        whole[index] = torch.where(deepest[:, None] | deepest, block, whole[index])


def _featured(curves: Tensor, features: Features) -> Tensor:
    """What is compared of curves [order, depth]: [order, feature]."""
    if features == "mean":
        return curves
    if features == "bucketed":
        depth = curves.shape[-1]
        ends = [0, depth // 3, 2 * depth // 3, depth]
        return torch.stack([curves[:, start:end].mean(1) for start, end in pairwise(ends)], 1)
    steps = curves.diff(dim=1)
    return steps if features == "delta" else torch.cat([curves, steps], 1)


def _numbered(names: Sequence[str]) -> tuple[str, ...]:
    """The names, those that occur more than once with numbers that make them different from all others."""
    taken, found = set(names), []
    for name in names:
        if names.count(name) > 1:
            name = next(free for i in count(1) if (free := f"{name} ({i})") not in taken)
            taken.add(name)
        found.append(name)
    return tuple(found)


def _one_each(argument: str, given: Iterable[str], profiles: int) -> tuple[str, ...]:
    if isinstance(given, Set | Mapping) or not is_iterable(given):
        raise InputTypeError(
            f"{argument} must be {profiles} strings in the order of the profiles, such as a list; got {type(given).__name__}"
        )
    found = (given,) if isinstance(given, str) else tuple(map(str, given))
    if isinstance(given, str) or len(found) != profiles:
        raise InputError(f"{argument} must be {profiles} strings, one for each profile; got {', '.join(found) or 'none'}")
    return found
