"""The fenced blocks of a page, in order: what they are, what they need, and what they are said to print.

A fence's first word is its language. ``needs hub`` after it marks a block that takes what a clean checkout has not: it
runs on a stand-in where there is one (``test_blocks.py``), is run by the long tests where it needs minutes, and else is
only parsed. A block of ``text`` directly below one that runs is what that one prints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^(?P<marks>```+|~~~+|:::+)(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=marks)[ \t]*$", re.M | re.S)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Block:
    """One fence: its language, need ("" for none), text and line; ``output`` is the text below that it is said to print."""

    language: str
    needs: str
    source: str
    line: int
    output: str | None = None


def pages():
    """README.md and the pages in docs/ that are kept, not those that a build of the site made."""
    made = ("_", "api/", "gallery/", "project/", "tutorials/")
    docs = ROOT / "docs"
    kept = [path for path in sorted(docs.rglob("*.md")) if not path.relative_to(docs).as_posix().startswith(made)]
    return [ROOT / "README.md", *kept]


def blocks(text):
    """The blocks of a page's text; directives of the site are none."""
    found, end = [], 0
    for match in FENCE.finditer(text):
        info = match["info"].strip()
        if info.startswith("{"):
            continue
        language, _, rest = info.partition(" ")
        needs = rest.removeprefix("needs ").strip() if rest else ""
        directly = not text[end : match.start()].strip()
        end = match.end()
        if language in ("", "text") and not needs and directly and found and found[-1].language in ("python", "bash"):
            found[-1] = Block(**{**vars(found[-1]), "output": match["body"]})
        else:
            found.append(Block(language, needs, match["body"], text[: match.start()].count("\n") + 1))
    return found


def differences(expected, found):
    """What a page shows and that was not printed: "..." stands for anything, numbers may be off by 2 in the last place."""
    want, got = [line.split() for line in expected.strip().splitlines()], [line.split() for line in found.strip().splitlines()]
    lines = [" ".join(line) for line, other in zip(want, got, strict=False) if not _same(line, other)]
    return lines + ([] if len(want) == len(got) else [f"{len(got)} lines were printed, not {len(want)}"])


def _same(line, other):
    if line[-1:] == ["..."]:
        line, other = line[:-1], other[: len(line) - 1]
    return len(line) == len(other) and all(map(_alike, line, other))


def _alike(word, other):
    numbers, others = NUMBER.findall(word), NUMBER.findall(other)
    if NUMBER.sub("#", word) != NUMBER.sub("#", other):
        return False
    return all(
        abs(float(a) - float(b)) <= (2.01 * 10 ** -len(a.partition(".")[2]) if "." in a else 0)
        for a, b in zip(numbers, others, strict=True)
    )
