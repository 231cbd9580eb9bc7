"""`tile_sums` through torch.compile: every sum of a tile in one pass over it, compiled once for each choice of orders.

Sizes are symbolic, so neither another number of rows nor the narrower last tile compiles anything again.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import torch
from torch import Tensor

from tl_entropy.errors import InputError
from tl_entropy.functional.tiles import tile_sums


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


def compiled_tile_sums(orders: tuple[float, ...], ranked: bool) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return ``tile_sums`` for these orders, with the row of counts where ``ranked``, as compiled code."""
    compiled = _compiled(orders, ranked)

    def run(logits: Tensor, threshold: Tensor | None) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return compiled(logits, threshold)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise InputError(
                    f"compiled=True needs a working torch.compile; it failed: pass compiled=False. {error}"
                ) from error

    return run


@functools.cache
def _compiled(orders: tuple[float, ...], ranked: bool) -> Callable[[Tensor, Tensor | None], Tensor]:
    def sums(logits: Tensor, threshold: Tensor | None) -> Tensor:
        return tile_sums(logits, orders, threshold if ranked else None)

    # torch.compile counts what it compiled by code object and gives up after eight: each choice gets its own.
    own = FunctionType(sums.__code__.replace(), globals(), "sums", closure=sums.__closure__)
    return torch.compile(own, dynamic=True, fullgraph=True)
