"""Pages that are made of code: gallery, public names by groups, copies of pages from elsewhere, ``llms.txt``.

All of them are written before a build, into folders that git ignores. Nothing is executed: figures are those that are
stored, the lines that draw them are read from their scripts.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPIES = {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md", "model_card": "tl_entropy/demo/MODEL_CARD.md"}
"""Pages of the site that stand elsewhere in the tree."""


def everything(docs: Path) -> None:
    """Write all pages that are made of code into ``docs``."""
    for folder in ("api", "gallery", "project", "tutorials", "_made"):
        shutil.rmtree(docs / folder, ignore_errors=True)
        (docs / folder).mkdir()
    tutorials(docs / "tutorials")
    gallery(docs / "gallery")
    names(docs / "api")
    for name, source in COPIES.items():
        (docs / "project" / f"{name}.md").write_text(on_the_site((ROOT / source).read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copy(ROOT / "tl_entropy" / "demo" / "LICENSE.python.txt", docs / "_made")
    llms(docs, docs / "_made" / "llms.txt")


def on_the_site(text: str) -> str:
    """Links to pages that a reader of the tree finds elsewhere, as they are on the site."""
    text = re.sub(r"\]\((?:\.\./)*tutorials/", "](/tutorials/", text)
    for name, source in COPIES.items():
        text = re.sub(rf"\]\((?:\.\./)*{re.escape(source)}\)", f"](/project/{name}.md)", text)
    return text.replace("](LICENSE.python.txt)", "](/_made/LICENSE.python.txt)")


def tutorials(folder: Path) -> None:
    """The notebooks, as their test executed them where ``TL_ENTROPY_EXECUTED`` names the folder that it wrote.

    Those that are stored with outputs, since they need a model that is not here, are not in it.
    """
    executed = Path(os.environ.get("TL_ENTROPY_EXECUTED", ROOT / "tutorials"))
    for path in sorted((ROOT / "tutorials").glob("*.ipynb")):
        text = (executed / path.name if (executed / path.name).is_file() else path).read_text(encoding="utf-8")
        text = text.replace("](../docs/", "](docs/").replace("](../", "](../../").replace("](docs/", "](../")  # a folder deeper
        (folder / path.name).write_text(text, encoding="utf-8")


def drawn() -> dict[str, tuple[str, str, str]]:
    """Every stored figure: what it is said to show, the lines that draw it, and the script that they are of.

    A figure is drawn by the function of its name; the picture of a page is of the script that names the page.
    """
    found: dict[str, tuple[str, str, str]] = {}
    for path in sorted((ROOT / "figures").glob("*.py"), key=lambda path: (path.name != "make.py", path.name)):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        for name, node in functions.items():
            if (ROOT / "figures" / f"{name}.png").is_file():
                says = (ast.get_docstring(node) or name).splitlines()[0]
                found[name] = (says, _with_helpers(source, functions, node), "make.py")
        for name in re.findall(r"``(\w+)\.html``", ast.get_docstring(tree) or ""):
            node = functions.get("page") or functions["html"]
            says = f"{(ast.get_docstring(node) or name).splitlines()[0]} ([the page](../../figures/{name}.html))"
            found[name] = (says, _with_helpers(source, functions, node), path.name)
    return found


def _with_helpers(source: str, functions: dict[str, ast.FunctionDef], node: ast.FunctionDef) -> str:
    """A function's lines below those of the functions beside it that it calls."""
    called = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} & set(functions) - {node.name}
    return "\n\n\n".join(ast.get_source_segment(source, functions[name]) or "" for name in [*sorted(called), node.name])


LINK = re.compile(r" \(\[.*?\]\(.*?\)\)")
CARD = """<figure><a href="{name}.html"><img src="../_images/{name}.png" alt="{name}" loading="lazy">
<figcaption>{says}</figcaption></a></figure>"""
GALLERY = """# Gallery

Every figure here is drawn from the bundled model and texts that it never saw; a click shows the lines.

<div class="gallery">
{cards}
</div>

```{{toctree}}
:hidden:

{names}
```
"""
FIGURE = """# {title}

{says}

![{alt}](../../figures/{name}.png)

```python
{lines}
```

`python figures/{script}` draws it, one of make.py alone where its name is given. `tle` is `tl_entropy`, `plt`
matplotlib's pyplot; `model` is `tle.demo_model()`; `beginnings` and `function` are pieces of `tle.demo_texts()`, cut in
`figures/layers.py` and
`figures/tokens.py`.
"""
API = """# API

The public names, by what they are for. `import tl_entropy as tle` has them all; those of `tle.functional` and `tle.plots` stand
in their own groups.

```{{toctree}}
:maxdepth: 1

{pages}
```
"""


def gallery(folder: Path) -> None:
    """A page of thumbnails, and a page for each figure with the lines that draw it."""
    figures = drawn()
    cards = "\n".join(CARD.format(name=name, says=LINK.sub("", says)) for name, (says, *_) in figures.items())
    (folder / "index.md").write_text(GALLERY.format(cards=cards, names="\n".join(figures)), encoding="utf-8")
    for name, (says, lines, script) in figures.items():
        title, alt = name.replace("_", " ").capitalize(), LINK.sub("", says)
        page = FIGURE.format(title=title, says=says, alt=alt, name=name, lines=lines, script=script)
        (folder / f"{name}.md").write_text(page, encoding="utf-8")


def groups() -> list[dict[str, object]]:
    """The groups of public names, in ``groups.toml``."""
    found: list[dict[str, object]] = tomllib.loads((ROOT / "docs" / "groups.toml").read_text(encoding="utf-8"))["group"]
    return found


def _page(group: dict[str, object]) -> str:
    """Name of the page of a group."""
    return str(group["title"]).lower().replace(" ", "-").replace(",", "").replace(":", "")


def names(folder: Path) -> None:
    """A page for each group, with a table of its names; autosummary makes a page for each name."""
    pages = []
    for group in groups():
        page = _page(group)
        pages.append(page)
        listed = "\n".join(f"   {name}" for name in group["names"])  # type: ignore[attr-defined]
        (folder / f"{page}.rst").write_text(
            f"{group['title']}\n{'=' * len(str(group['title']))}\n\n{group['says']}\n\n.. currentmodule:: tl_entropy\n\n"
            f".. autosummary::\n   :toctree: names\n   :nosignatures:\n\n{listed}\n",
            encoding="utf-8",
        )
    (folder / "index.md").write_text(API.format(pages="\n".join(pages)), encoding="utf-8")


def llms(docs: Path, target: Path) -> None:
    """For readers that are programs (https://llmstxt.org): every page with its beginning, the names of every group."""
    lines = ["# tl_entropy", "", "> Information measures on the insides of TransformerLens models.", "", "## Pages", ""]
    for path in sorted(docs.rglob("*.md")):
        place = path.relative_to(docs)
        if place.parts[0].startswith("_"):
            continue
        text = path.read_text(encoding="utf-8")
        title = text.splitlines()[0].removeprefix("# ")
        prose = re.sub(r"```.*?```|<[^>]*>|^[|#!].*?$", "", text, flags=re.S | re.M).split("\n\n")
        first = next((" ".join(part.split()) for part in prose if part.strip()), "")
        lines.append(f"- [{title}]({place.with_suffix('.html').as_posix()}): {first[:200]}")
    lines += ["", "## Public names", ""]
    for group in groups():
        listed = ", ".join(f"`{name}`" for name in group["names"])  # type: ignore[attr-defined]
        lines.append(f"- [{group['title']}](api/{_page(group)}.html): {group['says']} {listed}")
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
