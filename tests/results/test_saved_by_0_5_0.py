"""What 0.5.0 saved is read as it was: every kind of result, its numbers bit for bit, its print and its table.

The files and what they should say were written by ``saved_by_0_5_0/make.py``. Where a print or a table is changed on purpose,
change it in ``expected.json``, too; its digests of numbers never.
"""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from digests import digests

import tl_entropy as tle
from tl_entropy.results.base import Result

FOLDER = Path(__file__).parent / "saved_by_0_5_0"
SINCE = FOLDER.with_name("saved_since_0_5_0")
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
RESULTS = EXPECTED["results"]


def maker():
    spec = importlib.util.spec_from_file_location("make", FOLDER / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = maker()


def table_of(says):
    return pd.read_csv(io.StringIO("\n".join(says["table"])))


def path_of(name):
    return FOLDER / (name if name == "ModelComparison" else f"{name}.safetensors")


def read(path):
    return (tle.load_tuned_lens if path.stem == "TunedLens" else tle.load)(path)


@pytest.mark.parametrize("name", RESULTS)
def test_it_says_what_it_said(name):
    found, expected = MAKER.says(read(path_of(name))), RESULTS[name]
    assert found["kind"] == expected["kind"]
    # A kind may have got more fields, and its table more columns, since.
    assert {where: found["fields"].get(where) for where in expected["fields"]} == expected["fields"]
    assert (found["repr"], found["lines"]) == (expected["repr"], expected["lines"])
    if expected["lines"]:
        table = table_of(expected)
        pd.testing.assert_frame_equal(table_of(found)[list(table)], table, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", RESULTS)
def test_it_saves_and_loads_again(name, tmp_path):
    first = read(path_of(name))
    again = read(first.save(tmp_path / path_of(name).name))
    assert type(again) is type(first)
    assert digests(again) == digests(first)


def test_every_kind_that_could_be_saved_then_has_a_file():
    assert {result["kind"] for result in RESULTS.values()} == set(EXPECTED["kinds"])
    assert set(EXPECTED["kinds"]) <= {*Result.kinds, "ModelComparison"}
    files = {path.name for path in FOLDER.iterdir()} - {"make.py", "expected.json", "__pycache__"}
    assert files == {path_of(name).name for name in RESULTS}
    assert EXPECTED["versions"]["tl_entropy"] == "0.5.0"


@pytest.mark.long
def test_load_knows_every_kind_before_anything_else_was_imported():
    since = {path: path.stem.split("_")[0] for path in sorted(SINCE.glob("*.safetensors"))}
    kinds = {path_of(name): result["kind"] for name, result in RESULTS.items() if name != "TunedLens"} | since
    code = f"import tl_entropy as tle; print(*[type(tle.load(path)).__name__ for path in {[str(path) for path in kinds]}])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == list(kinds.values())
