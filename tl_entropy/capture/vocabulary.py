"""What a model's tokenizer and configuration say of texts: ids, special tokens, the longest input.

Models without a tokenizer are fine where tokens are given instead of texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any


class Vocabulary:
    """The part of an adapter that turns texts into token ids and back; ``model`` is the TransformerLens model."""

    model: Any

    @property
    def context(self) -> int:
        """Longest input, in tokens."""
        return int(self.model.cfg.n_ctx)

    @property
    def d_vocab(self) -> int:
        """Number of tokens that the model predicts over."""
        return int(self.model.W_U.shape[-1])

    @property
    def has_tokenizer(self) -> bool:
        """Whether texts can be given."""
        return getattr(self.model, "tokenizer", None) is not None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""
        return list(self.model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @property
    def begin(self) -> int | None:
        """Id of the token that begins a text, or None."""
        return getattr(getattr(self.model, "tokenizer", None), "bos_token_id", None)

    @property
    def end(self) -> int | None:
        """Id of the token that ends a text, or None."""
        return getattr(getattr(self.model, "tokenizer", None), "eos_token_id", None)

    @property
    def prepends_begin(self) -> bool:
        """Whether TransformerLens begins texts with that token for this model, unless told otherwise."""
        return bool(getattr(self.model.cfg, "default_prepend_bos", True)) and self.begin is not None

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokenizer's special tokens (begin, end, padding, ...)."""
        return frozenset(getattr(getattr(self.model, "tokenizer", None), "all_special_ids", ()))

    @property
    def pad_id(self) -> int:
        """An id that fills padding cells; they are masked, so that any legal id will do."""
        pad = getattr(getattr(self.model, "tokenizer", None), "pad_token_id", None)
        return pad if pad is not None and pad < self.d_vocab else 0

    def strings(self, ids: Sequence[int]) -> dict[int, str]:
        """The text of each token id; the id in angle brackets where there is no tokenizer."""
        if not self.has_tokenizer:
            return {i: f"<{i}>" for i in ids}
        return {i: self.model.tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in ids}
