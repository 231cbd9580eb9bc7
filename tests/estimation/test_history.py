"""The line that a training's losses follow in the logarithm of the tokens seen."""

from __future__ import annotations

import numpy as np
import pytest

import tl_entropy as tle


def history(tokens, losses):
    n = len(tokens)
    return tle.TrainingHistory(tuple(range(1, n + 1)), (9.0,) * n, tuple(losses), tuple(tokens), (0.0,) * n, {})


def test_a_line_is_that_of_least_squares_with_its_errors():
    draw = np.random.default_rng(0)
    tokens = np.array([100, 250, 300, 700, 900, 1800])
    losses = 3 - 0.2 * np.log2(tokens) + 0.05 * draw.normal(size=6)
    fit = history(tokens.tolist(), losses).log_fit()
    design = np.stack([np.log2(tokens), np.ones(6)], 1)
    right, residual, *_ = np.linalg.lstsq(design, losses, rcond=None)
    errors = np.sqrt(np.diag(residual / 4 * np.linalg.inv(design.T @ design)))
    assert (fit.slope, fit.intercept) == pytest.approx(tuple(right))
    assert (fit.slope_se, fit.intercept_se) == pytest.approx(tuple(errors))
    assert fit.at(3600) == pytest.approx(right[0] * np.log2(3600) + right[1])
    later = history(tokens.tolist(), losses).log_fit(first=3)
    assert later.fewest == 300
    assert later.slope == pytest.approx(np.polyfit(np.log2(tokens[2:]), losses[2:], 1)[0])


def test_nothing_is_said_of_what_is_far_from_the_records_or_of_too_few():
    fit = history([100, 200, 400], [3.0, 2.0, 1.5]).log_fit()
    assert fit.at(50) > fit.at(800)
    for tokens in (49, 801):
        with pytest.raises(tle.InputError, match="tokens must be from 50 to 800"):
            fit.at(tokens)
    with pytest.raises(tle.InputError, match="three records or more; from step 2 on there are 2"):
        history([100, 200, 400], [3.0, 2.0, 1.5]).log_fit(first=2)
