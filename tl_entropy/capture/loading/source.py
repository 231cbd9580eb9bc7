"""The Hugging Face model and tokenizer of a folder, which TransformerLens wraps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tl_entropy.capture.loading.bridges import reading_class
from tl_entropy.errors import InputError

_OF_TOKENIZERS = ("*tokenizer*", "*vocab*", "*.model", "*.tiktoken")
"""How files are called of which a folder with a tokenizer has at least one."""


def read_model(folder: Path, dtype: torch.dtype, *, trust_remote_code: bool) -> Any:
    """The Hugging Face model of a folder, of the class that TransformerLens has for its architecture, in evaluation mode."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise InputError(f"model: {folder} has no config.json; a model's folder in Hugging Face's layout is needed")
    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(folder, **options)
    with _no_progress_bar():
        # Eager attention, so that attention patterns come past their hooks on every architecture.
        return (
            reading_class(config)
            .from_pretrained(folder, config=config, dtype=dtype, attn_implementation="eager", **options)
            .eval()
        )


def read_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any | None:
    """The tokenizer of a folder; None where it has none."""
    from transformers import AutoTokenizer

    if not any(path.is_file() for pattern in _OF_TOKENIZERS for path in folder.glob(pattern)):
        return None
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    if trust_remote_code:  # TransformerLens reads it a second time from where it came, and would ask
        tokenizer.init_kwargs["trust_remote_code"] = True
    return tokenizer


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """A folder is read in a moment: no bar for that, and the user's setting as it was afterwards."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
