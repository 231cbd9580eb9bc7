"""Write ``soft_assignment.html``, the page that shows how soft entropy assigns, and where Chromium is there its picture.

    python figures/assignment.py                write both next to this file
    python figures/assignment.py --out /tmp     write them elsewhere

States are points on a circle, since two dimensions can be drawn. What depends on chance or takes a solver (anchors,
temperatures, noise, dealt labels, orders of rows) is computed here and put into the page. What follows from the sliders is
computed by the page's script, whose numbers a test compares with ``tl_entropy.functional``. The page needs no network and no
server.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from assignment_parts import MARKUP, STYLES
from assignment_script import SCRIPT
from page import BROWSERS, picture

from tl_entropy.functional import calibrate_temperature
from tl_entropy.functional.information.chance import MIN_CEILING, ROWS
from tl_entropy.functional.information.estimates import MIN_ROWS
from tl_entropy.functional.information.random_groups import FLOOR
from tl_entropy.functional.information.soft import soft_anchors
from tl_entropy.plots.tokens.page_parts import json_text, policy

POINTS, BINS, SEEDS = (50, 100, 200, 400), 64, 8
"""How many points the page can show, and the most anchors and draws of anchors."""


def numbers() -> dict[str, Any]:
    """What the page's script starts from: lists of numbers, by name."""
    draw = np.random.default_rng(0)
    return {
        "points": POINTS,
        "orders": [_orders(rows) for rows in POINTS],
        "noise": draw.standard_normal(POINTS[-1]).round(6).tolist(),
        "dealt": draw.random(POINTS[-1]).round(6).tolist(),
        "anchors": [soft_anchors(2, BINS, seed=seed).tolist() for seed in range(SEEDS)],
        "temperature": [0.0, 0.0, *(float(f"{calibrate_temperature(2, m):.12g}") for m in range(2, BINS + 1))],
        "floor": FLOOR,
        "least": MIN_ROWS,
        "least_ceiling": MIN_CEILING,
    }


def _orders(rows: int) -> list[list[int]]:
    """The random orders of rows that the package takes groups of to measure c(n), so that the page finds the same."""
    draw = torch.Generator().manual_seed(0)
    sample = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    orders = -(-ROWS // rows)
    return [sample[torch.randperm(rows, generator=draw)[: -(-ROWS // orders)]].tolist() for _ in range(orders)]


def html() -> str:
    """The whole page."""
    return MARKUP.format(policy=policy(SCRIPT), styles=STYLES, data=json_text(numbers()), script=SCRIPT)


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to (default: this file's)")
    target = parser.parse_args().out / "soft_assignment.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html(), encoding="utf-8", newline="")
    print(f"wrote {target}")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    print(f"wrote {picture(target, browser)}" if browser else "no picture: there is no Chromium on the PATH")


if __name__ == "__main__":
    main()
