"""Fixtures that the tests share; the models themselves are in ``tiny_models.py``."""

from __future__ import annotations

import os
import signal

import matplotlib
import pytest
import torch
from jaxtyping import install_import_hook
from tiny_models import ARCHITECTURES, cached_model, kinds

matplotlib.use("Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores
    torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background jobs; Ctrl-C is tested, too
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Shapes and dtypes in annotations are checked while the tests run, and only then; not in modules whose arguments users hand in,
# since there the package's own errors are tested.
install_import_hook(["tl_entropy.functional.statistics", "tl_entropy.results.lens.entropy"], "beartype.beartype")


@pytest.fixture(params=ARCHITECTURES, ids=lambda p: f"{p[0]}-{p[1]}-{'compatible' if p[2] else 'raw'}")
def any_model(request):
    return cached_model(*request.param)


@pytest.fixture(params=kinds())
def gpt2(request):
    return cached_model("gpt2", request.param)


@pytest.fixture
def texts():
    return ["the cat sat on the mat", "def f(x):\n    return x + 1", "the", "dog and cat and dog and the mat sat"]
