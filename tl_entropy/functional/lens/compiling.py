"""Sums over a tile through torch.compile: all of them in one pass over its logits, compiled once for each choice of sums.

Sizes are symbolic, so neither another number of rows nor the narrower last tile compiles anything again.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable, Hashable
from pathlib import Path
from types import FunctionType

import torch
from torch import Tensor

from tl_entropy.errors import InputError
from tl_entropy.torch_state import steady

# Compiling takes some 15 s and then saves about 0.5 ns a logit on two threads: below this many logits it does not pay.
_WORTH_COMPILING = 2**35


@steady
def compiler_available(device: str | torch.device = "cpu") -> bool:
    """Return whether torch.compile has what it builds with: a C++ compiler and Python's headers, or Triton on a GPU.

    >>> isinstance(compiler_available("cpu"), bool)
    True
    """
    if torch.device(device).type != "cpu":
        return importlib.util.find_spec("triton") is not None
    candidates = [os.environ.get("CXX", ""), "g++", "clang++"]
    has_headers = Path(sysconfig.get_paths()["include"], "Python.h").is_file()
    return has_headers and any(name and shutil.which(name) for name in candidates)


def decide_compiled(compiled: bool | None, n_logits: int, device: torch.device) -> bool:
    """Return whether to compile the sums over so many logits; refuse to where it was asked for and cannot be done."""
    if compiled and not compiler_available(device):
        raise InputError(
            "compiled=True needs a C++ compiler and Python's headers (on a GPU: Triton); none found: use compiled=False"
        )
    if compiled is None:
        return n_logits >= _WORTH_COMPILING and compiler_available(device)
    return compiled


def compiled_sums(sums: Callable[..., Tensor], **choice: Hashable) -> Callable[..., Tensor]:
    """Return ``sums`` with the keywords of ``choice``, a function of tensors only, as compiled code."""
    keywords = tuple(choice.items())

    def run(*tensors: Tensor) -> Tensor:
        # Sizes of 0 and 1 are no symbols: they, too, compile for themselves.
        kinds = tuple((tensor.dtype, *(min(size, 2) for size in tensor.shape)) for tensor in tensors)
        compiled = _compiled(sums, keywords, kinds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return compiled(*tensors)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise InputError(
                    f"compiled=True needs a working torch.compile; it failed: pass compiled=False. {error}"
                ) from error

    return run


@functools.cache
def _compiled(
    sums: Callable[..., Tensor], keywords: tuple[tuple[str, Hashable], ...], kinds: tuple[Hashable, ...]
) -> Callable[..., Tensor]:
    def chosen(*tensors: Tensor) -> Tensor:
        return sums(*tensors, **dict(keywords))

    # torch.compile counts what it compiled by code object and gives up after eight: each choice gets its own.
    own = FunctionType(chosen.__code__.replace(), globals(), "sums", closure=chosen.__closure__)
    return torch.compile(own, dynamic=True, fullgraph=True)
