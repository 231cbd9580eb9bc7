"""Whether products of bfloat16 help on this machine: measured once for a process, in a few milliseconds.

A processor with bfloat16 units multiplies rounded factors in about half the time of float32; one without them may convert
number by number, and take some fifty times as long.

Refused: reduced precision where it does not help.
"""

from __future__ import annotations

import time
from functools import cache

import torch

from tl_entropy.errors import InputError

_ROWS, _WIDTH, _COLUMNS, _TRIES = 128, 512, 2048, 5
_SLOWER = 1.05
"""Above this share of the time in float32, reduced precision does not help; what is nearer to 1 is the clock's."""


def check_reduced(device: torch.device) -> None:
    """Raise InputError where products of bfloat16 take longer than those of float32; of accelerators none is asked."""
    if device.type == "cpu" and (share := reduced_time(torch.get_num_threads())) > _SLOWER:
        raise InputError(
            f"precision='bfloat16' does not help on this processor: its products take {share:.3g} times as long as those of "
            "float32, as without bfloat16 units; use precision='float32'"
        )


@cache
def reduced_time(threads: int) -> float:
    """Time of a product of bfloat16 over that of float32 on the CPU: the shortest of a few tries of each, in turn.

    Args:
        threads: that torch uses; measured anew for another number.

    >>> reduced_time(torch.get_num_threads()) > 0
    True
    """
    factors = torch.ones(_ROWS, _WIDTH), torch.ones(_WIDTH, _COLUMNS)
    shortest = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for attempt in range(_TRIES):
        for dtype in shortest:
            one, other = (factor.to(dtype) for factor in factors)
            started = time.perf_counter()
            torch.mm(one, other)
            taken = time.perf_counter() - started
            if attempt:  # the first prepares the kernel
                shortest[dtype] = min(shortest[dtype], taken)
        if attempt and shortest[torch.bfloat16] > 10 * shortest[torch.float32]:  # nothing that another try could change
            break
    return shortest[torch.bfloat16] / shortest[torch.float32]
