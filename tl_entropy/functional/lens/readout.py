"""Hidden states -> statistics of their vocabulary distributions, tiled over the vocabulary: logits are never stored.

For each row h of ``hidden`` the logits are l = softcap(scale·(h @ W + b)) and p = softmax(l). Rényi entropies of any orders, a
log normaliser, the surprisal and rank of targets and the top tokens all come from one pass over tiles of the vocabulary: each
tile's product lands in a reused buffer (``products.py``), its sums are taken relative to its own maximum, and the sums of all
tiles are combined in float64 (``tiles.py``). Memory beyond the results is under 64 MB, whatever the number of rows.

This is the inner loop of every lens: definitions as in ``entropies.py``, errors below 2e-5 nats in float32.

Refused: NaN and infinities in the hidden states or logits (-inf in the bias masks a token and is legal), shapes that do not
fit, unknown precisions, forced compilation without a compiler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError, check_choice, check_int, check_orders
from tl_entropy.functional.lens.compiling import Compiled, SumsOfTiles, compiler_available, decide_compiled
from tl_entropy.functional.lens.products import TileProducts, check_factors, checked_scale
from tl_entropy.functional.lens.reduced import check_reduced
from tl_entropy.functional.lens.tiles import (
    MASKED,
    Top,
    combine,
    combine_kurtosis,
    combine_level,
    combine_mass,
    combine_moments,
    in_double,
    tile_sums,
)
from tl_entropy.torch_state import steady

__all__ = ["VocabularyStatistics", "compiler_available", "vocabulary_statistics"]

Precision = Literal["float32", "bfloat16"]

# Four buffers of this many numbers: small enough to stay near the processor, large enough that what is done once for a tile
# takes little beside it. Two widths, the larger where rows are few; the factors of a wide tile must stay small, too. Each is a
# multiple of 48 because matrix kernels take that many columns at once, and sum columns at a ragged edge in another sequence.
_COLUMNS = 48
_WIDTH = 20 * _COLUMNS
_TILE = 1344 * _WIDTH
_FACTORS = 768 * 2 * _WIDTH


@dataclass(frozen=True, eq=False)
class VocabularyStatistics:
    """What `vocabulary_statistics` finds: one row for each hidden state, in nats, float64, on the device of the input.

    From `vocabulary_divergences`, every [rows] is [site, row].

    Attributes:
        entropies: [rows, n_orders], Rényi entropies in the sequence of the orders asked for.
        log_normalizer: [rows], log Σ exp(l).
        surprisal: of the shape of the targets, -log p(target); NaN where there is no target; None without targets.
        rank: int64, of the same shape, how many other tokens are at least as probable as the target (0 for the one that is the
            most probable alone); -1 where there is no target.
        top_log_probs: [rows, top_k], falling; None without top_k.
        top_tokens: [rows, top_k] int64, their tokens; equally probable ones by their ids.
        tied: [rows] bool, whether several tokens are the most probable, equally; None without top_k.
        log_mass: [rows], log of the summed probability of a subset of the tokens, up to 0; None unless one was given.
        self_certainty: [rows], KL(U ‖ p) of the uniform law U on all tokens that are not masked; None unless asked for.
        kurtosis: [rows], excess kurtosis of the logits over the tokens that are not masked; None unless asked for.
        compiled: whether the sums ran as compiled code.
        precision: of the product, "float32" ("float64" for float64 hidden states) or "bfloat16".
        varentropy: [rows], the variance of the surprisal, nats²; None unless asked for.

    >>> import torch
    >>> from tl_entropy.functional import vocabulary_statistics
    >>> found = vocabulary_statistics(torch.zeros(1, 4), torch.ones(4, 16))
    >>> found.entropies.exp().round().tolist()  # 16 tokens, equally probable
    [[16.0]]
    """

    entropies: Tensor
    log_normalizer: Tensor
    surprisal: Tensor | None
    rank: Tensor | None
    top_log_probs: Tensor | None
    top_tokens: Tensor | None
    compiled: bool
    precision: str
    varentropy: Tensor | None = None
    tied: Tensor | None = None
    log_mass: Tensor | None = None
    self_certainty: Tensor | None = None
    kurtosis: Tensor | None = None


@steady
def vocabulary_statistics(
    hidden: Tensor,
    unembedding: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    orders: float | Sequence[float] = (1.0,),
    targets: Tensor | None = None,
    top_k: int = 0,
    varentropy: bool = False,
    subset: Tensor | None = None,
    self_certainty: bool = False,
    kurtosis: bool = False,
    precision: Precision = "float32",
    compiled: Compiled = None,
) -> VocabularyStatistics:
    """Return what each hidden state predicts and how sure it is: statistics of softmax(softcap(scale·(hidden @ W + b))).

    Args:
        hidden: [rows, d_model], after the final norm. float64 stays float64; anything else is worked in float32.
        unembedding: W, [d_model, d_vocab], of any floating-point dtype and either memory layout.
        bias: b, [d_vocab]; -inf masks a token.
        scale: multiplies the logits (Granite, Cohere).
        softcap: c in l -> c·tanh(l / c) (Gemma 2).
        orders: Rényi orders from 0 to infinity.
        targets: [rows] or [rows, n_targets] int64, the tokens whose surprisal and rank are wanted; negative for none.
        top_k: how many of the likeliest tokens to return.
        varentropy: whether to return the variance of the surprisal, Σ p·(log p + H)², as well.
        subset: [d_vocab] bool, tokens whose summed probability is wanted, such as those that begin a word; or a weight from
            0 to 1 for each token, whose mean is.
        self_certainty: whether to return KL(U ‖ p) = -mean log p - log n, over the n tokens that are not masked, as well.
        kurtosis: whether to return the excess kurtosis of their logits (0 of a normal law; NaN if all are the same), as well.
        precision: "float32", or "bfloat16" for rounded factors with float32 sums: up to twice as fast where the processor has
            bfloat16 units. The factors' rounding then shows: for logits with standard deviations of 1 to 12, entropies were
            within 0.03 nats (root mean square 0.008) and everything else within 0.055; near ties may change their ranks.
        compiled: True has torch.compile fuse the sums, False does not, "faster" measures both on one tile and takes the faster
            way, None does so for large jobs alone, since compiling takes some 15 s.

    Returns:
        `VocabularyStatistics`. Not differentiable.

    Raises:
        NonFiniteError: NaN or infinities in ``hidden``, NaN or +inf in the logits; the rows are named.
        InputError: shapes that do not fit, targets or top_k beyond the vocabulary, a bias that masks everything, an unknown
            precision, "bfloat16" on a processor where it takes longer, compiled=True without a compiler.
        InputTypeError: tensors that are not floating-point, targets that are not int64.

    Source: entropies as in A. Rényi, 1961; the lens: nostalgebraist, interpreting GPT: the logit lens, 2020.

    >>> found = vocabulary_statistics(torch.zeros(1, 4), torch.ones(4, 16), orders=(0.5, 1, 2), targets=torch.tensor([3]))
    >>> found.entropies.exp(), found.surprisal.exp(), found.rank
    (tensor([[16.0000, 16.0000, 16.0000]], dtype=torch.float64), tensor([16.0000], dtype=torch.float64), tensor([15]))
    """
    reader = Reader.open(
        hidden, unembedding, bias=bias, scale=scale, softcap=softcap, orders=orders, targets=targets, top_k=top_k,
        varentropy=varentropy, subset=subset, self_certainty=self_certainty, kurtosis=kurtosis, precision=precision,
        compiled=compiled,
    )  # fmt: skip
    with torch.no_grad():
        return join([reader.read(*block)[0] for block in reader.blocks(hidden, targets)])


@dataclass(frozen=True)
class Reader:
    """One pass over the vocabulary for each block of rows: [row, d_model], or the same rows of several sites."""

    products: TileProducts
    ways: SumsOfTiles
    sums: Callable[..., Tensor]
    orders: tuple[float, ...]
    top_k: int
    block: int
    precision: str
    varentropy: bool
    subset: Tensor | None
    self_certainty: bool
    kurtosis: bool

    @property
    def compiled(self) -> bool:
        return self.ways.compiled

    @classmethod
    def open(
        cls,
        hidden: Tensor,
        unembedding: Tensor,
        *,
        bias: Tensor | None,
        scale: float,
        softcap: float | None,
        orders: float | Sequence[float],
        targets: Tensor | None,
        top_k: int,
        precision: Precision,
        compiled: Compiled,
        varentropy: bool = False,
        subset: Tensor | None = None,
        self_certainty: bool = False,
        kurtosis: bool = False,
        axes: tuple[str, ...] = ("rows", "d_model"),
    ) -> Self:
        """Check the arguments of `vocabulary_statistics`, ``hidden`` having these ``axes``, and lay out the buffers."""
        order_list = check_orders("orders", orders)
        check_choice("precision", precision, ("float32", "bfloat16"))
        check_factors(hidden, unembedding, bias, axes)
        if precision == "bfloat16":
            check_reduced(unembedding)
        *sites, rows = hidden.shape[:-1]
        n_sites, d_vocab = math.prod(sites), unembedding.shape[1]
        if n_sites == 0:
            raise InputError(f"hidden must hold at least one site; got the shape {list(hidden.shape)}")
        _check_targets(targets, rows, d_vocab)
        _check_subset(subset, d_vocab)
        if not 0 <= (top_k := check_int("top_k", top_k)) <= d_vocab:
            raise InputError(f"top_k must be between 0 and the {d_vocab} tokens of the vocabulary; got {top_k}")
        scale, softcap = checked_scale(scale, softcap)
        way = decide_compiled(compiled, n_sites * rows * d_vocab, hidden.device)
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        most = _TILE * 4 // dtype.itemsize
        wide = max(_WIDTH, min(2 * _WIDTH, _FACTORS // max(1, len(unembedding)), most // max(1, n_sites * rows)))
        # Of very many sites, even one row's logits of a tile would be more than a tile.
        width = min(d_vocab, max(1, min(wide, most // n_sites) // _COLUMNS) * _COLUMNS)
        n_blocks = max(1, math.ceil(rows / max(1, most // (n_sites * width))))
        block = max(1, math.ceil(rows / n_blocks))
        products = TileProducts(
            unembedding.detach(),
            None if bias is None else bias.detach(),
            scale=scale,
            softcap=softcap,
            dtype=dtype,
            reduced=precision == "bfloat16",
            rows=n_sites * block,
            width=width,
        )
        choice: dict[str, Any] = {
            "orders": order_list, "moments": varentropy, "level": self_certainty or kurtosis, "shape": kurtosis,
            "of_subset": subset is not None,
        }  # fmt: skip
        members = None if subset is None else subset.to(hidden.device, dtype)
        ways = SumsOfTiles(way, lambda: hidden.new_empty(3, n_sites * block * width, dtype=dtype))
        sums = ways(_tile_sums, **choice)
        name = "float64" if dtype == torch.float64 and precision == "float32" else precision
        return cls(products, ways, sums, order_list, top_k, block, name, varentropy, members, self_certainty, kurtosis)

    def blocks(self, hidden: Tensor, targets: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None, int]]:
        """Yield the rows of each block, their targets and the number of the first."""
        axis = hidden.dim() - 2
        rows = hidden.shape[axis]
        for first in range(0, max(rows, 1), self.block):
            here = slice(first, first + self.block)
            yield hidden[..., here, :], None if targets is None else targets[here], first

    def read(
        self, hidden: Tensor, targets: Tensor | None, first: int, observe: Callable[[Tensor, Tensor], None] | None = None
    ) -> tuple[VocabularyStatistics, Tensor]:
        """Return the statistics of one block, and in float64 the sums [tiles, sums, ...] that they were made from.

        Where given, ``observe`` is called with the logits and the sums of each tile; the former are written over after it.
        """
        refuse_rows(~hidden.isfinite().all(-1), first, "hidden must be finite; it holds NaN or infinities")
        self.products.begin(hidden)
        wanted = present = target_logits = None
        if targets is not None:
            wanted = (targets[:, None] if targets.dim() == 1 else targets).expand(*hidden.shape[:-1], -1)
            present = wanted >= 0
            if self.products.n_tiles > 1:
                target_logits = self.products.at(wanted.clamp(min=0))
        top = Top(hidden, self.top_k, self.products.dtype) if self.top_k else None

        tiles = []
        for start, seen, logits in self.products.tiles():
            thresholds: tuple[Tensor, ...] = ()
            if wanted is not None and present is not None:
                if target_logits is None:
                    target_logits = logits.gather(-1, wanted.clamp(min=0))
                else:  # one number for each logit: two products of the same factors may differ in the last digit
                    here = ((wanted >= start + seen) & (wanted < start + logits.shape[-1])).nonzero(as_tuple=True)
                    logits[(*here[:-1], wanted[here] - start)] = target_logits[here]
                thresholds = target_logits.masked_fill(~present, math.inf).unbind(-1)
            members = () if self.subset is None else (self.subset[start : start + logits.shape[-1]],)
            tiles.append(self.sums(logits, *members, *thresholds))
            if top is not None:
                top.update(logits, tiles[-1][0], start)
            if observe is not None:
                observe(logits, tiles[-1])

        tile_rows = in_double(torch.stack(tiles))
        entropies, normalizer = combine(tile_rows, self.orders)
        unreadable = ~(normalizer.isfinite() & entropies.isfinite().all(-1))
        refuse_rows(unreadable, first, "hidden @ unembedding + bias must hold neither NaN nor +inf; it does")
        surprisal = rank = top_log_probs = top_tokens = tied = variance = log_mass = None
        last = tile_rows.shape[1] - (0 if present is None else present.shape[-1])  # before the counts, from there downwards
        certainty = kurtosis = None
        if self.kurtosis:
            last -= 3
            kurtosis = combine_kurtosis(tile_rows, tile_rows[:, last - 2 : last + 3])
        if self.self_certainty or self.kurtosis:
            last -= 2
            certainty = combine_level(tile_rows, normalizer, *tile_rows[:, last : last + 2].unbind(1))
        if self.varentropy:
            last -= 2
            variance = combine_moments(tile_rows, tile_rows[:, last], tile_rows[:, last + 1])
        if self.subset is not None:
            log_mass = combine_mass(tile_rows, tile_rows[:, last - 1])
        if targets is not None and target_logits is not None and present is not None:
            missing = ~present.to(normalizer.device)
            shape: tuple[int, ...] = (*hidden.shape[:-2], *targets.shape)
            surprisal = normalizer[..., None] - _unmasked(in_double(target_logits))
            surprisal = surprisal.masked_fill(missing, math.nan).reshape(shape)
            rank = tile_rows[:, -present.shape[-1] :].sum(0).movedim(0, -1).long() - 1  # all but the target itself
            rank = rank.masked_fill(missing, -1).reshape(shape)
        if top is not None:
            shape = (*normalizer.shape, self.top_k)
            top_log_probs = _unmasked(in_double(top.logits)).view(shape) - normalizer[..., None]
            top_tokens = top.tokens.to(normalizer.device).view(shape)
            tied = top.tied.to(normalizer.device).view(normalizer.shape)
        found = VocabularyStatistics(
            entropies, normalizer, surprisal, rank, top_log_probs, top_tokens, self.compiled, self.precision, variance, tied,
            log_mass, certainty if self.self_certainty else None, kurtosis,
        )  # fmt: skip
        return found, tile_rows


def _tile_sums(
    logits: Tensor, *others: Tensor, orders: tuple[float, ...], of_subset: bool, buffers: Tensor | None = None, **also: bool
) -> Tensor:  # fmt: skip
    subset, thresholds = (others[0], others[1:]) if of_subset else (None, others)
    wanted: dict[str, Any] = {**also, "subset": subset}
    if buffers is None:
        return tile_sums(logits, orders, thresholds, **wanted)
    z, e, work = (buffer[: logits.numel()].view(logits.shape) for buffer in buffers)
    return tile_sums(logits, orders, thresholds, (z, e, work), **wanted)


def _unmasked(logits: Tensor) -> Tensor:
    return logits.masked_fill(logits <= MASKED / 2, -math.inf)


def refuse_rows(bad: Tensor, first: int, message: str, first_site: int = 0) -> None:
    """Raise an error that names the rows, or the sites and rows, where ``bad`` [row] or [site, row] holds."""
    if bad.any():
        places = bad.nonzero().tolist()
        names = ["" if len(place) == 1 else f"site {place[0] + first_site} row " for place in places[:8]]
        shown = ", ".join(f"{name}{place[-1] + first}" for name, place in zip(names, places, strict=False))
        more = f" and {len(places) - 8} more near them" if len(places) > 8 else ""
        raise NonFiniteError(f"{message} in {'row ' if bad.dim() == 1 else ''}{shown}{more}: look where they come from")


def _check_targets(targets: Tensor | None, rows: int, d_vocab: int) -> None:
    if targets is None:
        return
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64:
        raise InputTypeError(f"targets must be an int64 tensor; got {getattr(targets, 'dtype', type(targets).__name__)}")
    if targets.dim() not in (1, 2) or len(targets) != rows or 0 in targets.shape[1:]:
        raise InputError(f"targets must be [{rows}], one token for each row, or [{rows}, n_targets]; got {list(targets.shape)}")
    if len(targets) and targets.amax() >= d_vocab:
        raise InputError(f"targets must be below the vocabulary's {d_vocab} tokens; got {int(targets.amax())}")


def _check_subset(subset: Tensor | None, d_vocab: int) -> None:
    if subset is None:
        return
    if not isinstance(subset, Tensor) or not (subset.dtype == torch.bool or subset.is_floating_point()):
        raise InputTypeError(f"subset must be a bool tensor, or weights; got {getattr(subset, 'dtype', type(subset).__name__)}")
    if subset.shape != (d_vocab,):
        raise InputError(f"subset must be [{d_vocab}], one entry for each token; got {list(subset.shape)}")
    if subset.is_floating_point() and not bool(((subset >= 0) & (subset <= 1)).all()):
        raise InputError("subset must hold weights from 0 to 1; it does not: divide them by the largest")


def join(blocks: Sequence[VocabularyStatistics]) -> VocabularyStatistics:
    """Put the statistics of blocks of rows together."""
    axis = blocks[0].log_normalizer.dim() - 1
    joined: dict[str, Any] = {}
    for field in fields(VocabularyStatistics):
        parts = [getattr(block, field.name) for block in blocks]
        if isinstance(parts[0], Tensor):
            joined[field.name] = torch.cat(parts, axis)
    return replace(blocks[0], **joined)
