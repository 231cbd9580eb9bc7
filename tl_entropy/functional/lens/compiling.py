"""Sums over a tile through torch.compile: all of them in one pass over its logits, compiled once for each choice of sums.

Sizes are symbolic, so neither another number of rows nor the narrower last tile compiles anything again. Whether compiled code
is the faster one depends on the processor, and is measured: of each choice of sums by itself, on a tile of the job's own shape,
once in a process. A job is first large enough for the try, which costs some 15 s of compiling.
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
from typing import Any, Literal

import torch
from torch import Tensor

from tl_entropy.errors import InputError
from tl_entropy.functional.lens.timing import first_is_faster, paired_times
from tl_entropy.torch_state import steady

Compiled = bool | Literal["faster"] | None
"""Whether sums run as compiled code; "faster": where that is measured to be faster; None: the same, for large jobs."""

# Compiling takes some 15 s, and on two threads saves about 0.7 ns a logit where it is faster. From this many logits on it is a
# twentieth of the job at most, so that little is lost where it is not.
_WORTH_COMPILING = 2**36


@steady
def compiler_available(device: str | torch.device = "cpu") -> bool:
    """Return whether torch.compile has what it builds with: a C++ compiler and Python's headers, or Triton on a GPU.

    >>> isinstance(compiler_available("cpu"), bool)
    True
    """
    try:
        kind = torch.device(device).type
    except (TypeError, ValueError, RuntimeError) as error:  # torch's, of what is no device
        raise InputError(f"device must be one of torch's, such as 'cpu' or 'cuda:0'; got {device!r}") from error
    if kind != "cpu":
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


class SumsOfTiles:
    """How the sums of one job run: as compiled code, eagerly in the job's buffers, or each in the way that is faster.

    Attributes:
        buffers: [3, numbers of a tile], free between two tiles; None where all sums are compiled and need none.
        compiled: whether any sums run, or have run, as compiled code.
    """

    def __init__(self, asked: bool | Literal["faster"], buffers: Callable[[], Tensor]) -> None:
        self._asked = asked
        self.buffers = None if asked is True else buffers()
        self.compiled = asked is True

    def __call__(self, sums: Callable[..., Tensor], **choice: Hashable) -> Callable[..., Tensor]:
        """Return ``sums`` with the keywords of ``choice``, a function of tensors only; eager, it works in ``buffers=``."""
        eager = functools.partial(sums, buffers=self.buffers, **choice)
        if self._asked is False:
            return eager
        compiled = compiled_sums(sums, **choice)
        if self._asked is True:
            return compiled

        def faster(*tensors: Tensor) -> Tensor:
            wins = compiled_is_faster(sums, tensors, **choice)
            self.compiled |= wins
            return compiled(*tensors) if wins else eager(*tensors)

        return faster


def compiled_is_faster(sums: Callable[..., Tensor], tensors: tuple[Tensor, ...], **choice: Hashable) -> bool:
    """Return whether compiled sums of such tensors take no longer than eager ones.

    Measured once in a process for a choice of sums and a shape, sizes up to the next power of two being one.

    Args:
        sums: takes ``buffers`` [3, numbers of the first tensor] to work in where it is not compiled.
        tensors: that sums are over; measured are others of their shapes, since some sums write over them.
        choice: keywords of ``sums``.
    """
    shapes = tuple((tensor.dtype, *(size.bit_length() for size in tensor.shape)) for tensor in tensors)
    key = (sums, tuple(choice.items()), shapes, tensors[0].device, torch.get_num_threads())
    if key not in _faster:
        tensors = tuple(torch.zeros_like(tensor) for tensor in tensors)
        buffers = tensors[0].new_empty(3, tensors[0].numel())
        run = compiled_sums(sums, **choice)

        def compiled() -> None:
            run(*tensors)
            _wait(tensors[0].device)

        def eager() -> None:
            sums(*tensors, buffers=buffers, **choice)
            _wait(tensors[0].device)

        # What else the machine does takes no processor time from this process.
        clock = time.process_time if tensors[0].device.type == "cpu" else time.perf_counter
        _faster[key] = first_is_faster(paired_times(compiled, eager, clock))
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
    return torch.compile(own, dynamic=True, fullgraph=True, options=_options())


def _options() -> dict[str, Any]:
    """Have products and sums fused to one step: a third less time for the same sums, each rounded once less."""
    from torch._inductor import config as inductor  # half a second, of which an import of this package takes none

    name = "enable_floating_point_contract_flag"
    return {f"cpp.{name}": "fast" if isinstance(getattr(inductor.cpp, name), str) else True}  # older PyTorch: a bool
