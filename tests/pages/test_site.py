"""The parts of the site that need no build: every public name has its place, every quoted message is the package's own."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import tomllib
import types

import pytest
from page_blocks import ROOT, pages

import tl_entropy as tle

GROUPS = tomllib.loads((ROOT / "docs" / "groups.toml").read_text(encoding="utf-8"))["group"]
PUBLIC = {
    f"{prefix}{name}": getattr(space, name)
    for prefix, space in (("", tle), ("functional.", tle.functional), ("plots.", tle.plots))
    for name in space.__all__
    if not isinstance(getattr(space, name), types.ModuleType)
}
FIGURES = {path.stem for path in (ROOT / "figures").glob("*.png")}


def test_every_public_name_stands_in_one_group():
    listed = [name for group in GROUPS for name in group["names"]]
    assert sorted(listed) == sorted(PUBLIC)
    assert all(group["title"] and group["says"].endswith(".") for group in GROUPS)


def test_every_public_name_has_an_example():
    without = [name for name, found in PUBLIC.items() if ">>> " not in (inspect.getdoc(found) or "")]
    assert not without, f"no example in the docstrings of {', '.join(without)}"


def test_every_public_function_is_on_a_page():
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages())
    functions = [name for name, found in PUBLIC.items() if inspect.isfunction(found) and "." not in name]
    assert not [name for name in functions if not re.search(rf"\b{name}\b", text)]


@pytest.fixture
def of_docs(monkeypatch):
    """Modules of docs/, by name."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module


def test_the_pages_of_names_are_made_of_the_groups(of_docs, tmp_path):
    generate = of_docs("generate")
    generate.names(tmp_path)
    made = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.rst"))
    assert all(f"   {name}\n" in made for name in PUBLIC)


def test_every_figure_is_in_the_gallery_with_its_lines(of_docs, tmp_path):
    generate = of_docs("generate")
    assert set(generate.drawn()) >= FIGURES
    generate.gallery(tmp_path)
    page = (tmp_path / "lens_profile.md").read_text(encoding="utf-8")
    assert "def lens_profile(model" in page
    assert "figures/lens_profile.png" in page
    assert all(f'href="{name}.html"' in (tmp_path / "index.md").read_text(encoding="utf-8") for name in FIGURES)


def test_every_plot_is_in_the_gallery():
    scripts = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "figures").glob("*.py"))
    plots = [name for name, found in PUBLIC.items() if name.startswith("plots.") and inspect.isfunction(found)]
    assert len(plots) > 30
    assert not [name for name in plots if f"tle.{name}(" not in scripts]


def test_links_out_of_docs_lead_to_pages_of_the_site(of_docs):
    text = "[a](../../tutorials/04_heads.ipynb) [b](../CONTRIBUTING.md) [c](heads.md)"
    assert of_docs("generate").on_the_site(text) == "[a](/tutorials/04_heads.ipynb) [b](/project/contributing.md) [c](heads.md)"


def test_docstrings_become_what_sphinx_reads(of_docs):
    lines = ["Σ |x| of ``|y|``.", "", "| a | b |", "|---|---|", "| 1 | |z| |", "", ">>> 1 | 2", "3"]
    found = of_docs("docstrings").for_sphinx(lines)
    assert found[0] == r"Σ \|x\| of ``|y|``."
    assert [line.strip() for line in found if line.strip()][1:3] == [".. list-table::", ":header-rows: 1"]
    assert "   * - a" in found
    assert ">>> 1 | 2" in found


def test_messages_on_the_page_of_errors_are_the_packages_own():
    from test_models_page import words_of_the_package

    words = words_of_the_package()
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^### `(.+)`$", page, re.M)
    assert len(quoted) > 20
    for message in quoted:
        for part in message.split("..."):
            assert part.strip(" (,") in words, message


def test_links_between_pages_lead_somewhere():
    """As a reader of the tree follows them; the site's own are checked when it is built."""
    made = ("gallery/index.md",)
    for path in pages():
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if not target.endswith(made):
                assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links to {target}"


def test_what_is_loaded_from_elsewhere_is_seen(tmp_path):
    page = tmp_path / "page.html"
    check = [sys.executable, str(ROOT / "docs" / "check.py"), str(tmp_path)]
    page.write_text('<a href="https://example.org">a link</a><img src="here.png">')
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    for elsewhere in (
        '<script src="https://cdn.example.org/x.js"></script>',
        '<style>@import url("//fonts.example.org/a")</style>',
    ):
        page.write_text(elsewhere)
        done = subprocess.run(check, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "page.html" in done.stderr


def test_the_readme_is_one_page():
    readme = (ROOT / "README.md").read_bytes()
    assert len(readme) <= 8000
    assert b"<!-- main command -->" in readme
    assert b"<!-- test command -->" in readme
