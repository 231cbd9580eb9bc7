"""Every public function's numbers, to see whether a change of the code has changed one.

    python tests/all_numbers.py before.json
    ...                                                 # the change, or PYTHONPATH of another version
    python tests/all_numbers.py after.json
    python tests/all_numbers.py --compare before.json after.json

It measures the bundled model and the tiny ones of every architecture and kind that the installed TransformerLens has, by public
names alone, so that it runs on any version. Each number is written as a digest of its bytes, and a comparison lists those that
differ, and exits with 1 where one does. Numbers are equal between two runs on one machine with the same libraries; other
processors and other versions of torch round differently.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from digests import differences, digests
from numbers_of_models import write_models
from numbers_of_tensors import write_tensors

import tl_entropy as tle

LIBRARIES = ("torch", "numpy", "transformers", "transformer-lens")
OF_THE_RUN = {"created", "versions"}
"""Of a provenance, what is of the run and not of its numbers."""
NO_NUMBERS = {"save", "export", "select", "rows", "to_xarray"}
"""Methods of results that add no number."""


class Record:
    """Calls functions, and keeps the numbers that come back; where one refuses, the kind of its error."""

    def __init__(self) -> None:
        self.numbers: dict[str, str] = {}
        self.refused: list[str] = []

    def fields(self, name, function, *args, **options):
        """What ``function`` gives, a result with its fields; None where it refuses."""
        try:
            value = function(*args, **options)
        except tle.TLEntropyError as error:
            self.numbers[name] = type(error).__name__
            self.refused.append(name)
            return None
        found = digests(value, name)
        self.numbers |= {where: number for where, number in found.items() if OF_THE_RUN.isdisjoint(where.split("/"))}
        return value

    def __call__(self, name, function, *args, **options):
        """The same, and all that a result says without being asked for something in particular, also in bits."""
        value = self.fields(name, function, *args, **options)
        if hasattr(value, "to_pandas"):
            self._methods(name, value)
            in_bits = self.fields(f"{name}/in bits", value.to, "bits")
            self.fields(f"{name}/in bits/to_pandas()", in_bits.to_pandas)
        return value

    def _methods(self, name, result) -> None:
        for method in dir(type(result)):
            kind = getattr(type(result), method)
            if method.startswith("_") or method in NO_NUMBERS:
                continue
            if isinstance(kind, property):
                self.fields(f"{name}/{method}", getattr, result, method)
            elif inspect.isfunction(kind) and not _asks(kind):
                self.fields(f"{name}/{method}()", getattr(result, method))


def _asks(method) -> bool:
    """Whether a method needs an argument."""
    _, *parameters = inspect.signature(method).parameters.values()
    return any(parameter.default is parameter.empty for parameter in parameters)


def written(path: Path) -> Record:
    """Measure, and write the numbers to ``path``."""
    torch.set_num_threads(1)
    record = Record()
    with warnings.catch_warnings(action="ignore"):
        write_tensors(record)
        write_models(record)
    about = {"tl_entropy": tle.__version__, **{name: version(name) for name in LIBRARIES}}
    path.write_text(json.dumps({"versions": about, "numbers": record.numbers}, indent=0, ensure_ascii=False) + "\n")
    return record


def main(arguments: list[str] | None = None) -> int:
    """Write the numbers, or compare two files of them; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, help="the file to write")
    parser.add_argument("--compare", nargs=2, type=Path, metavar="FILE", help="two files to compare")
    given = parser.parse_args(arguments)
    if given.compare:
        one, other = (json.loads(path.read_text()) for path in given.compare)
        lines = differences(one["numbers"], other["numbers"])
        print(*lines, f"{len(lines)} of {len(one['numbers'].keys() | other['numbers'].keys())} numbers differ", sep="\n")
        return int(bool(lines))
    if given.path is None:
        parser.error("give the file to write, or --compare with two files")
    started = time.perf_counter()
    record = written(given.path)
    print("refused:", *record.refused, sep="\n  ")
    print(f"{len(record.numbers)} numbers in {time.perf_counter() - started:.0f} s; tl_entropy of {Path(tle.__file__).parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
