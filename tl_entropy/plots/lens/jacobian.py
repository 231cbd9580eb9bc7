"""What a Jacobian lens is made of, by layer: the share of each matrix that is the identity, and what of it is noise of the fit.

All three are shares of squared norms. A figure only reads ``identity_share`` and ``noise_floor`` of a lens.

Refused: something that is no Jacobian lens; two fits of other layers or another width.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from tl_entropy.errors import InputTypeError
from tl_entropy.lenses.jacobian import JacobianLens, as_lens
from tl_entropy.plots.depth import depth_axis, draw_course, finish_courses
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.style import Limits, Width, canvas, line_styles
from tl_entropy.torch_state import steady


@steady
def jacobian(lens: Any, other: Any = None, *, ylim: Limits = None, width: Width = None, ax: Axes | None = None) -> Axes:
    r"""Identity share of every matrix of a Jacobian lens, and beside another fit the noise of both.

    Near 1 a layer is read as by the logit lens. Where the noise without the identity is near 1, all that the lens adds to the
    logit lens changes from one set of prompts to the next.

    Args:
        lens: a ``JacobianLens``, or an object of TransformerLens's class.
        other: a fit of the same layers on other prompts; None draws the identity share alone.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: another fit of other layers or another width.
        InputTypeError: something that is no Jacobian lens.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import torch
    >>> import tl_entropy as tle
    >>> one, two = (tle.JacobianLens(torch.eye(3).repeat(2, 1, 1) * k, (0, 1), 40, "memory") for k in (1.0, 2.0))
    >>> [text.get_text() for text in tle.plots.jacobian(one, two).get_legend().get_texts()]
    ['identity', 'noise', 'noise without the identity']
    """
    lens = as_lens(lens)
    if not isinstance(lens, JacobianLens):
        raise InputTypeError(f"lens must be a Jacobian lens; got {kind_of(lens)}")
    shares = {"identity": lens.identity_share()["share"]}
    if other is not None:
        floor = lens.noise_floor(other)
        shares |= {"noise": floor["noise"], "noise without the identity": floor["noise_apart"]}
    depth = lens.identity_share()["layer"].to_numpy(dtype=float)
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        styles = line_styles([(name,) for name in shares])
        for share, (style, label) in zip(shares.values(), styles, strict=True):
            draw_course(axes, depth, share.to_numpy(), None, style=style, label=label)
        depth_axis(axes, [depth])
        axes.set_ylabel("Share of the squared norm" if len(shares) > 1 else "Identity share of the matrix")
        finish_courses(axes, [share.to_numpy() for share in shares.values()], len(shares), own=ax is None)
    return axes
