"""The logits of a Hugging Face model for a short text, and how near those of a TransformerLens model are to them.

They are asked of the model itself, before TransformerLens takes it in, or with its own modules in their places
(``capture/proofs/wrapped.py``). Near is what rounding explains, by the dtype of the logits and their spread.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tl_entropy.capture.feeding import out_of_memory
from tl_entropy.capture.hooks import as_found, attribute

# Nats by which logits of a standard deviation of 3 may differ by rounding, all layers long.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.3}
_SPREAD, _TOKENS = 3.0, 12
_IMPOSSIBLE = -100.0  # log-probability of a token that is out of the question, whatever its logit is


class Reference(NamedTuple):
    """What a Hugging Face model gives for a short text.

    Attributes:
        ids: the text [1, pos].
        logits: [1, pos, d_vocab], on the CPU.
        of: the model's class.
    """

    ids: Tensor
    logits: Tensor
    of: str


def reference_of(source: nn.Module, ids: Tensor | None = None) -> Reference | None:
    """What a Hugging Face model gives for a short text, to be asked before TransformerLens takes it in.

    Args:
        source: the model.
        ids: the text [1, pos]; None takes a few tokens from all over the vocabulary.

    Returns:
        None where it needs more than tokens (an encoder-decoder, code of its own that fails on them).
    """
    config: Any = attribute(source, "config")
    if attribute(config, "is_encoder_decoder"):
        return None
    if ids is None:
        text = config.get_text_config()
        context = attribute(text, "max_position_embeddings") or _TOKENS
        ids = torch.linspace(1, text.vocab_size - 1, min(_TOKENS, context, text.vocab_size - 1)).long()[None]
    device = next((weight.device for weight in source.parameters() if weight.device.type != "meta"), torch.device("cpu"))
    try:
        with as_found(source), warnings.catch_warnings(action="ignore"):
            out = source(input_ids=ids.to(device))
    except Exception as error:  # of Hugging Face's own code, which may raise what it likes
        if out_of_memory(error):
            raise
        return None
    logits = attribute(out, "logits")
    return Reference(ids.cpu(), logits.cpu(), type(source).__name__) if isinstance(logits, Tensor) else None


def is_close(own: Tensor, reference: Reference) -> bool:
    """Whether logits are within rounding, by their dtype and their spread."""
    values = reference.logits[reference.logits.isfinite()].double()
    spread = 1.48 * float((values - values.median()).abs().median()) if values.numel() else 0.0  # of most tokens
    allowed = _TOLERANCE.get(own.dtype, 0.3) * max(1.0, spread / _SPREAD)
    return difference(own, reference.logits) <= allowed


def difference(own: Tensor, theirs: Tensor) -> float:
    """How far log-probabilities [..., pos, d_vocab] are from others, in nats.

    At each position the root mean square over tokens, and over tokens by their probability, whichever is larger; of these the
    median over positions, since rounding may send single tokens to other experts.

    >>> round(difference(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])), 2)
    0.51
    """
    if own.shape != theirs.shape:
        return math.inf
    logs = (logits.to("cpu", torch.float64).flatten(0, -2).log_softmax(-1) for logits in (own, theirs))
    p, q = (log_p.clamp(min=_IMPOSSIBLE) for log_p in logs)
    square = (p - q).square().nan_to_num()  # a NaN is told where it is measured
    return float(torch.maximum((q.exp() * square).nan_to_num().sum(-1), square.mean(-1)).sqrt().median())
