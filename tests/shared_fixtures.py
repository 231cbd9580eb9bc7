"""Fixtures that the tests share; the models themselves are in ``tiny_models.py``."""

from __future__ import annotations

import gc
import os
import re
import signal
import weakref
from collections import defaultdict
from functools import cache
from pathlib import Path
from zlib import crc32

import matplotlib
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

os.environ["HF_HUB_OFFLINE"] = "1"  # no test waits for a hub

# Shapes and dtypes in annotations are checked while the tests run, and only then; not in modules whose arguments users hand in,
# since there the package's own errors are tested, nor in long runs, where odd arguments come to all. What was imported before
# would not be checked, nor can what is checked be counted.
if "SLIPCOVER_ENABLED" not in os.environ and os.environ.get("TL_ENTROPY_TESTS") != "long":
    install_import_hook(["tl_entropy.functional.statistics", "tl_entropy.results.lens.entropy"], "beartype.beartype")

from tiny_models import ARCHITECTURES, GATE, LONG, PAGES, cached_model, kinds, number

from tl_entropy import demo
from tl_entropy.capture import sighted
from tl_entropy.functional import compiler_available

settings.register_profile("quick", max_examples=12, deadline=None, derandomize=True, database=None)
settings.register_profile("long", max_examples=300, deadline=None, database=None)
settings.load_profile("long" if LONG else "quick")
matplotlib.use("Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores
    torch.set_num_threads(1)
    threadpool_limits(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background jobs; Ctrl-C is tested, too
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The bundled model is read once a process, for examples in docstrings, too; who changes its weights loads one by its folder.
demo.load_model = cache(demo.load_model)


def _once(proof):
    """A proof, asked once a process of a model whose weights and ids stay the same."""
    known = weakref.WeakKeyDictionary()

    def asked(runner, *more):
        found = known.setdefault(runner.turns, {})
        key = runner.fingerprint, runner.stack.of, runner.pad_id, *runner.special_ids
        if key not in found:
            found[key] = proof(runner, *more)
        return found[key]

    return asked


_ASKED_ONCE = {name: _once(getattr(sighted, name)) for name in ("unmasked", "sight")}


@pytest.fixture(autouse=True)
def _looks_back_as_before(request, monkeypatch):
    """The two short passes of each call, a third of a test's time, are run once a model where no test is about them."""
    if not LONG and "proofs" not in request.path.parts:
        for name, asked in _ASKED_ONCE.items():
            monkeypatch.setattr(sighted, name, asked)


def pytest_collection_finish():
    """What is loaded by now stays to the end: rubbish is not looked for in it after every few hundred new objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(params=ARCHITECTURES, ids=lambda p: f"{p[0]}-{p[1]}-{'compatible' if p[2] else 'raw'}")
def any_model(request):
    return cached_model(*request.param)


@pytest.fixture(params=kinds())
def gpt2(request):
    return cached_model("gpt2", request.param)


@pytest.fixture(autouse=True)
def _reduced_precision_helps(monkeypatch):
    """What bfloat16 does to numbers is tested on processors without units for it, too."""
    from tl_entropy.functional.lens import reduced

    monkeypatch.setattr(reduced, "reduced_time", lambda threads: 0.5)


@pytest.fixture
def blank_figures(monkeypatch):
    """For tests that ask only which figures are written: they are, and nothing is in them, which is quick."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, to, **options: hasattr(to, "write") or Path(to).touch())


@pytest.fixture
def texts():
    return ["the cat sat on the mat", "def f(x):\n    return x + 1", "the", "dog and cat and dog and the mat sat"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Leave out tests marked ``long``, ``slow``, ``compiled`` or ``pages`` unless they are asked for."""
    for item, mark in _spared(items):
        item.add_marker(mark)
    for item in items:
        if item.get_closest_marker("compiled") and not compiler_available():
            item.add_marker(pytest.mark.skip(reason="torch.compile finds no C++ compiler here"))
    marks = ["long", "compiled"] * (not GATE) + ["slow"] * (not LONG) + ["pages"] * (not PAGES)
    left = {item for item in items if any(map(item.get_closest_marker, marks))}
    config.hook.pytest_deselected(items=list(left))
    items[:] = [item for item in items if item not in left]


def _spared(items):
    """Of a test of every model, or of one marked ``thinned``: all cases but every fourth, each with its mark."""
    tests = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec") and ("any_model" in item.callspec.params or item.get_closest_marker("thinned")):
            tests[item.parent.nodeid, item.originalname].append(item)
    for (_, name), cases in tests.items():
        places, numbers = {}, []
        for item in cases:
            names, model = item.callspec.id, item.callspec.params.get("any_model")
            if model is not None:
                names = names.replace("{}-{}-{}".format(*model[:2], "compatible" if model[2] else "raw"), "")
            names = re.sub("hooked|bridge", "", names)  # both kinds of one case, where there are both
            numbers.append(places.setdefault(names, len(places)) + (0 if model is None else number(*model)))
        step = min(4, len(set(numbers)))
        for item, n in zip(cases, numbers, strict=True):
            if turn := (n + crc32(name.encode())) % step:
                yield item, "long" if turn == 1 else "slow"
