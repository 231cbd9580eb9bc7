"""The bytes that single tokens stand for, of tokenizers whose tokens are bytes.

Two kinds know them: byte-level pieces, each of whose characters stands for one byte (Radford et al. 2019), and pieces of
text with single bytes to fall back to, ``<0xE2>``, in which a character such as "▁" stands for a space. Of which kind a
tokenizer is, its parts say that cut texts up or put them together. Pieces of others (words, parts of words in lower case) are
what is left of a text, and not its bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PRINTED = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_REST = [byte for byte in range(256) if byte not in _PRINTED]

# Byte-level alphabet: bytes that can be printed are written as they are, the others as the code points from 256 on.
BYTE_OF = {chr(byte): byte for byte in _PRINTED} | {chr(256 + i): byte for i, byte in enumerate(_REST)}


def piece_reader(tokenizer: Any) -> Callable[[int], bytes | None] | None:
    """From a token's id to its bytes (None where this token's are not known); None where the tokenizer's tokens are no bytes.

    Args:
        tokenizer: of Hugging Face.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [part for name in ("pre_tokenizer", "decoder") for part in _parts(getattr(backend, name, None))]
    kinds = {part["type"] for part in parts}
    if not kinds & {"ByteLevel", "ByteFallback"}:
        return None
    added: dict[int, bytes] = {i: token.content.encode() for i, token in backend.get_added_tokens_decoder().items()}  # type: ignore[union-attr]
    spaces = {part["replacement"]: " " for part in parts if part["type"] == "Metaspace"}
    spaces |= {
        part["pattern"]["String"]: part["content"]
        for part in parts
        if part["type"] == "Replace" and "String" in part["pattern"]
    }

    def read(i: int) -> bytes | None:
        if i in added:
            return added[i]
        piece = tokenizer.convert_ids_to_tokens(i)
        if not isinstance(piece, str):
            return None
        return _byte_level(piece) if "ByteLevel" in kinds else _with_fallback(piece, spaces)

    return read


def spaced_reader(tokenizer: Any) -> Callable[[int], bytes | None] | None:
    """From a token's id to its piece, with spaces where they are; None where no part of the tokenizer says which sign is one.

    What sentence pieces are that have no bytes to fall back to (T5, XLM-R): their text is normalised, so that they are no bytes
    of a text, but they say where words begin.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [part for name in ("pre_tokenizer", "decoder") for part in _parts(getattr(backend, name, None))]
    spaces = {part["replacement"]: " " for part in parts if part["type"] == "Metaspace"}
    if not spaces:
        return None

    def read(i: int) -> bytes | None:
        piece = tokenizer.convert_ids_to_tokens(i)
        return _with_fallback(piece, spaces) if isinstance(piece, str) else None

    return read


def readable(piece: bytes) -> str:
    r"""The text of a token's bytes, in which those that are a part of a character stand as ``<0xE6>``.

    >>> readable(b" a\xe6\x97"), readable("日".encode())
    (' a<0xE6><0x97>', '日')
    """
    text = piece.decode("utf-8", "surrogateescape")
    return "".join(f"<0x{ord(c) - 0xDC00:02X}>" if "\udc80" <= c <= "\udcff" else c for c in text)


def _byte_level(piece: str) -> bytes | None:
    found = [BYTE_OF.get(character) for character in piece]
    return None if None in found else bytes(byte for byte in found if byte is not None)


def _with_fallback(piece: str, spaces: Mapping[str, str]) -> bytes:
    if byte := _BYTE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    for sign, space in spaces.items():
        piece = piece.replace(sign, space)
    return piece.encode()


def _parts(component: Any) -> Iterator[Mapping[str, Any]]:
    """What a component of a tokenizer is made of, as its own descriptions; nothing where it cannot be described."""
    if component is None:
        return
    try:
        waiting = [json.loads(component.__getstate__())]
    except Exception:  # which is what the library raises for components written in Python
        return
    while waiting:
        part = waiting.pop()
        yield part
        waiting += [*part.get("pretokenizers", ()), *part.get("decoders", ())]
