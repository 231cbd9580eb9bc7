"""A tokenizer of bytes, whose ids are the bytes themselves: nothing to train, and bits per byte directly."""

from __future__ import annotations

from typing import Any

from tl_entropy.capture.pieces import BYTE_OF

BEGIN = "<|begin|>"
"""Begins and ends texts; id 256."""


def byte_tokenizer() -> Any:
    """Of UTF-8: ids 0 to 255 are the bytes, and 256 begins a text.

    >>> tokenizer = byte_tokenizer()
    >>> tokenizer("aé", add_special_tokens=False)["input_ids"], tokenizer.bos_token_id, len(tokenizer)
    ([97, 195, 169], 256, 257)
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(vocab=dict(BYTE_OF), merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=BEGIN, eos_token=BEGIN, pad_token=BEGIN)
