r"""Hidden states before and after a change -> how far each row's logits moved, tiled over the vocabulary.

With l the logits of a row before the change, l' those after it, p and p' their softmax, and t the row's target:

    l1        Σ |l' - l|                          loss      log p(t) - log p'(t), signed
    l2        √Σ (l' - l)²                        entropy   H(p') - H(p), signed
    maximum   max |l' - l|
    cosine    1 - l·l' / (‖l‖·‖l'‖)

and the divergences of ``comparison.py`` with p as the reference. The first four compare logits, not distributions: a number
added to all logits of a row, which changes no prediction, counts in them. Tokens that cannot come (a bias of -inf) count in
none; a bias of -1e9 is a number like others, beside which a cosine sees nothing else.

All of it comes from one pass over the vocabulary (Jensen-Shannon and total variation take a second), in the tiles of
``readout.py``: both rows' logits of a tile stand side by side, and are never stored. The angle is not taken from the cosine,
which loses the digits of a small one, but from d = l' - l:

    sin² = (‖l‖²·‖d‖² - (l·d)²) / (‖l‖²·‖l'‖²),    1 - cos = sin² / (1 + cos)

Refused: what `vocabulary_divergences` refuses, two shapes, unknown, repeated or no metrics, "loss" without targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_choice
from tl_entropy.functional.lens import comparison
from tl_entropy.functional.lens.compiling import Compiled
from tl_entropy.functional.lens.readout import Precision, Reader, VocabularyStatistics, refuse_rows
from tl_entropy.functional.lens.tiles import MASKED, in_double
from tl_entropy.torch_state import steady

Change = Literal["l1", "l2", "maximum", "cosine", "kl", "reverse_kl", "jsd", "fisher_rao", "total_variation", "loss", "entropy"]
CHANGE_UNITS: dict[Change, str] = {
    "l1": "", "l2": "", "maximum": "", "cosine": "",
    "kl": "nats", "reverse_kl": "nats", "jsd": "nats", "fisher_rao": "rad", "total_variation": "",
    "loss": "nats", "entropy": "nats",
}  # fmt: skip
"""Every metric, and its unit."""
_OF_LOGITS = ("l1", "l2", "maximum", "cosine")


@dataclass(frozen=True, eq=False)
class VocabularyChanges:
    """What `vocabulary_changes` finds.

    Attributes:
        changes: [row, metric] float64, in the sequence of the metrics asked for.
        compiled: whether the sums ran as compiled code.
        precision: of the product, "float32" ("float64" for float64 hidden states) or "bfloat16".

    >>> import torch
    >>> from tl_entropy.functional import vocabulary_changes
    >>> found = vocabulary_changes(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 2.0]]), torch.eye(2), metrics=("l1",))
    >>> found.changes.tolist()  # row, metric
    [[1.0]]
    """

    changes: Tensor
    compiled: bool
    precision: str


@steady
def vocabulary_changes(
    before: Tensor,
    after: Tensor,
    unembedding: Tensor,
    *,
    metrics: Sequence[Change] = ("l1", "cosine", "kl", "loss"),
    targets: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    precision: Precision = "float32",
    compiled: Compiled = None,
) -> VocabularyChanges:
    """Return how far the logits of each row moved, with logits as in `vocabulary_statistics`.

    | metric | definition | range |
    |---|---|---|
    | "l1" | sum over the vocabulary of abs(l' - l) | 0 to infinity |
    | "l2" | square root of the sum of (l' - l)² | 0 to infinity |
    | "maximum" | the largest abs(l' - l) of the vocabulary | 0 to infinity |
    | "cosine" | 1 - the cosine of the angle between l and l' | 0 to 2 |
    | "kl", "reverse_kl" | KL(p ‖ p'), KL(p' ‖ p), nats | 0 to infinity |
    | "jsd" | Jensen-Shannon divergence, nats | 0 to log 2 |
    | "fisher_rao" | 2·arccos Σ √(p·p'), radians | 0 to π |
    | "total_variation" | ½·Σ abs(p - p') | 0 to 1 |
    | "loss" | surprisal of the target after, less that before, nats | signed |
    | "entropy" | Shannon entropy after, less that before, nats | signed |

    Rows that are equal before and after are at exactly 0. In float32 every logit is rounded at some 1e-6 of itself, which
    ``l1`` adds up over the vocabulary: a change below 1e-6·Σ abs(l) is rounding. The others are as exact as
    `vocabulary_divergences` and `vocabulary_statistics`.

    Args:
        before: [row, d_model], after the final norm. float64 stays float64; anything else is worked in float32.
        after: [row, d_model], the same rows after the change.
        unembedding: W, [d_model, d_vocab], of any floating-point dtype and either memory layout.
        metrics: which changes, each once. "jsd" and "total_variation" take a second pass over the vocabulary.
        targets: [row] int64, the tokens whose surprisal "loss" compares; negative for none.
        bias: b, [d_vocab]; -inf masks a token.
        scale: multiplies the logits (Granite, Cohere).
        softcap: c in l -> c·tanh(l / c) (Gemma 2).
        precision: "float32", or "bfloat16" for rounded factors with float32 sums, as in `vocabulary_statistics`; for ``l1`` the
            rounding of every logit then adds up.
        compiled: True has torch.compile fuse the sums, False does not, "faster" measures both on one tile and takes the faster
            way, None does so for large jobs alone, since compiling takes some 15 s.

    Returns:
        `VocabularyChanges`, on the device of the input. The cosine of logits that are all 0 counts as 0; "loss" is NaN where
        there is no target, or where it cannot come. Not differentiable.

    Raises:
        NonFiniteError: NaN or infinities in the hidden states or logits, or logits too large for their squares; site (0 is
            before, 1 after) and row are named.
        InputError: shapes that do not fit, no, unknown or repeated metrics, "loss" without targets, and whatever
            `vocabulary_statistics` refuses.
        InputTypeError: tensors that are not floating-point, targets that are not int64, metrics in a single string.

    Source: a change of the output as a part is taken out, M. Zeiler and R. Fergus, Visualizing and understanding convolutional
    networks, 2014, section 4.2; of the divergences, in `kl_divergence` and its neighbours.

    >>> before, after = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    >>> vocabulary_changes(before, after, torch.eye(2), metrics=("l1", "cosine")).changes.tolist()
    [[7.0, 1.0]]
    """
    check_changes(metrics)
    if "loss" in metrics and targets is None:
        raise InputError("targets: 'loss' compares the surprisal of each row's target; pass targets [row], or leave it out")
    if isinstance(targets, Tensor) and targets.dim() != 1:
        raise InputError(f"targets must be [row], one token for each; got the shape {list(targets.shape)}")
    for name, rows in (("before", before), ("after", after)):
        if not isinstance(rows, Tensor) or not rows.is_floating_point():
            raise InputTypeError(f"{name} must be a floating-point tensor; got {getattr(rows, 'dtype', type(rows).__name__)}")
    if before.shape != after.shape or before.dtype != after.dtype:
        came = f"{list(before.shape)}, {before.dtype} and {list(after.shape)}, {after.dtype}"
        raise InputError(f"before and after must be the same rows [row, d_model] of one dtype; got {came}")
    hidden = torch.stack([before, after])
    watching = any(metric in _OF_LOGITS for metric in metrics)
    reader = (_Watching if watching else Reader).open(
        hidden,
        unembedding,
        axes=("run", "row", "d_model"),
        bias=bias,
        scale=scale,
        softcap=softcap,
        orders=(1.0,),
        targets=targets if "loss" in metrics else None,
        top_k=0,
        precision=precision,
        compiled=compiled,
    )
    compared = tuple(metric for metric in comparison.METRICS if metric in metrics)
    comparer = comparison.Comparer(reader, "previous", compared) if compared else None
    blocks = []
    with torch.no_grad():
        for rows, wanted, first in reader.blocks(hidden, targets if "loss" in metrics else None):
            found: dict[str, Tensor] = {}
            if comparer is None:
                statistics, _ = reader.read(rows, wanted, first)
            else:
                divergences, statistics = comparer.read(rows, wanted, first)
                found |= zip(compared, divergences[0].unbind(-1), strict=True)
            if isinstance(reader, _Watching):
                found |= _combined(in_double(torch.stack(reader.seen)))
            found["entropy"] = statistics.entropies[1, :, 0] - statistics.entropies[0, :, 0]
            unmoved = (rows[0] == rows[1]).all(-1).to(found["entropy"].device)
            found = {metric: values.masked_fill(unmoved, 0.0) for metric, values in found.items()}
            refuse_rows(
                torch.stack([~values.isfinite() for values in found.values()]).any(0),
                first,
                "hidden @ unembedding + bias must be small enough for the squares of logits; it is not",
            )
            if statistics.surprisal is not None:
                loss = statistics.surprisal[1] - statistics.surprisal[0]
                found["loss"] = loss.masked_fill(unmoved & statistics.surprisal[0].isfinite(), 0.0)
            blocks.append(torch.stack([found[metric] for metric in metrics], -1))
    return VocabularyChanges(torch.cat(blocks), reader.compiled, reader.precision)


def check_changes(metrics: Sequence[str]) -> None:
    """Refuse what is no sequence of known metrics, each once."""
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        raise InputTypeError(f"metrics must be a sequence such as ('l1', 'kl'); got {metrics!r}")
    for metric in metrics:
        check_choice("metrics", metric, CHANGE_UNITS)
    if not metrics or len(set(metrics)) < len(metrics):
        raise InputError(f"metrics must hold at least one of {', '.join(CHANGE_UNITS)}, each once; got {list(metrics)}")


@dataclass(frozen=True)
class _Watching(Reader):
    """A ``Reader`` of two runs that keeps sums over their logits as the tiles of a block go by.

    Attributes:
        seen: the sums [6, row] of each tile of the latest block.
    """

    seen: list[Tensor] = field(default_factory=list)

    def read(
        self, hidden: Tensor, targets: Tensor | None, first: int, observe: Callable[[Tensor, Tensor], None] | None = None
    ) -> tuple[VocabularyStatistics, Tensor]:
        self.seen.clear()
        sums = self.ways(_logit_sums)

        def watch(logits: Tensor, statistics: Tensor) -> None:
            self.seen.append(sums(logits))
            if observe is not None:
                observe(logits, statistics)

        return super().read(hidden, targets, first, watch)


def _logit_sums(logits: Tensor, *, buffers: Tensor | None = None) -> Tensor:
    """Return Σ |d|, Σ d², Σ l·d, Σ l², Σ l'² and max |d| [6, row] of one tile ``logits`` [2, row, width], left as it is."""
    present, work, d = None, None, None
    if buffers is not None:
        half = logits.numel() // 2
        present = buffers[0, : logits.numel()].view(logits.shape)
        work, d = (buffers[i, :half].view(logits.shape[1:]) for i in (1, 2))
    # Masked tokens, and those of the last tile that were seen before, are zeros in both.
    before, after = torch.mul(logits, logits > MASKED / 2, out=present)
    d = torch.sub(after, before, out=d)
    largest = torch.abs(d, out=work).amax(-1)
    return torch.stack(
        [
            torch.abs(d, out=work).sum(-1),
            torch.mul(d, d, out=work).sum(-1),
            torch.mul(before, d, out=work).sum(-1),
            torch.mul(before, before, out=work).sum(-1),
            torch.mul(after, after, out=work).sum(-1),
            largest,
        ]
    )


def _combined(sums: Tensor) -> dict[str, Tensor]:
    """Return what compares logits [row] from the sums [tiles, 6, row] in float64."""
    l1, moved, along, before, after = sums[:, :5].sum(0)
    squares = before * after
    some = squares > 0
    squares = squares.where(some, 1.0)
    cosine = ((before + along) / squares.sqrt()).where(some, 0.0).clamp(-1.0, 1.0)
    squared_sine = (before * moved - along.square()).clamp(min=0.0) / squares
    return {
        "l1": l1,
        "l2": moved.sqrt(),
        "maximum": sums[:, 5].amax(0),
        "cosine": torch.where(cosine > 0, squared_sine / (1 + cosine), 1 - cosine),
    }
