"""What a model's tokenizer and configuration say of texts: ids, special tokens, the longest input; rows for proofs.

Models without a tokenizer are fine where tokens are given instead of texts. Their special tokens are those of their
configuration: TransformerLens's, or that of the Hugging Face model inside and what it says of generation.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_entropy.capture.hooks import attribute
from tl_entropy.capture.pieces import piece_reader, readable, spaced_reader
from tl_entropy.errors import InputError, ModelError
from tl_entropy.torch_state import Steady, cached_property

_CONFIGURED = ("bos_token_id", "eos_token_id", "pad_token_id")
_MADE_UP = "<|endoftext|>"
"""What TransformerLens adds to a tokenizer that has no token to begin, end or fill up a text."""
_SHORT = 12
"""Tokens of a row for a proof, at most."""


class Vocabulary(Steady):
    """The part of an adapter that turns texts into token ids and back; ``model`` is the TransformerLens model."""

    model: Any

    @property
    def predicts(self) -> str:
        """Whether logits at a position are about the "next" token, or about its "own", as the configuration says.

        Raises:
            ModelError: it says something else.
        """
        found = getattr(self.model.cfg, "predicts", "next")
        if found not in ("next", "own"):
            raise ModelError(f"model: cfg.predicts must be 'next' or 'own'; got {found!r}")
        return str(found)

    @property
    def context(self) -> int:
        """Longest input, in tokens."""
        return int(self.model.cfg.n_ctx)

    @property
    def d_vocab(self) -> int:
        """Number of tokens that the model predicts over."""
        unembedding = attribute(self.model, "W_U")
        if isinstance(unembedding, Tensor) and unembedding.ndim == 2 and unembedding.is_floating_point():  # no packed one
            return int(unembedding.shape[-1])
        told = attribute(self.model.cfg, "d_vocab_out") or -1  # -1 for as many as it reads
        return int(told if told > 0 else self.model.cfg.d_vocab)

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

    def tokenised(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """Token ids of a text, and the characters [start, end) that each stands for; None where the tokenizer does not know.

        Tokens of one character that is several bytes long share its span; spaces that a tokenizer trims belong to none.
        """
        if not getattr(self.model.tokenizer, "is_fast", False):
            return self.encode(text), None
        given = self.model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(given["input_ids"]), [(int(start), int(end)) for start, end in given["offset_mapping"]]

    def pieces(self, ids: Sequence[int]) -> list[bytes] | None:
        """The bytes that each of these tokens stands for; None where the tokenizer's tokens are no bytes."""
        if self._piece_of is None:
            return None
        known = {i: self._piece_of(i) for i in set(ids)}
        return None if None in known.values() else [known[i] or b"" for i in ids]

    @cached_property
    def _piece_of(self) -> Any:
        return piece_reader(getattr(self.model, "tokenizer", None))

    @cached_property
    def word_edges(self) -> tuple[Tensor, Tensor]:
        """Which tokens [id] end the word before them, and behind which a word has ended, whatever comes; bool each.

        What begins with white space ends the word before it, and behind what ends with white space a word has ended. Special
        tokens do both.

        Raises:
            InputError: there is no tokenizer, or its tokens do not say whether white space is a part of them.
        """
        known = self._piece_of or spaced_reader(getattr(self.model, "tokenizer", None))
        if known is None or self.token_ids is None or not self._keeps_spaces(known):
            raise InputError(
                "words=True needs to know which tokens begin a word, and this tokenizer's tokens do not say (they are no bytes "
                "of a text, or leave out its spaces); use words=False, and word_surprisal(correct=False)"
            )
        edges = torch.zeros(2, max(self.n_ids, self.d_vocab), dtype=torch.bool)
        for i in self.token_ids.tolist():
            piece = (known(i) or b"").decode("utf-8", "surrogateescape")
            edges[0, i], edges[1, i] = piece[:1].isspace(), piece[-1:].isspace()
        special = [i for i in {*self.special_ids, *self.ends} if i < edges.shape[1]]
        edges[:, special] = True
        return edges[0], edges[1]

    def _keeps_spaces(self, known: Callable[[int], bytes | None]) -> bool:
        try:
            return any(b" " in (known(i) or b"") for i in self.encode("a a"))
        except Exception:  # of letters that it does not have, for which a tokenizer raises what it likes
            return True

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
        return self._special("bos_token_id")

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids of the tokens that end a text; may be none.

        Those of TransformerLens's configuration and of the model's settings for generation, or else the tokenizer's.
        """
        settings = getattr(getattr(self.model, "original_model", None), "generation_config", None)
        found = [i for one in (self.model.cfg, settings) for i in self._ids_in(one, "eos_token_id")]
        own = self._special("eos_token_id")
        return tuple(dict.fromkeys(found)) or (() if own is None else (own,))

    def until_end(self, new: Tensor) -> Tensor:
        """Of tokens [pos] that a model wrote and that were filled up, those that it wrote: up to the first that ends a text."""
        ended = torch.isin(new, torch.tensor(self.ends, dtype=new.dtype, device=new.device)).nonzero()
        return new[: int(ended[0]) + 1] if len(ended) else new

    @property
    def unknown(self) -> tuple[int, str] | None:
        """Id and text of the token that stands for what the tokenizer does not know, or None.

        It is one, too, where it is not said to be a special token and only the part that looks pieces up has it.
        """
        tokenizer = getattr(self.model, "tokenizer", None)
        number = getattr(tokenizer, "unk_token_id", None)
        if number is not None:
            return number, str(tokenizer.unk_token)  # type: ignore[union-attr]
        backend = getattr(tokenizer, "backend_tokenizer", None)
        name: str | None = getattr(getattr(backend, "model", None), "unk_token", None)
        if not name:
            return None
        number = backend.token_to_id(name)  # type: ignore[union-attr]
        return None if number is None else (number, name)

    def dropped(self, text: str) -> frozenset[str]:
        """The letters, digits, signs and symbols of a text of which the tokenizer makes nothing at all.

        So it is where pieces are looked up without a token for what is unknown, and where a normaliser takes them out. White
        space and marks are no such characters: what stands for their word or letter stands for them.
        """
        if self._piece_of is not None or not getattr(self.model.tokenizer, "is_fast", False):
            return frozenset()
        for character in set(text) - self._makes_something.keys():
            counts = unicodedata.category(character)[0] in "LNPS" and not 0x1160 <= ord(character) <= 0x11FF  # vowels of Hangul
            self._makes_something[character] = not counts or self._is_known(character)
        return frozenset(character for character in set(text) if not self._makes_something[character])

    def _is_known(self, character: str) -> bool:
        try:
            return bool(self.encode(character))
        except Exception:  # a part of a known word may be none by itself, for which a tokenizer raises what it likes
            return True

    @cached_property
    def _makes_something(self) -> dict[str, bool]:
        return {}

    @property
    def prepends_begin(self) -> bool:
        """Whether TransformerLens begins texts with that token for this model, unless told otherwise.

        Not with one that it has made up itself, for a tokenizer without any: no model was trained on that.
        """
        default = bool(getattr(self.model.cfg, "default_prepend_bos", True))
        return default and self.begin not in (None, self._made_up)

    @property
    def _made_up(self) -> int | None:
        """Id of a token that TransformerLens has added to the tokenizer, behind the pieces of its own; None for none."""
        tokenizer: Any = getattr(self.model, "tokenizer", None)
        read = str(getattr(tokenizer, "init_kwargs", _MADE_UP))  # what it came with
        if _MADE_UP in read or tokenizer.eos_token != _MADE_UP or (tokenizer.eos_token_id or 0) < tokenizer.vocab_size:
            return None
        return int(tokenizer.eos_token_id)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of special tokens: those that are named, and what else the tokenizer has as such, as a chat's."""
        added = getattr(getattr(self.model, "tokenizer", None), "added_tokens_decoder", {})
        return self.padding_ids | {i for i, token in added.items() if token.special}

    @cached_property
    def padding_ids(self) -> frozenset[int]:
        """Ids that may fill up texts: the tokenizer's begin, end, padding and unknown, or without one the configuration's."""
        if self.has_tokenizer:
            unknown = [] if self.unknown is None else [self.unknown[0]]
            return frozenset([*getattr(self.model.tokenizer, "all_special_ids", ()), *unknown])
        return frozenset(i for name in _CONFIGURED for i in self._configured(name))

    @property
    def pad_id(self) -> int:
        """An id that fills padding cells; they are masked, so that any legal id will do."""
        pad = self._special("pad_token_id")
        return pad if pad is not None and pad < self.d_vocab else 0

    def another(self, token: Tensor) -> Tensor:
        """Another id than ``token``, for proofs."""
        return (token + self._legible // 2) % self._legible

    @property
    def _legible(self) -> int:
        """Below which ids the model both reads and predicts; reads, where it predicts hardly any, as a classifier does."""
        return self.n_ids if self.d_vocab < _SHORT else min(self.d_vocab, self.n_ids)

    def short_row(self) -> Tensor:
        """A few ids [1, pos] from all over the vocabulary, no special tokens, for a proof's forward pass."""
        ids = torch.linspace(0, self._legible - 1, min(_SHORT, self.context, self._legible)).long()[None]
        return ids[:, [i not in self.special_ids for i in ids[0].tolist()]]

    def row_of(self, length: int) -> Tensor:
        """That many ids [1, pos], likewise, for proofs on longer rows."""
        special = torch.zeros(self._legible, dtype=torch.bool)
        special[[i for i in self.special_ids if 0 <= i < self._legible]] = True
        ids = (~special).nonzero()[:, 0] if not special.all() else torch.arange(self._legible)
        return ids[torch.linspace(0, len(ids) - 1, length).long()][None]

    def check_ids(self, tokens: Tensor) -> None:
        """Raise InputError for token ids that the model does not have."""
        if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= self.n_ids):
            raise InputError(f"tokens must lie between 0 and {self.n_ids - 1}; got {int(tokens.min())} to {int(tokens.max())}")

    def _special(self, name: str) -> int | None:
        """A special token's id, by the name that Hugging Face gives it."""
        if self.has_tokenizer:
            number: int | None = getattr(self.model.tokenizer, name, None)
            return number
        return next(self._configured(name), None)

    def _configured(self, name: str) -> Iterator[int]:
        """What the configurations of a model say of such an id: one, several, or none; what the model lacks is no token."""
        source = getattr(self.model, "original_model", None)
        config = getattr(source, "config", None)
        for one in (self.model.cfg, config, getattr(config, "text_config", None), getattr(source, "generation_config", None)):
            yield from self._ids_in(one, name)

    def _ids_in(self, config: Any, name: str) -> Iterator[int]:
        value = getattr(config, name, None)
        yield from (i for i in (value if isinstance(value, Iterable) else [value]) if i is not None and 0 <= i < self.n_ids)

    @cached_property
    def token_ids(self) -> Tensor | None:
        """Ids [token] of the tokens that the model predicts and its tokenizer has, in order; None without a tokenizer.

        An unembedding may have more rows: many are padded to a multiple of 64 or 128.
        """
        if not self.has_tokenizer:
            return None
        found = torch.tensor(sorted({*self.model.tokenizer.get_vocab().values()} - {self._made_up}), dtype=torch.long)
        return found[(found >= 0) & (found < self.d_vocab)]

    def strings(self, ids: Sequence[int]) -> dict[int, str]:
        """The text of each token id; the id in angle brackets where there is no tokenizer, or no such token in it.

        Bytes of a token that are a part of a character are written as such, ``<0xE6>``, where the tokenizer's bytes are known.
        """
        named = (i for i in ids if i in self._named)
        texts = {i: self._string(i) for i in named}
        return {i: texts.get(i, f"<{i}>") for i in ids}

    def _string(self, i: int) -> str:
        text: str = self.model.tokenizer.decode([i], clean_up_tokenization_spaces=False)
        piece = self._piece_of(i) if "\ufffd" in text and self._piece_of is not None else None
        return text if piece is None else readable(piece)

    @cached_property
    def _named(self) -> frozenset[int]:
        return frozenset() if self.token_ids is None else frozenset(self.token_ids.tolist())
