"""What the figure of a calibration draws: courses over steps, which are whole."""

from __future__ import annotations

import numpy as np
from drawn import ticks
from gallery import calibrated

from tl_entropy.plots.tokens.calibration import calibration


def test_courses_over_whole_steps():
    result = calibrated(5, 0)
    axes = calibration(result)
    assert all(name.isdigit() for name in ticks(axes.xaxis))
    profile = result.mean_profile()
    for line, quantity in zip(axes.lines, ("own", "given"), strict=False):
        np.testing.assert_allclose(line.get_ydata(), profile[profile["quantity"] == quantity]["mean"])
