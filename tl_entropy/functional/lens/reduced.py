"""Whether products of bfloat16 help: measured on the job's own shape, once for each shape in a process, in a few milliseconds.

A processor with bfloat16 units multiplies rounded factors in about half the time of float32; one without them may convert
number by number, and take some fifty times as long. How much is gained hangs on the width of the model, too, and on how its
unembedding is held, since each tile of that is rounded first where it is not in bfloat16.

Refused: reduced precision where it does not help.
"""

from __future__ import annotations

import time
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from tl_entropy.errors import InputError
from tl_entropy.functional.lens.products import TileProducts

_ROWS, _WIDTH, _TRIES = 128, 960, 5
_NARROWEST = 512
"""Narrower models are measured as this wide: of them a tile takes microseconds, and calls would be what is measured."""
_SLOWER = 1.05
"""Above this share of the time in float32, reduced precision does not help; what is nearer to 1 is the clock's."""


class Product(NamedTuple):
    """What the time of a tile's product hangs on.

    Attributes:
        d_model: numbers of a row.
        dtype: of the unembedding.
        columns_lie_together: in the unembedding, as stored [d_vocab, d_model].
        rounded: whether it is held in bfloat16, too, so that no tile needs to be rounded.
        threads: that torch uses.
    """

    d_model: int
    dtype: torch.dtype
    columns_lie_together: bool
    threads: int
    rounded: bool = False


def check_reduced(unembedding: Tensor, *, rounded: bool = False) -> None:
    """Raise InputError where products with it take longer in bfloat16, into which it may be rounded, than in float32.

    Of accelerators none is asked.
    """
    if unembedding.device.type != "cpu":
        return
    d_model = max(len(unembedding), _NARROWEST)
    product = Product(d_model, unembedding.dtype, unembedding.stride(0) == 1, torch.get_num_threads(), rounded)
    if (share := reduced_time(product)) > _SLOWER:
        raise InputError(
            f"precision='bfloat16' does not help on this processor: its products at d_model {d_model} take {share:.3g} times "
            "as long as those of float32, as without bfloat16 units; use precision='float32'"
        )


@cache
def reduced_time(product: Product) -> float:
    """Processor time of a tile in bfloat16 over that in float32: the shortest of a few tries of each, in turn.

    >>> reduced_time(Product(512, torch.float32, True, torch.get_num_threads())) > 0
    True
    """
    stored = torch.zeros(_WIDTH, product.d_model, dtype=product.dtype)
    unembedding = stored.t() if product.columns_lie_together else stored.t().contiguous()
    hidden = torch.zeros(_ROWS, product.d_model)
    ways, shortest = {}, {}
    for reduced in (False, True):
        held = unembedding.to(torch.bfloat16) if reduced and product.rounded else unembedding
        ways[reduced] = TileProducts(
            held, None, scale=1.0, softcap=None, dtype=torch.float32, reduced=reduced, rows=_ROWS, width=_WIDTH
        )
        ways[reduced].begin(hidden)
        shortest[reduced] = float("inf")
    for attempt in range(_TRIES):
        for reduced, products in ways.items():
            started = time.process_time()
            for _ in products.tiles():
                pass
            taken = time.process_time() - started
            if attempt:  # the first prepares the kernel, and of bfloat16 takes the rows' maxima
                shortest[reduced] = min(shortest[reduced], taken)
        if attempt and shortest[True] > 10 * shortest[False]:  # nothing that another try could change
            break
    return shortest[True] / shortest[False]
