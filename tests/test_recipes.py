"""The findings of papers in docs/recipes: pages show the code and the outputs that are stored, and those come again."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import tl_entropy as tle

FOLDER = Path(tle.__file__).parents[1] / "docs" / "recipes"
sys.path.append(str(FOLDER))  # as for the script itself

import make  # noqa: E402

NAMES = [*make.BOTH, *make.ALONE]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_shows_its_code_its_figure_and_its_stored_output(name):
    page = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert page == make.paged(name), "python docs/recipes/make.py --pages writes it"
    assert f"](figures/{name}.png)" in page
    assert (FOLDER / "figures" / f"{name}.png").stat().st_size > 5000
    assert f"$ python docs/recipes/make.py {name}" in page
    assert re.search(r"[Nn]ot run here", page)


def test_the_index_has_every_page():
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert all(f"]({name}.md)" in index and f"\n{name}\n" in index for name in NAMES)
    assert {path.stem for path in FOLDER.glob("*.md")} == {*NAMES, "index"}
    assert {path.stem for path in (FOLDER / "outputs").iterdir()} == set(NAMES)


def test_a_block_that_is_missing_is_an_error():
    with pytest.raises(ValueError, match="one block 'code'"):
        make.filled("# a page", "code", "1", "python")


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.\d+|-?\d+", text)]


def stored(name):
    """What is stored of the bundled model."""
    text = (FOLDER / "outputs" / f"{name}.txt").read_text(encoding="utf-8").split("bundled model\n")[1]
    return text.split("SmolLM2-135M-Instruct\n")[0]


def of_the_bundled_model(name):
    figure, text = make.run(name, {"bundled": tle.demo_model()})
    plt.close(figure)
    return text.split("bundled model\n")[1]


def test_what_is_stored_of_a_training_comes_again():
    assert numbers(of_the_bundled_model("fit_then_compress")) == numbers(stored("fit_then_compress"))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", make.BOTH)
def test_what_is_stored_of_the_bundled_model_comes_again(name):
    found, before = of_the_bundled_model(name), stored(name)
    assert re.sub(r"[\d.-]+", "#", found).split() == re.sub(r"[\d.-]+", "#", before).split()
    assert numbers(found) == pytest.approx(numbers(before), abs=0.02, rel=0.01)
