"""What assignments on the disk take, by formula and measured at two sizes, and by formula at the size of a large study.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_assignments.py [--positions 50_000 200_000]

Tokens are drawn by Zipf's law in documents of 500, assignments to 100 anchors at random; label sets are the token, bigram,
trigram and 4-gram. Each size has a process of its own. Seconds are of the processors.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BINS, LENGTH = 100, 500


def one(positions: int) -> None:
    """Write a folder, reduce it, and print what that took as JSON."""
    import torch

    import tl_entropy as tle
    from tl_entropy.analyses.information.assignments import file_of
    from tl_entropy.analyses.information.store import ROWS, StoreWriter
    from tl_entropy.analyses.information.writing import disk_bytes
    from tl_entropy.functional.information.coding import coded
    from tl_entropy.results.provenance import Provenance

    draw = torch.Generator().manual_seed(0)
    frequency = 1 / torch.arange(1, 20_001, dtype=torch.float64)
    documents = positions // LENGTH
    tokens = torch.multinomial(frequency, positions, replacement=True, generator=draw).view(documents, LENGTH).int()
    slots = torch.cat([torch.full((documents, 1), -1, dtype=torch.int32), tokens], dim=1)
    folder, site = Path(tempfile.mkdtemp()) / "kept", tle.Site("resid_post", 0)
    starts = torch.arange(documents + 1) * (LENGTH + 1)
    writer = StoreWriter(
        folder, {"starts": starts.numpy(), "tokens": slots.flatten().numpy(), "usable": (slots >= 0).flatten().byte().numpy()}
    )
    start = time.process_time()
    for number, body in enumerate(tokens):
        where = torch.stack([torch.full((LENGTH,), number), torch.arange(LENGTH), body], dim=1)
        p = torch.softmax(torch.randn(LENGTH, 1, BINS, generator=draw), -1)
        writer.append({ROWS: where.numpy(), file_of(site, (BINS, 0)): coded(p, where[:, 0], where[:, 1]).numpy().astype("<u2")})
    writer.finish(
        {
            "places": [(site, 1, (0.05,))], "draws": ((BINS, 0),), "dropped": [], "strings": {},
            "provenance": Provenance("none", "none", "none", "float32", "cpu"),
        }
    )  # fmt: skip
    written, before = time.process_time(), peak()
    kept = tle.load_assignments(folder)
    labels = ("token", "bigram", "trigram", tle.ngram(4))
    plan = kept.label_plan(labels)
    planned, after_plan = time.process_time(), peak()
    kept.information(plan, progress=False)
    size = sum(path.stat().st_size for path in folder.iterdir())
    rows = [table.n_rows for table in plan.tables(20)]
    print(
        json.dumps(
            {
                "positions": positions, "disk": size, "disk by formula": disk_bytes(positions, slots.numel(), BINS),
                "rows of the label sets": rows, "sums, bytes at most": 8 * (BINS + 1) * sum(rows),
                "MB of the plan while it is made": after_plan - before, "MB of reducing beyond": peak() - after_plan,
                "ns a number, writing": 1e9 * (written - start) / positions / BINS,
                "s, plan": planned - written, "ns a number, reducing": 1e9 * (time.process_time() - planned) / positions / BINS,
            }
        )
    )  # fmt: skip


def peak() -> float:
    """MB of the process's largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def study(positions: int = 5_120_000, d: int = 5120, rows: float = 0.85) -> None:
    """Print what four label sets take at the size of a large study, their rows being so many a position."""
    for places in (65, 45):
        sums = places * 8 * (BINS + 1) * rows * positions
        disk = positions * (12 + 2 * BINS * places) + 5 * (positions + positions // 1000)
        work = 2 * d * BINS * positions * places
        print(
            f"{places} places: sums at most {sums / 1e9:.0f} GB of memory; assignments {disk / 1e9:.1f} GB of disk; "
            f"{work:.1e} FLOP to assign, {work / (2 * 32e9 * positions):.2%} of a pass of 32 billion parameters"
        )


def main() -> None:
    """Print a block for each size, then the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", nargs="+", type=int, default=[50_000, 200_000])
    parser.add_argument("--one", action="store_true", help="measure in this process")
    asked = parser.parse_args()
    if asked.one:
        one(asked.positions[0])
        return
    for positions in asked.positions:
        command = [sys.executable, __file__, "--one", "--positions", str(positions)]
        for name, value in json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout).items():
            print(f"{name:34}", value)
        print(flush=True)
    study()


if __name__ == "__main__":
    main()
