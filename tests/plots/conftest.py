"""A test finds no figures, and its own are closed when it ends."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def _close():
    plt.close("all")  # what tests from elsewhere in this process have left
    yield
    plt.close("all")
