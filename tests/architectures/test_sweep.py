"""The sweep: every architecture that TransformerBridge holds, as a tiny model, against Hugging Face's own model.

A few rows are tests like any other; all of them with ``TL_ENTROPY_TESTS=architectures``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from zlib import crc32

import pytest
import transformers
from architectures.making import exists
from architectures.measures import Outcome, Subject, attempt, outcomes, surprises
from architectures.report import symbol
from architectures.row import MEASURES, Row, refused, wrong
from architectures.table import ROWS, WITHOUT_A_CLASS, WITHOUT_TEXT

pytestmark = pytest.mark.skipif(
    int(version("transformer-lens").split(".")[0]) < 4, reason="the sweep is of TransformerBridge, as it is from 4 on"
)
ALL = os.environ.get("TL_ENTROPY_TESTS") == "architectures"


def registered():
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    return SUPPORTED_ARCHITECTURES


def row(name):
    [found] = [row for row in ROWS if row.name == name]
    return found


@pytest.mark.parametrize("row", [row for row in ROWS if ALL or row.quick], ids=lambda row: row.name.replace(" ", "-"))
def test_every_cell_is_as_expected(row):
    """Where it has to be quick, every third cell, so that a third of the rows see each measure."""
    if not exists(row):
        pytest.skip(f"transformers {transformers.__version__} has no {row.architecture}")
    measures = MEASURES if ALL else MEASURES[crc32(row.name.encode()) % 3 :: 3]
    assert surprises(row, outcomes(row, measures)) == []


# --- the table is whole --------------------------------------------------------------------------------------------------


def test_every_adapter_of_transformer_lens_has_a_row_or_a_reason():
    held = registered()
    named = {row.registered or row.architecture for row in ROWS} | set(WITHOUT_A_CLASS) | set(WITHOUT_TEXT)
    adapters = {held[name] for name in named if name in held}
    assert sorted(name for name, adapter in held.items() if adapter not in adapters) == [], "these need a row each"


def test_rows_are_of_architectures_that_transformer_lens_has():
    assert [row.name for row in ROWS if (row.registered or row.architecture) not in registered()] == []


def test_classes_that_are_said_to_lack_do():
    assert [name for name in WITHOUT_A_CLASS if hasattr(transformers, name)] == [], "these can have a row now"


def test_the_page_shows_what_is_expected():
    """docs/architectures.md is made by report.py; this sees that it was made of this table."""
    page = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text()
    shown = {
        cells[0]: cells[1:] for line in page.splitlines() if len(cells := line.strip("| ").split(" | ")) == 1 + len(MEASURES)
    }
    for row in ROWS:
        if row.name in shown:  # transformers lacks the others, which the page says
            cells = ["refused" if re.fullmatch(r"\[\d+\]", cell) else cell for cell in shown[row.name]]
            assert cells == [symbol(row, measure) for measure in MEASURES], f"{row.name}: make docs/architectures.md anew"
        else:
            assert f"- {row.architecture}: this version" in page, f"{row.name}: make docs/architectures.md anew"


def test_names_are_different_and_the_usual_tests_have_a_dozen():
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert len({row.architecture for row in ROWS}) >= 103
    assert sum(row.quick for row in ROWS) == 12


# --- the sweep sees what it is there for ---------------------------------------------------------------------------------


def test_a_model_that_is_not_hugging_faces_is_seen_in_every_measure():
    subject = Subject(row("llama"))
    attention = subject.hf.model.layers[0].self_attn
    attention.v_proj.weight.data.mul_(1.1)
    attention.q_proj.weight.data.mul_(1.1)
    found = {measure: attempt(measure, getattr(subject, measure)).kind for measure in MEASURES}
    assert found == dict.fromkeys(MEASURES, "off") | {"bf16": "ok"}, "bfloat16 is compared with a model of its own"


@pytest.mark.parametrize(
    ("cells", "seen", "as_expected"),
    [
        ({}, Outcome("ok", difference=1e-6), True),
        ({}, Outcome("off", difference=0.1), False),
        ({}, Outcome("refused", "ModelError: no heads"), False),
        ({}, Outcome("failed", "KeyError: 1"), False),
        ({"all": refused("no heads")}, Outcome("refused", "ModelError: no heads"), True),
        ({"all": refused("no heads")}, Outcome("refused", "ModelError: no norm"), False),
        ({"all": refused("no heads")}, Outcome("failed", "RuntimeError: no heads"), False),
        ({"all": refused("no heads")}, Outcome("ok", difference=0.0), False),
        ({"all": wrong("^off", right="ok")}, Outcome("off", difference=0.1), True),
        ({"all": wrong("^off", right="ok")}, Outcome("ok", difference=0.0), False),
        ({"all": wrong("^failed: KeyError", right="ok")}, Outcome("refused", "ModelError: no heads"), False),
    ],
)
def test_what_is_a_surprise(cells, seen, as_expected):
    assert (surprises(Row("tiny", "Tiny", {}, cells), {"last": seen}) == []) == as_expected


def test_nothing_is_installed():
    with pytest.raises(OSError, match="nothing is installed"):
        subprocess.check_call([sys.executable, "-m", "pip", "install", "torchvision"])
    with pytest.raises(OSError, match="nothing is installed"):
        subprocess.run(["uv", "pip", "install", "torchvision"], check=True)
    assert subprocess.run([sys.executable, "-c", ""], check=True).returncode == 0
