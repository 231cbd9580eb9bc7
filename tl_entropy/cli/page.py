"""The page that ``--report`` writes: what a run found, on what, and how to go on from there, in one file that needs no other.

Figures are in the file itself. There is no script, and a browser is told to fetch nothing, so that the page is the same in an
archive, in a mail and without a network. It follows the light or dark of the reader's desktop.
"""

from __future__ import annotations

import base64
import html
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_entropy.results.files import write_text
from tl_entropy.results.provenance import Provenance

_STYLE = """
:root { color-scheme: light dark }
body { max-width: 68rem; margin: 2rem auto; padding: 0 1rem; font: 15px/1.45 system-ui, sans-serif }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; font-size: .85rem; margin: .6rem 0 }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent) }
.settings td, .settings th { text-align: left; vertical-align: top; overflow-wrap: anywhere }
figure { margin: 1rem 0 } figure img { max-width: 100%; background: white } figcaption { font-size: .85rem }
pre { padding: .6rem; max-height: 20rem; overflow: auto; border: 1px solid color-mix(in srgb, currentColor 25%, transparent) }
summary { cursor: pointer }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_page(
    path: Path, result: Any, *, origins: Iterable[Provenance], figures: Mapping[str, bytes], files: Sequence[Path], load: str
) -> Path:
    """Write the page of one result.

    Args:
        path: where.
        result: what was measured; its own view is the table.
        origins: where it comes from, of each model.
        figures: PNG files, by their captions.
        files: what else the run wrote.
        load: the lines of Python that load the result.
    """
    title = f"tl-entropy: {type(result).__name__}"
    drawn = "".join(
        f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, data in figures.items()
    )
    listed = "".join(f"<li><code>{html.escape(str(file))}</code></li>" for file in files)
    command = shlex.join(["tl-entropy", *sys.argv[1:]])
    parts = [
        f"<h1>{html.escape(title)}</h1>", f"<pre>{html.escape(command)}</pre>",
        "<h2>Table</h2>", result._repr_html_(), "<h2>Figures</h2>", drawn or "<p>None could be drawn.</p>",
        "<h2>Settings</h2>", *map(_settings, origins),
        "<h2>To go on</h2>", f"<pre>{html.escape(load)}</pre>", f"<ul>{listed}</ul>",
    ]  # fmt: skip
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    head += '<meta name="viewport" content="width=device-width">'
    page = f"<!doctype html><html lang=en><head>{head}<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
    return write_text(path, f"{page}<body>{''.join(parts)}</body></html>\n")


def _settings(origin: Provenance) -> str:
    """Everything that is known of where a result comes from."""
    rows = {
        "model": origin.model, "weights": origin.weights, "processing": origin.processing,
        "dtype, device": f"{origin.dtype}, {origin.device}", "state": "; ".join(origin.state),
        **origin.settings,
        **{f"read: {name}": value for name, value in origin.corpus.items()},
        **{f"version of {name}": value for name, value in origin.versions.items()},
        "created": origin.created, "interrupted": origin.interrupted,
    }  # fmt: skip
    lines = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(_text(value))}</td></tr>" for name, value in rows.items()
    )
    return f'<details><summary>{html.escape(origin.model)}</summary><table class="settings">{lines}</table></details>'


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
