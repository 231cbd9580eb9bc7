"""Threads, processes, and Python without asserts."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from public import READERS
from states import differences
from tiny_models import LONG, cached_model, kinds, make_model

import tl_entropy as tle
from tl_entropy.capture.hooks import Turns, turns

pytestmark = pytest.mark.model
TEXTS = ["the cat sat on the mat", "def f(x):\n    return x + 1", "dog and cat and dog"]
QUIET = {"progress": False}


def measured(texts):
    """Means of the lens entropies of some texts, by a model of this process's own."""
    torch.set_num_threads(1)
    return tle.lens_entropy(make_model("gpt2", kinds()[0]), texts, **QUIET).entropy.mean(0).flatten().tolist()


@pytest.mark.parametrize(
    "method", [pytest.param("spawn", marks=pytest.mark.long), pytest.param("fork", marks=pytest.mark.long)]
)
def test_pools_give_what_one_process_gives(method):
    expected = [measured([text]) for text in TEXTS]
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(measured, [[text] for text in TEXTS])
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=2e-5, rtol=0)


def test_several_analyses_in_threads_on_one_model():
    model = cached_model("gpt2", kinds()[0])
    calls = {
        "lens": lambda: tle.lens_entropy(model, TEXTS, **QUIET).entropy,
        "heads": lambda: tle.head_entropy(model, TEXTS, **QUIET).entropy,
        "surprisal": lambda: tle.token_surprisal(model, TEXTS, **QUIET).surprisal,
        "edited": lambda: tle.lens_entropy(model, TEXTS, interventions=tle.ablate("mlp_out.1"), **QUIET).entropy,
    }
    expected = {name: call() for name, call in calls.items()}
    found, wrong = {}, []

    def run(name, turn):
        try:
            found[name, turn] = calls[name]()
        except Exception as error:
            wrong.append((name, error))

    threads = [threading.Thread(target=run, args=(name, turn)) for turn in range(20 if LONG else 1) for name in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    for (name, _), value in found.items():
        torch.testing.assert_close(value, expected[name], equal_nan=True)
    assert len(found) == len(threads)


def test_a_proof_that_waits_for_its_turn_keeps_nobody_waiting(monkeypatch):
    """Python 3.11's cached properties hold a lock that all objects of a class share."""
    model, whole = make_model("gpt2", kinds()[0]), Turns.held
    first, second, waits, done = tle.Adapter(model), tle.Adapter(model), threading.Event(), threading.Event()
    one = threading.Thread(target=lambda: first.readout, daemon=True)

    def held(self):
        if threading.current_thread() is one:
            waits.set()
        return whole(self)

    def has_its_turn():
        with whole(turns(model)):
            one.start()
            waits.wait()
            _ = second.readout
        done.set()

    monkeypatch.setattr(Turns, "held", held)
    threading.Thread(target=has_its_turn, daemon=True).start()
    assert done.wait(120)
    one.join()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif("bridge" not in kinds(), reason="a HookedTransformer has modules of its own")
def test_models_around_one_hugging_face_model_wait_for_each_other():
    """Their hooks are on the same modules: each would see the other's activations."""
    from transformer_lens.model_bridge import TransformerBridge

    one = make_model("gpt2", "bridge")
    other = TransformerBridge.boot_transformers("the same", hf_model=one.original_model, tokenizer=one.tokenizer)
    assert turns(one) is turns(other)
    assert turns(one) is not turns(make_model("gpt2", "bridge"))
    calls = [
        partial(tle.lens_entropy, model, TEXTS, sites="resid_post", layers=i, **QUIET) for i, model in enumerate((one, other))
    ]
    expected, found = [call().entropy for call in calls], {}
    threads = [
        threading.Thread(target=lambda i=i, turn=turn: found.update({(i, turn): calls[i]().entropy}))
        for turn in range(20 if LONG else 4)
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(threads)
    for (i, _), entropy in found.items():
        torch.testing.assert_close(entropy, expected[i])


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_every_analysis_in_a_thread_of_its_own_on_one_model():
    """All that ``public.py`` names, so that a new one is here, too."""
    model, found, wrong = cached_model("gpt2", kinds()[0]), {}, {}
    expected = {name: read(model, TEXTS * 2) for name, read in READERS.items()}

    def run(name):
        try:
            found[name] = READERS[name](model, TEXTS * 2)
        except Exception as error:
            wrong[name] = error

    threads = [threading.Thread(target=run, args=(name,)) for name in READERS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == {}
    own = ("created", "seconds", "compiled", "stamp")
    assert {name: lines for name in READERS if (lines := differences(expected[name], found[name], leave=own))} == {}


@pytest.mark.long
def test_without_asserts_it_refuses_and_measures_the_same():
    code = """
import torch, tl_entropy as tle
model = tle.demo_model()
try:
    tle.lens_entropy(model, [None], progress=False)
except tle.InputTypeError:
    print(tle.lens_entropy(model, "import os", progress=False).entropy.flatten().tolist())
assert False
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(tle.__file__).parents[1])}
    run = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, env=environment, check=True)
    expected = tle.lens_entropy(tle.demo_model(), "import os", **QUIET).entropy.flatten().tolist()
    assert eval(run.stdout.splitlines()[-1]) == pytest.approx(expected, abs=2e-5)
