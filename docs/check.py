"""Whether a built site can be read offline: ``python docs/check.py BUILD`` fails where a page loads something from elsewhere.

Links that a reader may click are no matter; scripts, styles, fonts and pictures are.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'> ]+"""
    r"""|<link\b(?=[^>]*rel=["'](?:stylesheet|preload|icon|preconnect))[^>]*href=["'](?:https?:)?//[^"']+"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//[^"')]+|url\(\s*["']?(?:https?:)?//[^"')]+""",
    re.I,
)


def loaded_from_elsewhere(site: Path) -> list[str]:
    """The page and the address of each thing that would be fetched from the network."""
    files = [path for path in sorted(site.rglob("*")) if path.suffix in (".html", ".css", ".js")]
    return [
        f"{path.relative_to(site)}: {match[0][:200]}"
        for path in files
        for match in LOADED.finditer(path.read_text(encoding="utf-8", errors="replace"))
    ]


def main() -> None:
    """Check the folder that is named, and say how many pages it has."""
    site = Path(sys.argv[1])
    pages = list(site.rglob("*.html"))
    found = loaded_from_elsewhere(site)
    if found or not pages:
        raise SystemExit("\n".join(["these are loaded from elsewhere:", *found]) if pages else f"{site} has no page")
    print(f"{len(pages)} pages, and none loads anything from elsewhere")


if __name__ == "__main__":
    main()
