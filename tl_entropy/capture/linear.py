"""What a linear module of a model does to rows, as a matrix and a bias.

What a model calls W_U or W_O is what it multiplies by only where the module is a plain linear layer: an adapter adds to it, a
quantised one is packed integers, an offloaded one holds no numbers at all. So the module itself is asked, with rows of the
identity matrix: with a few of them first, and where its answers are the rows of the weight and its bias, the weight is taken as
it is, which copies nothing; else with all of them, and the answers are the matrix.

A module that is not linear has a matrix, too, of what it does to single coordinates. Whether that is what it does to any row is
for the proofs to say that use it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tl_entropy.capture.condition import is_plain
from tl_entropy.capture.hooks import as_found, silent

_SOME = 16
_AT_ONCE = 1024
"""Rows of the identity that the module is asked with: to begin with, and at once."""


def linear_map(
    module: nn.Module,
    d_in: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """The matrix [d_in, d_out] and bias [d_out] (None for zeros) of a module: x @ matrix + bias.

    Args:
        module: takes rows [1, row, d_in]; nobody's hooks fire.
        d_in: width of its rows, where no plain weight says it.
        weight: [d_in, d_out], what the model says that the matrix is; None where it says nothing.
        bias: [d_out] likewise.
        dtype: of the rows, where the module has no plain weights.
        device: of the rows, where the module has no weights that are anywhere.

    >>> layer = nn.Linear(3, 2)
    >>> matrix, bias = linear_map(layer, 3, layer.weight.T, layer.bias, dtype=torch.float32, device=torch.device("cpu"))
    >>> matrix.data_ptr() == layer.weight.data_ptr()
    True
    >>> both = nn.Sequential(layer, nn.Linear(2, 2))
    >>> matrix, bias = linear_map(both, 3, layer.weight.T, layer.bias, dtype=torch.float32, device=torch.device("cpu"))
    >>> x = torch.randn(4, 3)
    >>> bool((x @ matrix + bias - both(x)).abs().max() < 1e-5)
    True
    """
    dtype = next((own.dtype for own in module.parameters() if is_plain(own)), dtype)
    device = next((own.device for own in module.parameters() if own.device.type != "meta"), device)

    def answers(coordinates: Tensor) -> Tensor:
        """Of rows of the identity; -1 is a row of zeros."""
        rows = torch.zeros(len(coordinates), d_in + 1, dtype=dtype, device=device)
        rows[torch.arange(len(coordinates), device=device), coordinates.to(device)] = 1
        with as_found(module), silent(module):
            found: Tensor = module(rows[None, :, :-1])[0]
        return found

    together = bias is None or (weight is not None and is_plain(bias) and bias.device == weight.device)  # none left behind
    if weight is not None and is_plain(weight) and weight.ndim == 2 and together:
        d_in = weight.shape[0]
        some = torch.linspace(0, d_in - 1, min(_SOME, d_in)).long()
        told = torch.cat([weight.new_zeros(1, weight.shape[1]), weight.detach()[some.to(weight.device)]])
        if _agree(answers(torch.cat([torch.tensor([-1]), some])), told if bias is None else told + bias.detach()):
            return weight.detach(), bias.detach() if bias is not None and bool(bias.any()) else None
    constant, matrix = torch.cat([answers(part) for part in torch.arange(-1, d_in).split(_AT_ONCE)]).split([1, d_in])
    # Where a bias of -inf rules a token out, the matrix says nothing.
    matrix = (matrix - constant).masked_fill_(~constant.isfinite(), 0.0)
    return matrix, constant[0].clone() if bool(constant.any()) else None


def _agree(found: Tensor, told: Tensor) -> bool:
    """Whether answers are what was told, but for the last digit."""
    if found.shape != told.shape:
        return False
    digit = torch.finfo(found.dtype).eps
    return bool(torch.isclose(found, told.to(found), rtol=digit, atol=0.0, equal_nan=True).all())
