"""Nothing is installed while these tests run, whatever TransformerLens tries."""

from __future__ import annotations

import pytest
from architectures.making import nothing_installed


@pytest.fixture(autouse=True)
def _nothing_installed():
    with nothing_installed():
        yield
