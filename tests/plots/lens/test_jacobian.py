"""What the figure of a Jacobian lens shows: shares by layer, of one fit or of two."""

from __future__ import annotations

import numpy as np
import pytest
from drawn import legend
from gallery import jacobian_lens

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.lens.jacobian import jacobian


def test_the_identity_share_and_the_noise_of_two_fits():
    one, two = jacobian_lens(5), jacobian_lens(5, 1)
    axes = jacobian(one)
    [line] = axes.lines
    np.testing.assert_allclose(line.get_ydata(), one.identity_share()["share"])
    np.testing.assert_allclose(line.get_xdata(), range(5))
    assert (axes.get_legend(), axes.get_ylabel()) == (None, "Identity share of the matrix")
    axes = jacobian(one, two)
    assert legend(axes) == ["identity", "noise", "noise without the identity"]
    floor = one.noise_floor(two)
    for line, name in zip(axes.lines[1:], ("noise", "noise_apart"), strict=True):
        np.testing.assert_allclose(line.get_ydata(), floor[name])


def test_what_it_does_not_draw():
    with pytest.raises(InputTypeError, match="lens must be a Jacobian lens; got dict"):
        jacobian({})
    with pytest.raises(InputTypeError, match="other must be a Jacobian lens"):
        jacobian(jacobian_lens(2), {})
    with pytest.raises(InputError, match=r"other has layers \(0, 1, 2\)"):
        jacobian(jacobian_lens(2), jacobian_lens(3))
