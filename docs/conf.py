"""The site: ``python -m sphinx -W docs BUILD``. Nothing is executed here, and nothing that a page needs comes from the network.

The tutorials are shown as they were executed by their test (``TL_ENTROPY_EXECUTED`` is the folder that it wrote them
to), so they run once; where that is not set they are shown without outputs. The gallery, the pages of the public names
and ``llms.txt`` are written by ``generate.py`` from the scripts of ``figures/``, the groups in ``groups.toml`` and the
list of pages.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import latex2mathml.converter
from docutils import nodes

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

import docstrings  # noqa: E402
import generate  # noqa: E402

import tl_entropy  # noqa: E402

project = "tl_entropy"
author = "The authors of tl_entropy"
copyright = "2026, the authors of tl_entropy"
version = release = tl_entropy.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"tl_entropy {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": False}
pygments_style = "default"
pygments_dark_style = "monokai"

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"
html_extra_path = ["_made"]

autosummary_generate = True
autosummary_imported_members = False
autosummary_ignore_module_all = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True


def _mathml(writer: Any, node: Any) -> None:
    """A formula as MathML, which browsers draw by themselves."""
    block = node.tagname == "math_block"
    writer.body.append(latex2mathml.converter.convert(node.astext(), display="block" if block else "inline"))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Write the pages that are made from code before any page is read."""
    generate.everything(DOCS)
    app.add_html_math_renderer("mathml", (_mathml, None), (_mathml, None))
    app.connect("source-read", lambda _, name, source: source.__setitem__(0, generate.on_the_site(source[0])))
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # before napoleon
    app.connect("html-page-context", _sidebar, priority=400)  # before furo


def _docstring(app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    lines[:] = docstrings.for_sphinx(lines)


def _sidebar(app: Any, name: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """The tree beside a page has the branch of that page alone: with all of them, most of a build was copying trees."""
    if whole := context.get("toctree"):
        context["toctree"] = lambda **options: whole(**{**options, "collapse": True})
