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
    def n_ids(self) -> int:
        """Number of tokens that the model can read."""
        return int(getattr(self.model.cfg, "d_vocab", self.d_vocab))

    @property
    def has_tokenizer(self) -> bool:
        """Whether texts can be given."""
        return getattr(self.model, "tokenizer", None) is not None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""
        return list(self.model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def spans(self, text: str) -> list[tuple[int, int]] | None:
        """Characters [start, end) of a text that each of its tokens stands for; None where the tokenizer does not know.

        Tokens of one character that is several bytes long share its span; spaces that a tokenizer trims belong to none.
        """
        if not getattr(self.model.tokenizer, "is_fast", False):
            return None
        given = self.model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [(int(start), int(end)) for start, end in given["offset_mapping"]]

    def text(self, ids: Sequence[int]) -> str | None:
        """The text of which these are the tokens; None where the text that they decode to has others.

        So it is with pieces of a text that begin or end inside a character, or that the tokenizer would split in another way.
        """
        if not self.has_tokenizer:
            return None
        text: str = self.model.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        return text if self.encode(text) == list(ids) else None

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
