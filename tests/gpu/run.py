"""Every public function on an accelerator against the same on the CPU, and the readout's time and memory there.

    python tests/gpu/run.py                  on the accelerator that torch finds; where it finds none, on ``other``
    python tests/gpu/run.py --device other   shows where devices are mixed, on any machine; see ``other_device.py``
    python tests/gpu/run.py --parts tensors models anchors memory time

It needs the repository, what its tests need, and no network; on ``other`` three minutes of one core. It exits with 1 where a
number is off by more than 1e-4, a count is another one, or a function that works on the CPU fails. Of ranks and likeliest
tokens, which rounding decides where two are nearly as probable, one in a hundred may differ.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import numbers_of_models
import numbers_of_tensors
import other_device
import torch
from digests import leaves
from tiny_models import kinds, make_model

import tl_entropy as tle
from tl_entropy.functional import soft_anchors, soft_assignments, vocabulary_statistics

PARTS = ("tensors", "models", "anchors", "memory", "time")
TINY = ("gpt2", "llama", "neox", "gemma2")
TOLERANCE = 1e-4
BY_ROUNDING = ("rank", "token", "decided", "agree", "accuracy", "top")
"""In the names of what rounding decides; of reduced precision, whose rounding is coarse, it is not compared."""
ONE_IN = 100
OF_THE_RUN = {"created", "versions", "device", "compiled", "provenance", "weights", "state"}


class Values:
    """Calls functions with their tensors on a device, and keeps what comes back, on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.found: dict[str, torch.Tensor | str] = {}

    def fields(self, name, function, *args, **options):
        try:
            value = function(*self._moved(args), **self._moved(options))
            found = leaves(value, name)
        except Exception as error:  # told, and counted
            value, found = None, {name: f"{type(error).__name__}: {error}"}
        self.found |= {where: leaf for where, leaf in found.items() if OF_THE_RUN.isdisjoint(where.split("/"))}
        return value

    __call__ = fields

    def _moved(self, value):
        if isinstance(value, torch.Tensor):
            return value.to(self.device)
        if type(value) in (tuple, list):
            return type(value)(map(self._moved, value))
        return {key: self._moved(part) for key, part in value.items()} if type(value) is dict else value


@contextmanager
def models_on(device: torch.device) -> Iterator[None]:
    """Tiny and bundled models are on a device, as a user puts them there."""

    @functools.cache
    def on_device(name, kind, compatible=False):
        return moved(make_model(name, kind, compatible=compatible), device)

    bundled = tle.demo_model
    with (
        patch.object(numbers_of_models, "cached_model", on_device),
        patch.object(numbers_of_models, "make_model", lambda *choice, **options: moved(make_model(*choice, **options), device)),
        patch.object(tle, "demo_model", lambda **options: moved(bundled(**options), device)),
        patch.object(numbers_of_models, "ARCHITECTURES", [(name, kinds()[0], False) for name in TINY]),
        patch.object(numbers_of_models, "kinds", lambda: kinds()[:1]),
    ):  # fmt: skip
        yield


def moved(model, device: torch.device):
    """The model there; weights that were one stay one, as attributes too, which a class of its own doesn't do by itself."""
    if device.type != "cpu":
        owners = defaultdict(list)
        for held in [*(module._parameters for module in model.modules()), *map(vars, model.modules())]:
            for name, weight in held.items():
                if isinstance(weight, torch.nn.Parameter):
                    owners[id(weight)].append((held, name))
        # Weights of a class of its own can't be set into those that are there. Left so, models made later would have no weight
        # that is one in two places: every ``to`` of theirs would part them.
        torch.__future__.set_overwrite_module_params_on_conversion(device.type == other_device.NAME)
        try:
            with warnings.catch_warnings(action="ignore"):
                model.to(device)
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
        for (first, called), *others in owners.values():
            for held, name in others:
                held[name] = first[called]
    return model


def measured(part: str, device: torch.device) -> dict[str, torch.Tensor | str]:
    """All values of one part on a device."""
    values = Values(device)
    with warnings.catch_warnings(action="ignore"):
        if part == "tensors":
            numbers_of_tensors.write_tensors(values, dtypes=(torch.float32,))
        else:
            with models_on(device):
                numbers_of_models.write_models(values)
    return values.found


def compared(cpu: dict[str, torch.Tensor | str], there: dict[str, torch.Tensor | str]) -> list[str]:
    """What is not the same on both, a line each."""
    lines = []
    for name in [*cpu, *(name for name in there if name not in cpu)]:
        one, other = cpu.get(name, "nothing"), there.get(name, "nothing")
        if "bfloat16" in name and any(part in name for part in BY_ROUNDING):
            continue
        if isinstance(one, str) or isinstance(other, str):
            if one is not other and str(one)[:60] != str(other)[:60] and not _near(one, other):
                lines.append(f"{name}: {str(one)[:200]} | {str(other)[:200]}")
        elif one.shape != other.shape or one.dtype != other.dtype:
            lines.append(f"{name}: {one.dtype}{list(one.shape)} | {other.dtype}{list(other.shape)}")
        elif not one.is_floating_point():
            share = (one != other).double().mean().item() if one.numel() else 0.0
            if share > (1 / ONE_IN if any(part in name for part in BY_ROUNDING) else 0):
                lines.append(f"{name}: {share:.1%} are other ones")
        else:
            tolerance = 0.1 if "bfloat16" in name else TOLERANCE
            close = torch.isclose(one.double(), other.double(), rtol=tolerance, atol=tolerance, equal_nan=True)
            share = (~close).double().mean().item() if one.numel() else 0.0
            if share > (1 / ONE_IN if any(part in name for part in BY_ROUNDING) else 0):
                worst = (one.double() - other.double()).abs()[~close].nan_to_num(posinf=float("inf")).max().item()
                lines.append(f"{name}: {share:.1%} are off, by up to {worst:.3g}")
    return lines


def _near(one, other) -> bool:
    """Whether two texts are numbers in hexadecimal that are nearly the same."""
    try:
        a, b = (float.fromhex(text) for text in (one, other))
    except (TypeError, ValueError):
        return False
    return abs(a - b) <= TOLERANCE * max(1.0, abs(a))


def agreement(part: str, device: torch.device) -> int:
    """Print how values of a part agree; how many do not."""
    started = time.perf_counter()
    cpu, there = (measured(part, place) for place in (torch.device("cpu"), device))
    lines = compared(cpu, there)
    print(f"## {part}: {len(cpu)} values on the CPU and on {device}, {len(lines)} of them other ones, "
          f"{time.perf_counter() - started:.0f} s", *lines, sep="\n")  # fmt: skip
    return len(lines)


def anchors(device: torch.device) -> int:
    """Anchors are the same bits whatever the default device is."""
    expected = soft_anchors(64, 100, seed=3)
    with device:  # as torch.set_default_device does
        same = torch.equal(expected, soft_anchors(64, 100, seed=3))
    print(f"## anchors: {'the same bits' if same else 'OTHER BITS'} where the default device is {device}")
    return int(not same)


def memory(device: torch.device) -> int:
    """A batch for which memory runs out is halved, and the numbers stay."""
    model, texts = moved(tle.demo_model(), device), [text[:600] for text in tle.demo_texts(8)]
    whole = tle.lens_entropy(model, texts, progress=False)
    torch.accelerator.empty_cache()
    share = (torch.accelerator.memory_allocated(device) + 2**26) / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(share, device)
    try:
        with warnings.catch_warnings(action="ignore"):
            halved = tle.lens_entropy(model, texts * 32, batch_size=256, progress=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    off = (halved.entropy[: len(whole.entropy)] - whole.entropy).abs().max().item()
    print(f"## memory: batches of 256 in 64 MB beside the model: {halved.provenance.corpus}; off by {off:.2g} nats")
    return int(off > TOLERANCE)


def timing(device: torch.device) -> int:
    """The readout of a large model beside the plain product, in bfloat16, and soft assignment of 32 sites."""
    d_model, d_vocab, rows, sites = 4096, 128_000, 8192, 32
    draw = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(rows, d_model, device=device, generator=draw, dtype=torch.bfloat16)
    unembedding = torch.randn(d_model, d_vocab, device=device, generator=draw, dtype=torch.bfloat16) / d_model**0.5
    states = torch.randn(rows, d_model, device=device, generator=draw)
    directions = soft_anchors(d_model, 100).to(device)

    def product():
        for part in hidden.split(1024):  # all logits at once would be 2 GB
            part @ unembedding

    def readout(compiled):
        vocabulary_statistics(hidden, unembedding, orders=(0.5, 1, 2, 5), precision="bfloat16", compiled=compiled)

    def assignment():
        for _ in range(sites):
            soft_assignments(states, directions, 0.01)

    ways = {"the plain product": product, "readout, eager": lambda: readout(False), "readout, compiled": lambda: readout(True)}
    ways[f"soft assignment of {sites} sites"] = assignment
    shortest = dict.fromkeys(ways, float("inf"))
    peak = dict.fromkeys(ways, 0)
    for attempt in range(4):
        for name, run in ways.items():
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            torch.accelerator.synchronize(device)
            started = time.perf_counter()
            run()
            torch.accelerator.synchronize(device)
            if attempt:  # the first compiles
                shortest[name] = min(shortest[name], time.perf_counter() - started)
            peak[name] = max(peak[name], torch.cuda.max_memory_allocated(device) - before)
    print(f"## time on {torch.cuda.get_device_name(device)}: {rows} rows, d_model {d_model}, vocabulary {d_vocab}, bfloat16")
    for name, seconds in shortest.items():
        share = seconds / shortest["the plain product"]
        print(
            f"{name:30} {1000 * seconds:9.2f} ms  {share:6.2f} of the product  {peak[name] / 2**20:8.0f} MB beyond its inputs"
        )
    return 0


def main() -> int:
    """Run the parts that the command line names; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="such as cuda:0; other is a device that is none")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    name = given.device or ("cuda" if torch.cuda.is_available() else other_device.NAME)
    device = other_device.register() if name == other_device.NAME else torch.device(name)
    print(f"torch {torch.__version__}, {device}")
    wrong = 0
    for part in given.parts:
        if part in ("tensors", "models"):
            wrong += agreement(part, device)
        elif part == "anchors":
            wrong += anchors(device)
        elif device.type == "cuda":
            wrong += {"memory": memory, "time": timing}[part](device)
        else:
            print(f"## {part}: not run, since {device} is no CUDA device")
    print("all agree" if not wrong else f"{wrong} do not agree")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
