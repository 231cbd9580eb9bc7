"""What the numbers mean: a page for each quantity, with all that a reader has to know of it; and none is left out."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from page_blocks import ROOT, blocks

from tl_entropy.analyses.states.matrix_similarity import QUANTITIES
from tl_entropy.results.heads.entropy import QUANTITIES as OF_HEADS
from tl_entropy.results.information.soft import Quantity
from tl_entropy.results.profiles.distances import POWERS
from tl_entropy.results.states.geometry import MEASURES
from tl_entropy.results.tokens.site_values import CONFIDENCE, UNIGRAM
from tl_entropy.results.tokens.surprisal import COLUMNS

FOLDER = ROOT / "docs" / "numbers"
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
QUANTITY = {name: text for name, text in TEXTS.items() if "| definition |" in text}
FAMILIES = {name: text for name, text in TEXTS.items() if name not in QUANTITY and name != "index"}
ROWS = ("in results", "call", "definition", "unit", "range", "null", "ceiling", "standard error", "source")
MEASURED = {
    *get_args(Quantity), *QUANTITIES, *MEASURES, *POWERS, *COLUMNS, *OF_HEADS, "kl", "reverse_kl", "total_variation",
    "agreement", "decided", "settled", "accuracy", "complexity", "expressivity", "optimality", "velocity", "distance_to_output",
    "share", "cka", "l1", "cosine", "gradient", "slope", *CONFIDENCE, *UNIGRAM,
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTITY)
def test_a_page_says_all_of_its_quantity(name):
    text = QUANTITY[name]
    assert tuple(re.findall(r"^\| ([a-z ]+) \| \S", text, re.M)) == ROWS
    assert re.search(r"^## When not to use it\n\n- ", text, re.M)
    [example] = blocks(text)
    assert (example.language, example.needs) == ("python", "")
    assert example.output, "a reader sees what it prints"


def test_every_quantity_has_a_page():
    named = set(re.findall(r"`(\w+)", "\n".join(re.findall(r"^\| in results \| (.*) \|$", "\n".join(QUANTITY.values()), re.M))))
    assert not MEASURED - named


def test_every_page_is_of_one_family_and_every_family_in_the_index():
    listed = [
        name for text in FAMILIES.values() for name in re.search(r"```{toctree}\n:hidden:\n\n(.*?)```", text, re.S)[1].split()
    ]
    assert sorted(listed) == sorted(QUANTITY)
    assert all(f"\n{family}\n" in TEXTS["index"] for family in FAMILIES)
