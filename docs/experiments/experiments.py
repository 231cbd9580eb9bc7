"""Experiments with entropy-estimation models, small enough for two cores and five minutes each, three seeds included.

    python docs/experiments/experiments.py                all of them, one after the other
    python docs/experiments/experiments.py mixers noise   some of them
    python docs/experiments/experiments.py --out FOLDER   numbers and figures elsewhere; the page stays as it is
    python docs/experiments/experiments.py --pages        trains nothing: draws, and fills the page, from stored numbers

Each prints its table and what became of each finding, writes its numbers (``numbers/NAME.json``) and its figure, and fills its
blocks of ``index.md``.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

import autoencoders
import entropies
import harness
import known
import matplotlib as mpl
import matplotlib.pyplot as plt
import memories
import optimisers
import robust
from harness import HERE, Arm, Numbers

EXPERIMENTS = {
    "mixers": autoencoders.MIXERS,
    "masks": autoencoders.MASKS,
    "spread": autoencoders.SPREAD,
    "pairs": autoencoders.PAIRS,
    "compression": autoencoders.COMPRESSION,
    "optimisers": optimisers.OPTIMISERS,
    "ways_in": memories.WAYS,
    "charged": memories.CHARGED,
    "casts": robust.CASTING,
    "noise": robust.NOISE,
    "before": robust.BEFORE,
    "reliance": entropies.RELIANCE,
    "windows": entropies.WINDOWS,
    "weighted": entropies.WEIGHTED,
    "sources": known.SOURCES,
}


def job(one: tuple[str, str, int, float]) -> tuple[list[list[Any]], float]:
    """One arm and seed, in a process of its own."""
    name, arm, seed, share = one
    return harness.job_of(EXPERIMENTS[name], arm, seed, share)


def figure(name: str, numbers: Numbers) -> Any:
    """An experiment's figure."""
    drawn_on, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    EXPERIMENTS[name].draw(numbers, ax)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return drawn_on


def block(name: str, numbers: Numbers) -> str:
    """What the page says of an experiment."""
    experiment = EXPERIMENTS[name]
    versions = ", ".join(f"{library} {version}" for library, version in numbers.origin.items())
    seeds = f"{len(numbers.seeds)} seeds, means ± standard errors; {harness.cost(numbers)} ({versions})."
    return "\n\n".join([harness.findings(experiment, numbers), harness.table(experiment, numbers), seeds])


def summary(numbers: dict[str, Numbers]) -> str:
    """Of all experiments, what became of each finding."""
    lines = []
    for name, found in numbers.items():
        fates: dict[str, list[str]] = {}
        for one in EXPERIMENTS[name].findings:
            values = [one.value(found.see(seed)) for seed in found.seeds]
            fates.setdefault(harness.verdict(values, one), []).append(f"{one.says} ({harness.shown(values)})")
        lines.append(f"**{EXPERIMENTS[name].asks}**\n")
        lines += [f"- *{fate}*: {'; '.join(some)}." for fate, some in sorted(fates.items(), reverse=True)]
        lines.append("")
    return "\n".join(lines).rstrip()


def stored() -> dict[str, Numbers]:
    """The numbers of all experiments that are kept beside this file."""
    paths = {name: HERE / "numbers" / f"{name}.json" for name in EXPERIMENTS}
    return {name: Numbers.load(path) for name, path in paths.items() if path.exists()}


def paged(page: str, numbers: dict[str, Numbers]) -> str:
    """The page with its blocks filled: one for each experiment, and the summary."""
    for name, text in {"summary": summary(numbers), **{name: block(name, found) for name, found in numbers.items()}}.items():
        pattern = rf"(<!-- {name} -->\n).*?(\n<!-- end of {name} -->)"
        page, times = re.subn(pattern, lambda match, x=text: f"{match[1]}{x}{match[2]}", page, flags=re.DOTALL)
        if times != 1:
            raise ValueError(f"the page must have one block {name!r}; it has {times}")
    return page


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "experiments", nargs="*", metavar="experiment", help=f"of {', '.join(EXPERIMENTS)}; all if none is named"
    )
    parser.add_argument("--seeds", type=int, default=harness.SEEDS, help="trainings of each arm (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="trainings side by side (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for numbers and figures")
    parser.add_argument("--pages", action="store_true", help="train nothing: draw, and fill the page, from stored numbers")
    chosen = parser.parse_args()
    names = chosen.experiments or list(EXPERIMENTS)
    if unknown := set(names) - set(EXPERIMENTS):
        parser.error(f"no experiment is called {', '.join(sorted(unknown))}")
    mpl.use("agg")
    for folder in ("numbers", "figures"):
        (chosen.out / folder).mkdir(parents=True, exist_ok=True)
    done: dict[tuple[Arm, int], Any] = {}
    for name in names:
        path, began = chosen.out / "numbers" / f"{name}.json", time.perf_counter()
        if chosen.pages:
            numbers = Numbers.load(path)
        else:
            numbers = harness.run(name, EXPERIMENTS[name], job, seeds=chosen.seeds, workers=chosen.workers, done=done)
            numbers.save(path)
        figure(name, numbers).savefig(chosen.out / "figures" / f"{name}.png", dpi=130, metadata={"Software": None})
        print(
            f"{name}: {EXPERIMENTS[name].asks}\n\n{block(name, numbers)}\n({time.perf_counter() - began:.0f} s)\n", flush=True
        )
        if chosen.out == HERE:
            page = HERE / "index.md"
            page.write_text(paged(page.read_text(encoding="utf-8"), stored()), encoding="utf-8")


if __name__ == "__main__":
    main()
