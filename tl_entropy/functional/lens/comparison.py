"""Hidden states of several sites -> divergences between their vocabulary distributions, tiled over the vocabulary.

The sites' rows stand side by side in every block, so each tile of the vocabulary has the logits of all sites for some rows, in
the buffers of ``readout.py``, and what compares two sites is summed there (``pairs.py``) beside what describes one. All of
[site, row, vocabulary] is never stored: memory beyond the results is under 64 MB, whatever the number of rows and sites. Both
directions of KL and Fisher-Rao come from the same one pass as the statistics; Jensen-Shannon and total variation take a second
one, because they need normalisers.

Refused: what `vocabulary_statistics` refuses, references that are no site, unknown, repeated or no metrics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int, listed
from tl_entropy.functional.lens.compiling import Compiled
from tl_entropy.functional.lens.readout import Precision, Reader, VocabularyStatistics, join, refuse_rows
from tl_entropy.functional.lens.tiles import in_double
from tl_entropy.functional.pairs import Reference, combine_pairs, mixture_sums, pair_sums, pair_up
from tl_entropy.torch_state import steady

Metric = Literal["kl", "reverse_kl", "jsd", "fisher_rao", "total_variation"]
METRICS: tuple[Metric, ...] = ("kl", "reverse_kl", "jsd", "fisher_rao", "total_variation")
_MIXED = ("jsd", "total_variation")


@dataclass(frozen=True, eq=False)
class VocabularyDivergences:
    """What `vocabulary_divergences` finds.

    Attributes:
        divergences: [site, row, metric] float64, in the sequence of the metrics asked for; with reference="previous" the first
            axis begins at site 1.
        statistics: of the same hidden states, [site, row] where `vocabulary_statistics` has [rows].
        compiled: whether the sums ran as compiled code.
        precision: of the product, "float32" ("float64" for float64 hidden states) or "bfloat16".

    >>> import torch
    >>> from tl_entropy.functional import vocabulary_divergences
    >>> found = vocabulary_divergences(torch.ones(2, 1, 4), torch.eye(4), reference=-1, metrics=("jsd",))
    >>> found.divergences.abs().max().item()  # of two equal rows
    0.0
    """

    divergences: Tensor
    statistics: VocabularyStatistics
    compiled: bool
    precision: str


@steady
def vocabulary_divergences(
    hidden: Tensor,
    unembedding: Tensor,
    *,
    reference: Reference,
    metrics: Sequence[Metric] = ("kl", "jsd", "fisher_rao"),
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    orders: float | Sequence[float] = (1.0,),
    targets: Tensor | None = None,
    top_k: int = 0,
    precision: Precision = "float32",
    compiled: Compiled = None,
) -> VocabularyDivergences:
    """Return how far each site's next-token distributions are from a reference site's, or from those of the site before.

    With r = softmax(logits) at the reference and p at the site, logits as in `vocabulary_statistics`:

    | metric | definition | range |
    |---|---|---|
    | "kl" | KL(r ‖ p) = Σ r·log(r / p), nats lost by taking the site for the reference | 0 to infinity |
    | "reverse_kl" | KL(p ‖ r) | 0 to infinity |
    | "jsd" | Jensen-Shannon (KL(p ‖ m) + KL(r ‖ m)) / 2, m = (p + r) / 2, in nats | 0 to log 2 |
    | "fisher_rao" | 2·arccos Σ √(p·r), in radians | 0 to π |
    | "total_variation" | ½·Σ abs(p - r) | 0 to 1 |

    In float32, Jensen-Shannon, Fisher-Rao and total variation are within 1e-5 for logits with standard deviations of up to 12,
    and KL is within 2e-5 nats up to 4 and 1e-4 at 12, where it is tens of nats: the rounding of the product. Where the two are
    close, a KL below 3e-7 is rounding, while Fisher-Rao resolves 3e-6. Two equal hidden states are at exactly 0.

    Args:
        hidden: [site, row, d_model], after the final norm: the same rows at several sites. float64 stays float64; anything else
            is worked in float32.
        unembedding: W, [d_model, d_vocab], of any floating-point dtype and either memory layout.
        reference: the site (an index that may be negative) that every site is compared with, itself included, or "previous".
        metrics: which divergences, each once. "jsd" and "total_variation" take a second pass over the vocabulary.
        bias: b, [d_vocab]; -inf masks a token.
        scale: multiplies the logits (Granite, Cohere).
        softcap: c in l -> c·tanh(l / c) (Gemma 2).
        orders: Rényi orders of the statistics' entropies, from 0 to infinity.
        targets: [row] or [row, n_targets] int64, the tokens whose surprisal and rank are wanted at every site; negative for
            none.
        top_k: how many of the likeliest tokens to return.
        precision: "float32", or "bfloat16" for rounded factors with float32 sums, as in `vocabulary_statistics`. The factors'
            rounding then shows: for neighbouring sites and logits with standard deviations of 4 (12), KL was within 0.02 (0.15)
            nats, Jensen-Shannon 0.002 (0.005) nats, Fisher-Rao 0.01 (0.03), total variation 0.005 (0.02).
        compiled: True has torch.compile fuse the sums, False does not, "faster" measures both on one tile and takes the faster
            way, None does so for large jobs alone, since compiling takes some 15 s.

    Returns:
        `VocabularyDivergences`, on the device of the input. Not differentiable.

    Raises:
        NonFiniteError: NaN or infinities in ``hidden``, NaN or +inf in the logits, or logits too large for their differences;
            sites and rows are named.
        InputError: shapes that do not fit, no sites (for "previous": fewer than two), a reference that is none of them, no,
            unknown or repeated metrics, and whatever `vocabulary_statistics` refuses.
        InputTypeError: tensors that are not floating-point, targets that are not int64, a reference that is no int, metrics in
            a single string.

    Source: KL to the output as in N. Belrose et al., Eliciting latent predictions from transformers with the tuned lens, 2023;
    the definitions' sources are in `kl_divergence` and its neighbours.

    >>> found = vocabulary_divergences(
    ...     torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]),
    ...     torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]]).clamp(min=-1e4),
    ...     reference=-1,
    ...     metrics=("kl", "jsd", "fisher_rao", "total_variation"),
    ... )
    >>> [[round(value, 6) for value in site] for site in found.divergences[:, 0].tolist()]
    [[10000.0, 0.693147, 3.141593, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """
    if isinstance(metrics, str):
        raise InputTypeError(f"metrics must be a sequence such as ({metrics!r},); got {metrics!r}")
    metrics = listed("metrics", metrics, "names")
    for metric in metrics:
        check_choice("metrics", metric, METRICS)
    if not metrics or len(set(metrics)) < len(metrics):
        raise InputError(f"metrics must hold at least one of {', '.join(METRICS)}, each once; got {list(metrics)}")
    reader = Reader.open(
        hidden,
        unembedding,
        axes=("site", "row", "d_model"),
        bias=bias,
        scale=scale,
        softcap=softcap,
        orders=orders,
        targets=targets,
        top_k=top_k,
        precision=precision,
        compiled=compiled,
    )
    _check_reference(reference, len(hidden))
    comparer = Comparer(reader, reference, tuple(metrics))
    divergences, statistics = [], []
    with torch.no_grad():
        for block in reader.blocks(hidden, targets):
            compared, described = comparer.read(*block)
            divergences.append(compared)
            statistics.append(described)
        whole = join(statistics)
    return VocabularyDivergences(torch.cat(divergences, 1), whole, reader.compiled, reader.precision)


class Comparer:
    """The divergences of one block of rows after another."""

    def __init__(self, reader: Reader, reference: Reference, metrics: tuple[Metric, ...]) -> None:
        self._reader = reader
        self._reference = reference
        self._metrics = metrics
        self._pair_sums, self._mixture_sums = (reader.ways(sums, reference=reference) for sums in (pair_sums, mixture_sums))

    def read(self, hidden: Tensor, targets: Tensor | None, first: int) -> tuple[Tensor, VocabularyStatistics]:
        """Return the divergences [pair, row, metric] and the statistics of these rows, the first of the number ``first``."""
        tiles: list[Tensor] = []

        def observe(logits: Tensor, sums: Tensor) -> None:
            tiles.append(self._pair_sums(logits, sums[0]))

        one_pass = any(metric not in _MIXED for metric in self._metrics)
        statistics, tile_rows = self._reader.read(hidden, targets, first, observe if one_pass else None)
        found: dict[str, Tensor] = {}
        maximum, total = tile_rows[:, 0], tile_rows[:, 1]
        if one_pass:
            pairs = in_double(torch.stack(tiles))
            found |= combine_pairs(pairs, maximum, total, statistics.log_normalizer, self._reference)
        if any(metric in _MIXED for metric in self._metrics):
            found |= self._mixed(hidden, maximum.amax(0), statistics.log_normalizer)
        divergences = torch.stack([found[metric] for metric in self._metrics], -1)
        refuse_rows(
            ~divergences.isfinite().all(-1),
            first,
            "hidden @ unembedding + bias must be small enough for differences of logits; it is not",
            first_site=int(self._reference == "previous"),
        )
        same = torch.eq(*pair_up(hidden, self._reference)).all(-1)
        return divergences.masked_fill(same.to(divergences.device)[..., None], 0.0), statistics

    def _mixed(self, hidden: Tensor, maximum: Tensor, log_normalizer: Tensor) -> dict[str, Tensor]:
        products = self._reader.products
        log_total = (log_normalizer - maximum).to(products.dtype).to(products.device)
        maximum = maximum.to(products.dtype).to(products.device)
        products.begin(hidden)
        tiles = [self._mixture_sums(logits, maximum, log_total) for _, _, logits in products.tiles()]
        js, total_variation = in_double(torch.stack(tiles)).sum(0)
        return {"jsd": js.clamp(0.0, math.log(2)), "total_variation": total_variation.clamp(0.0, 1.0)}


def _check_reference(reference: object, n_sites: int) -> None:
    if isinstance(reference, str):
        check_choice("reference", reference, ("previous",))
        if n_sites < 2:
            raise InputError("reference='previous' needs at least two sites; hidden has one: name a reference")
    else:
        reference = check_int("reference", reference, -n_sites, n_sites - 1)
