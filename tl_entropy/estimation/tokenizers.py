"""Tokenizers: one of bytes, whose ids are the bytes themselves, with nothing to train; and others in a folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tl_entropy.capture.pieces import BYTE_OF
from tl_entropy.errors import FileError, SaveError
from tl_entropy.results.files import write_text

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


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer of Hugging Face's into a new folder, under a class that all versions of transformers know.

    Raises:
        SaveError: a file cannot be written.
    """
    try:
        tokenizer.save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.get("tokenizer_class") == "TokenizersBackend":
            write_text(path, json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=2))
    except SaveError:
        raise
    except Exception as error:  # a bare one where the library tokenizers finds no room
        raise SaveError(f"folder: {folder} cannot be written ({error})") from error


def digest_of_files(folder: Path) -> str:
    """SHA-256 over the names and bytes of a tokenizer's files.

    >>> from tempfile import mkdtemp
    >>> digest_of_files(Path(mkdtemp()))[:8]
    'e3b0c442'
    """
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_file() and not path.name.startswith("."):
            found.update(f"\n{path.name}\n".encode() + path.read_bytes())
    return found.hexdigest()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder; FileError where it cannot be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of several libraries, which raise what they like
        raise FileError(f"model: the tokenizer in {folder} cannot be read ({error}); it is damaged") from error
