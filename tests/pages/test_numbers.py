"""What the numbers mean: a page for each quantity, with all that a reader has to know of it; and none is left out."""

from __future__ import annotations

import inspect
import re
from typing import get_args

import pytest
from page_blocks import ROOT, blocks

import tl_entropy as tle
from tl_entropy.analyses.states.matrix_similarity import QUANTITIES
from tl_entropy.results import Result
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

WITHOUT_A_PAGE = {
    # what makes models, texts, labels, edits and files
    "ablate", "ablate_heads", "ablate_neurons", "add_noise", "alone", "demo_lens", "demo_model", "demo_names",
    "demo_texts", "estimation_model", "head_means", "label_plan", "load", "load_accumulator", "load_assignments",
    "load_jacobian_lens", "load_model", "load_tuned_lens", "mask_attention", "memories", "ngram", "occlude", "quantize",
    "read_direction", "read_stimuli", "run", "site_means", "span_labels", "steer", "stream", "train_estimation",
    "train_tuned_lens",
    # what gives several quantities, each of which has its page
    "compare_models", "profile_embedding", "functional.pairwise_samples", "functional.vocabulary_changes",
    "functional.vocabulary_divergences", "functional.vocabulary_statistics",
    # parts of a quantity
    "functional.calibrate_temperature", "functional.common_depth", "functional.compiler_available",
    "functional.covering_spans", "functional.gram_matrix", "functional.min_max", "functional.piece_spans",
    "functional.quantize", "functional.soft_anchors", "functional.soft_assignments", "functional.token_sizes",
    "functional.uniform_noise",
    # what is saved and loaded like a result, and is none of one quantity
    "EntropyHistory", "ProfileEmbedding", "TunedLens",
}  # fmt: skip
"""Public functions and kinds of results that belong to no quantity."""


def row(name):
    """What the pages of quantities say in this row of their tables, together."""
    return "\n".join(re.findall(rf"^\| {name} \| (.*) \|$", "\n".join(QUANTITY.values()), re.M))


@pytest.mark.parametrize("name", QUANTITY)
def test_a_page_says_all_of_its_quantity(name):
    text = QUANTITY[name]
    assert tuple(re.findall(r"^\| ([a-z ]+) \| \S", text, re.M)) == ROWS
    assert re.search(r"^## When not to use it\n\n- ", text, re.M)
    [example] = blocks(text)
    assert (example.language, example.needs) == ("python", "")
    assert example.output, "a reader sees what it prints"


def test_every_quantity_has_a_page():
    assert not MEASURED - set(re.findall(r"`(\w+)", row("in results")))


def test_every_public_measure_has_a_page():
    measures = {f"{space}{name}" for space, found in (("", tle), ("functional.", tle.functional)) for name in found.__all__
                if inspect.isfunction(getattr(found, name))}  # fmt: skip
    results = {name for name in tle.__all__ if inspect.isclass(kind := getattr(tle, name)) and issubclass(kind, Result)}
    called, held = set(re.findall(r"(?<![\w.])([\w.]+)", row("call"))), set(re.findall(r"\w+", row("in results")))
    assert (measures - called) | (results - held) == WITHOUT_A_PAGE


def test_the_index_leads_from_every_name_to_its_pages():
    """A line for each name that a result, a table or a method has, in the order of the alphabet."""
    found = {}
    for page, text in QUANTITY.items():
        cell, title = re.search(r"^\| in results \| (.*) \|$", text, re.M)[1], text.partition("\n")[0].removeprefix("# ")
        for name in re.findall(r"`([a-z]\w*)(?:\([^`]*)?`", cell):
            found.setdefault(name, set()).add(f"[{title}]({page}.md)")
    lines = [f"| `{name}` | {', '.join(sorted(links))} |" for name, links in sorted(found.items())]
    assert re.findall(r"^\| `.*$", TEXTS["index"], re.M) == lines, "\n".join(lines)


def test_every_page_is_of_one_family_and_every_family_in_the_index():
    listed = [
        name for text in FAMILIES.values() for name in re.search(r"```{toctree}\n:hidden:\n\n(.*?)```", text, re.S)[1].split()
    ]
    assert sorted(listed) == sorted(QUANTITY)
    assert all(f"\n{family}\n" in TEXTS["index"] for family in FAMILIES)
