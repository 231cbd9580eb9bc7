"""docs/models.md: every row of its table names a test that there is, and every refusal is in the words of the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import tl_entropy

ROOT = Path(__file__).parent.parent
ROWS = [line.strip("| \n").split(" | ") for line in (ROOT / "docs/models.md").open() if line.startswith("| ")][1:]


def words_of_the_package():
    """Every text in the package's code, with its parts that are filled in as one mark."""
    found = []
    for path in Path(tl_entropy.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.sub(r"\W+", " ", row[0])[:40])
def test_a_row_is_checked_by_a_test(row):
    _, _, test = row
    path, name = test.strip("`").split("::")
    assert name in [node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)]


def test_what_is_refused_or_warned_of_is_in_the_packages_words():
    texts = words_of_the_package()
    for state, happens, _ in ROWS:
        for said in re.findall(r'(?:refused|warned|says): ?"([^"]+)"', happens):
            for part in re.split(r" ?\.\.\.,?|[(]8 bits by bitsandbytes|: (?=they)", said):
                assert part.strip(" ):,") in texts, (state, part)


def test_the_page_has_every_state():
    assert len(ROWS) > 30
    page = " ".join(row[0].lower() for row in ROWS)
    for state in (
        "adapter in a folder", "merged adapter", "lora on lm_head", "torchao", "bitsandbytes", "quanto", "hqq", "accelerate",
        "gguf", "torch.compile", "float16, bfloat16, float64", "two dtypes", "several devices", "images", "no tokenizer",
        "code in the folder", "leftover hooks", "failed", "encoder-decoder", "masked model", "no final norm",
    ):  # fmt: skip
        assert state in page
