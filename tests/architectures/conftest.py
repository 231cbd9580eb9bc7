"""Nothing is installed while these tests run, whatever TransformerLens tries."""

from __future__ import annotations

import pytest

from tl_entropy.capture.loading.images import reading_only


@pytest.fixture(autouse=True)
def _nothing_installed():
    with reading_only():
        yield
