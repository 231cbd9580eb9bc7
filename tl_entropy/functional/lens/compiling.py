"""Sums over a tile through torch.compile: all of them in one pass over its logits, compiled once for each choice of sums.

Sizes are symbolic, so neither another number of rows nor the narrower last tile compiles anything again. Whether compiled code
is the faster one depends on the processor, and is measured: on a tile of the job's own shape, once for each choice of sums in a
process. A job is first large enough for the try, which costs some 15 s of compiling.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sysconfig
import time
import warnings
from collections.abc import Callable, Hashable
from pathlib import Path
from types import FunctionType
from typing import Literal

import torch
from torch import Tensor

from tl_entropy.errors import InputError
from tl_entropy.torch_state import steady

Compiled = bool | Literal["faster"] | None
"""Whether sums run as compiled code; "faster": where that is measured to be faster; None: the same, for large jobs."""

# Compiling takes some 15 s, and on two threads saves about 0.7 ns a logit where it is faster. From this many logits on it is a
# twentieth of the job at most, so that little is lost where it is not.
_WORTH_COMPILING = 2**36
_TRIES = 5


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


def worth_trying(n_logits: int, device: torch.device) -> bool:
    """Return whether there are logits enough for compiled sums to pay, and a compiler."""
    return n_logits >= _WORTH_COMPILING and compiler_available(device)


def decide_compiled(compiled: Compiled, n_logits: int, device: torch.device) -> bool | Literal["faster"]:
    """Return whether to compile the sums over so many logits; refuse to where it was asked for and cannot be done."""
    if compiled and not compiler_available(device):
        raise InputError(
            "compiled=True needs a C++ compiler and Python's headers (on a GPU: Triton); none found: use compiled=False"
        )
    if compiled is None:
        return "faster" if worth_trying(n_logits, device) else False
    return compiled


def compiled_sums(sums: Callable[..., Tensor], **choice: Hashable) -> Callable[..., Tensor]:
    """Return ``sums`` with the keywords of ``choice``, a function of tensors only, as compiled code."""
    keywords = tuple(choice.items())

    def run(*tensors: Tensor) -> Tensor:
        compiled = _compiled(sums, keywords, _kinds(tensors))
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


def compiled_is_faster(sums: Callable[..., Tensor], tensors: tuple[Tensor, ...], **choice: Hashable) -> bool:
    """Return whether compiled sums of these tensors take no longer than eager ones; measured once for a choice and its kinds.

    Args:
        sums: takes ``buffers`` [3, numbers of the first tensor] to work in where it is not compiled.
        tensors: that sums are over, of the job's own shape; what they hold does not matter.
        choice: keywords of ``sums``.
    """
    key = (sums, tuple(choice.items()), _kinds(tensors), tensors[0].device, torch.get_num_threads())
    if key not in _faster:
        buffers = tensors[0].new_empty(3, tensors[0].numel())
        ways: dict[bool, Callable[..., Tensor]] = {
            True: compiled_sums(sums, **choice),
            False: functools.partial(sums, buffers=buffers, **choice),
        }
        shortest = dict.fromkeys(ways, float("inf"))
        for attempt in range(_TRIES):
            for way, run in ways.items():
                _wait(tensors[0].device)
                started = time.perf_counter()
                run(*tensors)
                _wait(tensors[0].device)
                if attempt:  # the first compiles
                    shortest[way] = min(shortest[way], time.perf_counter() - started)
        _faster[key] = shortest[True] <= shortest[False]
    return _faster[key]


_faster: dict[Hashable, bool] = {}


def _wait(device: torch.device) -> None:
    """Let an accelerator end what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _kinds(tensors: tuple[Tensor, ...]) -> tuple[Hashable, ...]:
    """Dtypes and shapes, all sizes from 2 on being one: those of 0 and 1 are no symbols, and compile for themselves."""
    return tuple((tensor.dtype, *(min(size, 2) for size in tensor.shape)) for tensor in tensors)


@functools.cache
def _compiled(
    sums: Callable[..., Tensor], keywords: tuple[tuple[str, Hashable], ...], kinds: tuple[Hashable, ...]
) -> Callable[..., Tensor]:
    def chosen(*tensors: Tensor) -> Tensor:
        return sums(*tensors, **dict(keywords))

    # torch.compile counts what it compiled by code object and gives up after eight: each choice gets its own.
    own = FunctionType(chosen.__code__.replace(), globals(), "sums", closure=chosen.__closure__)
    return torch.compile(own, dynamic=True, fullgraph=True)
