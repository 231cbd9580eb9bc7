"""What the figure of features shows: areas with errors, the best by chance, the probe."""

from __future__ import annotations

import numpy as np
import pytest
from drawn import legend
from gallery import discrimination as made
from matplotlib.container import ErrorbarContainer

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.tokens.discrimination import discrimination


def test_areas_errors_chance_and_the_probe():
    result = made(5)
    axes = discrimination(result)
    [bars] = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
    np.testing.assert_allclose(bars.lines[0].get_ydata(), result.auroc[:5].numpy())
    levels = {round(float(line.get_ydata()[0]), 6) for line in axes.lines if len(set(line.get_ydata())) == 1}
    edge = float(result.null.quantile(0.95))
    assert {0.5, round(0.5 - edge, 6), round(0.5 + edge, 6), round(result.auroc[-1].item(), 6)} <= levels
    assert legend(axes) == ["best by chance", "probe, held out", "feature"]


def test_risks_of_the_best_of_the_probe_and_of_all():
    result = made(5)
    axes = discrimination(result, of="risk")
    best = result.aurc[:5].argsort()[:3].tolist()
    drawn = [line.get_ydata() for line in axes.lines]
    for line, feature in zip(drawn, [*best, 5], strict=False):
        np.testing.assert_allclose(line, result.risk[feature].numpy())
    assert set(drawn[4]) == {0.5}
    assert legend(axes) == [*(result.features[i] for i in best), "probe, held out", "all spans"]
    assert len(discrimination(made(1), of="risk").lines) == 3
    with pytest.raises(InputError, match="of must be one of 'auroc', 'risk'; got 'aurc'"):
        discrimination(result, of="aurc")


def test_what_it_does_not_draw():
    with pytest.raises(InputTypeError, match="result must be one of discriminate; got dict"):
        discrimination({})
