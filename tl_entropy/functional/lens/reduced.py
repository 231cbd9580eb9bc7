"""Whether products of bfloat16 help: measured on the job's own shape, once for each shape in a process, in a few milliseconds.

A processor with bfloat16 units multiplies rounded factors in about half the time of float32; one without them may convert
number by number, and take some fifty times as long. How much is gained hangs on the width of the model, too, and on how its
unembedding is held, since each tile of that is rounded first where it is not in bfloat16.

It is asked of one thread: what threads lose by waiting for each other, in many small steps, says nothing of the processor, and
beside other work is most of the time.

Refused: reduced precision where it does not help, in each of several tries; not where one of them is in doubt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from tl_entropy.errors import InputError
from tl_entropy.functional.lens.products import TileProducts
from tl_entropy.functional.lens.timing import paired_times

_ROWS, _WIDTH, _TRIES = 128, 960, 12
_NARROWEST = 512
"""Narrower models are measured as this wide: of them a tile takes microseconds, and calls would be what is measured."""
_SLOWER = 1.05
"""Above this share of the time in float32, reduced precision does not help; what is nearer to 1 is the clock's."""
_BEYOND_DOUBT = 10.0
"""Above this share in two tries no other one would change anything."""


class Product(NamedTuple):
    """What the time of a tile's product hangs on.

    Attributes:
        d_model: numbers of a row.
        dtype: of the unembedding.
        columns_lie_together: in the unembedding, as stored [d_vocab, d_model].
        rounded: whether it is held in bfloat16, too, so that no tile needs to be rounded.
    """

    d_model: int
    dtype: torch.dtype
    columns_lie_together: bool
    rounded: bool = False


def check_reduced(unembedding: Tensor, *, rounded: bool = False) -> None:
    """Raise InputError where products with it take longer in bfloat16, into which it may be rounded, than in float32.

    Of accelerators none is asked.
    """
    if unembedding.device.type != "cpu":
        return
    d_model = max(len(unembedding), _NARROWEST)
    product = Product(d_model, unembedding.dtype, unembedding.stride(0) == 1, rounded)
    if (share := reduced_time(product)) > _SLOWER:
        raise InputError(
            f"precision='bfloat16' does not help on this processor: its products at d_model {d_model} take {share:.3g} times "
            "as long as those of float32, as without bfloat16 units; use precision='float32'"
        )


@cache
def reduced_time(product: Product) -> float:
    """Processor time of a tile in bfloat16 over that in float32, in one thread, at the least: of a few pairs of tries.

    The first pair in which it helps is the last one.

    >>> reduced_time(Product(512, torch.float32, True)) > 0
    True
    """
    least = float("inf")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pairs = paired_times(_tile(product, reduced=True), _tile(product, reduced=False), time.thread_time)
        for n, (reduced, plain) in enumerate(islice(pairs, _TRIES)):
            least = min(least, reduced / plain)
            if least <= _SLOWER or (n and least > _BEYOND_DOUBT):
                break
    finally:
        torch.set_num_threads(threads)
    return least


def _tile(product: Product, *, reduced: bool) -> Callable[[], object]:
    stored = torch.zeros(_WIDTH, product.d_model, dtype=product.dtype)
    unembedding = stored.t() if product.columns_lie_together else stored.t().contiguous()
    if reduced and product.rounded:
        unembedding = unembedding.to(torch.bfloat16)
    products = TileProducts(
        unembedding, None, scale=1.0, softcap=None, dtype=torch.float32, reduced=reduced, rows=_ROWS, width=_WIDTH
    )
    products.begin(torch.zeros(_ROWS, product.d_model))
    return lambda: list(products.tiles())
