"""Every public function that reads a model reads entropy-estimation models, of every kind: in any batch, form and padding."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from importlib.metadata import version

import pytest
import torch
from crossings import padded
from public import READERS, VARIANTS
from small_models import SETTINGS, small_model
from tiny_models import LONG

import tl_entropy as tle

pytestmark = pytest.mark.model

TEXTS = ["import os\nimport sys", "def f(x): return", "x = 1, 2, 3 and 4", "from re import findall"]
ALL = {**READERS, **VARIANTS}
PATTERNS = ("head_entropy", "head_entropy, summary", "token_reliance, tokens")
HEADS = ("head_entropy, readout", "head_means")
ONE_PASS = ("label_plan", "train_tuned_lens", "EntropyMonitor", "entropy_calibration")
"""Those that take no size of batches, or train or draw batch by batch."""
QUICK = [
    ("layer_divergence", "memory attention token"), ("token_surprisal", "autoencoder heads"), ("neurons", "causal kernel"),
    ("layer_geometry", "past attention token"),
]  # fmt: skip
MODELS = [*list(SETTINGS)[::3], "memory attention token", "past attention token", "autoencoder heads"]
EVERY = [(reader, model) for reader in ALL for model in MODELS]
CROSSED = EVERY if LONG else EVERY[::8] if version("transformer-lens").startswith("3.") else QUICK


def refused(reader, config):
    """What a reader says of a model that lacks what it reads; None where it reads it."""
    if reader == "entropy_calibration" and config.reads_ahead:
        return "no text of its own"
    if reader in PATTERNS[:2] and config.mixer != "attention":
        return "no pattern at layer 0"
    if reader in PATTERNS and (config.mixer != "attention" or config.kind != "causal"):
        return None if reader in PATTERNS[:2] else "attention cannot be masked"
    if reader in HEADS and config.mixer == "conv":
        return "no z at layer 0"
    return None


def numbers(found, name=""):
    """All tensors in what a reader gives, by where they are."""
    if isinstance(found, torch.Tensor):
        return {name: found}
    if isinstance(found, torch.nn.Module):
        found = found.state_dict()
    if dataclasses.is_dataclass(found):
        found = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    if isinstance(found, Mapping):
        return {at: x for key, value in found.items() for at, x in numbers(value, f"{name}.{key}").items()}
    return {}


def inputs(model):
    """The same documents in several forms."""
    begin = [256] * model.cfg.default_prepend_bos
    rows = [[*begin, *text.encode()] for text in TEXTS]
    yield "texts", TEXTS, None
    yield "texts one by one", TEXTS, 1
    yield "padded on the left", padded(rows, left=True), None


@pytest.mark.parametrize(("reader", "name"), CROSSED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_reader_reads_every_kind_in_any_batch_and_padding(reader, name):
    model, call = small_model(name), ALL[reader]
    if (said := refused(reader, model.config)) is not None:
        with pytest.raises((tle.InputError, tle.ModelError), match=said):
            call(model, TEXTS)
        return
    expected: dict[str, torch.Tensor] = {}
    for form, given, size in inputs(model):
        if size is not None and reader in ONE_PASS:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = numbers(call(model, given, **({} if size is None else {"batch_size": size})))
        assert found
        expected = expected or found
        assert set(found) == set(expected)
        for at, right in expected.items():
            if not right.is_floating_point():
                assert torch.equal(found[at], right), (form, at)
            elif "n_bytes" not in at and "n_characters" not in at and "span" not in at:
                message = lambda text, at=at, form=form: f"{form}, {at}: {text}"  # noqa: E731
                size_of = max(1.0, float(right.nan_to_num(posinf=0, neginf=0).abs().amax())) if right.numel() else 1.0
                torch.testing.assert_close(found[at], right, atol=1e-5 * size_of, rtol=1e-5, equal_nan=True, msg=message)
