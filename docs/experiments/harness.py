"""What experiments with entropy-estimation models have in common: trainings by seed, their numbers, findings, tables, files.

An experiment trains its *arms*, each with every seed, and looks at them at some steps. An arm is a function of the seed that
gives (step, {quantity: value}) one after the other; the seed sets weights, batches, noise, and what a source draws. All values
are kept, with their arm, seed and step, in a file of which tables, figures and the page are made. What is printed is the mean
over seeds ± its standard error.

A *finding* of the source is a number of one seed and where it would have to be, were the same seen here: it is *seen again*
where the 95 % interval of the mean over seeds (Student's, of 2 degrees of freedom for three seeds) lies inside, it is *not
seen* where the interval lies outside, and else nothing is said.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from scipy.stats import t as student

from tl_entropy.results.provenance import library_versions

HERE = Path(__file__).parent
SEEDS = 3

Arm = Callable[[int, float], Iterator[tuple[int, dict[str, float]]]]
"""Of a seed and a share of the steps (1 but in tests): steps, and what is measured at each."""
See = Callable[..., float]
"""Of arm, quantity and, if not the last, step: its value, of one seed."""


@dataclass(frozen=True)
class Finding:
    """Something that a source says, as a number of one seed, and from where to where it is if that holds.

    Attributes:
        says: the statement.
        value: the number.
        low, high: where it would be.
    """

    says: str
    value: Callable[[See], float]
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Experiment:
    """One question, and the trainings that answer it.

    Attributes:
        asks: the question.
        arms: what is trained, by name.
        findings: of the source, or of the theory.
        draw: the figure.
        shown: quantities of the table; empty for all.
    """

    asks: str
    arms: Mapping[str, Arm]
    findings: Sequence[Finding]
    draw: Callable[[Numbers, Axes], None]
    shown: tuple[str, ...] = ()


Place = str | tuple[Any, ...]
"""An arm, for its last loss; or an arm, a quantity and, if not the last, a step."""


def less(one: Place, other: Place) -> Callable[[See], float]:
    """What stands at one place less what stands at another."""
    first, second = ((place, "loss") if isinstance(place, str) else place for place in (one, other))
    return lambda see: see(*first) - see(*second)


@dataclass(frozen=True)
class Numbers:
    """All that an experiment has measured.

    Attributes:
        frame: columns arm, seed, step, quantity, value.
        cpu: seconds of processor time, of every training and what was measured of it, by arm and seed.
        origin: versions of libraries.
    """

    frame: pd.DataFrame
    cpu: dict[str, list[float]]
    origin: dict[str, str]

    @property
    def seeds(self) -> list[int]:
        """Of the trainings."""
        return sorted(self.frame["seed"].unique().tolist())

    def of(self, arm: str, quantity: str, step: int | None = None) -> pd.Series:
        """The values of a quantity, of every seed, at a step or at the last."""
        some = self.frame[(self.frame["arm"] == arm) & (self.frame["quantity"] == quantity)]
        found = some[some["step"] == (some["step"].max() if step is None else step)].set_index("seed")["value"]
        if found.empty:
            raise KeyError(f"nothing was measured of {quantity!r}, {arm!r}, step {step}")
        return found

    def steps(self, arm: str, quantity: str) -> list[int]:
        """At which a quantity was measured."""
        some = self.frame[(self.frame["arm"] == arm) & (self.frame["quantity"] == quantity)]
        return sorted(some["step"].unique().tolist())

    def see(self, seed: int) -> See:
        """What a finding reads of one seed."""
        return lambda arm, quantity, step=None: float(self.of(arm, quantity, step)[seed])

    def save(self, path: Path) -> None:
        """Write all of it."""
        rows = [[*row[:4], float(f"{row[4]:.6g}")] for row in self.frame.to_numpy().tolist()]
        lines = ",\n".join(json.dumps(row) for row in rows)
        head = json.dumps({"origin": self.origin, "cpu": self.cpu}, indent=1)[1:-2]
        path.write_text(f'{{{head},\n "rows": [\n{lines}\n]}}\n', encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Numbers:
        """What was written."""
        found = json.loads(path.read_text(encoding="utf-8"))
        frame = pd.DataFrame(found["rows"], columns=["arm", "seed", "step", "quantity", "value"])
        return cls(frame, found["cpu"], found["origin"])


Job = Callable[[tuple[str, str, int, float]], tuple[list[list[Any]], float]]


def job_of(experiment: Experiment, arm: str, seed: int, share: float) -> tuple[list[list[Any]], float]:
    """The rows of one arm and seed, and the processor time that they took, on one thread."""
    torch.set_num_threads(1)
    began = time.process_time()
    rows = [
        [arm, seed, step, quantity, float(value)]
        for step, found in experiment.arms[arm](seed, share)
        for quantity, value in found.items()
    ]
    return rows, time.process_time() - began


def run(
    name: str,
    experiment: Experiment,
    job: Job,
    *,
    seeds: int = SEEDS,
    workers: int = 2,
    share: float = 1.0,
    done: dict[tuple[Arm, int], Any] | None = None,
) -> Numbers:
    """Train all arms with all seeds, so many side by side, of one thread each; what is ``done`` is not repeated."""
    done = {} if done is None else done
    waiting = [(arm, seed) for seed in range(seeds) for arm in experiment.arms if (experiment.arms[arm], seed) not in done]
    jobs = [(name, arm, seed, share) for arm, seed in waiting]
    if workers == 1:
        found = [job(one) for one in jobs]
    else:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            found = list(pool.map(job, jobs))
    done |= {(experiment.arms[arm], seed): one for (arm, seed), one in zip(waiting, found, strict=True)}
    rows, cpu = list[list[Any]](), dict[str, list[float]]()
    for name_of_arm, arm_itself in experiment.arms.items():
        for seed in range(seeds):
            part, seconds = done[arm_itself, seed]
            rows += [[name_of_arm, *row[1:]] for row in part]
            cpu.setdefault(name_of_arm, []).append(round(seconds, 1))
    return Numbers(pd.DataFrame(rows, columns=["arm", "seed", "step", "quantity", "value"]), cpu, library_versions())


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Over seeds; the error is NaN for one."""
    some = pd.Series(values, dtype=float)
    return float(some.mean()), float(some.sem())


def shown(values: Sequence[float]) -> str:
    """A mean and its standard error, as tables show them: to two digits of the error, three decimals at least, five at most."""
    mean, error = mean_and_error(values)
    if math.isnan(error):
        return f"{mean:.3f}"
    decimals = min(5, max(3, 1 - math.floor(math.log10(error)))) if error > 0 else 3
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def verdict(values: Sequence[float], finding: Finding) -> str:
    """Whether the interval of the mean over seeds is inside, outside, or neither."""
    mean, error = mean_and_error(values)
    if math.isnan(error):
        return "one seed: nothing said"
    half = float(student.ppf(0.975, len(values) - 1)) * error
    if finding.low <= mean - half and mean + half <= finding.high:
        return "seen again"
    return "not seen" if mean + half < finding.low or mean - half > finding.high else "undecided"


def table(experiment: Experiment, numbers: Numbers) -> str:
    """Of all arms and the quantities that are shown, at the last step, as Markdown."""
    quantities = experiment.shown or tuple(numbers.frame["quantity"].unique())
    lines = [f"| | {' | '.join(quantities)} |", "|---" * (1 + len(quantities)) + "|"]
    for arm in experiment.arms:
        there = set(numbers.frame[numbers.frame["arm"] == arm]["quantity"])
        cells = [shown(numbers.of(arm, name)) if name in there else "" for name in quantities]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def findings(experiment: Experiment, numbers: Numbers) -> str:
    """What each finding is here, over the seeds, and whether that is what was said, as Markdown."""
    lines = ["| the source, or the theory | here | |", "|---|---|---|"]
    for one in experiment.findings:
        values = [one.value(numbers.see(seed)) for seed in numbers.seeds]
        lines.append(f"| {one.says} ({_range(one)}) | {shown(values)} | {verdict(values, one)} |")
    return "\n".join(lines)


def _range(finding: Finding) -> str:
    if math.isinf(finding.low):
        return f"at most {finding.high:g}"
    return f"at least {finding.low:g}" if math.isinf(finding.high) else f"{finding.low:g} to {finding.high:g}"


def cost(numbers: Numbers) -> str:
    """Processor time, all trainings together."""
    seconds = [one for some in numbers.cpu.values() for one in some]
    return f"{len(seconds)} trainings, {sum(seconds):.0f} s of processor time in all"


def courses(numbers: Numbers, quantity: str, ax: Axes, *, arms: Sequence[str] | None = None) -> None:
    """A quantity over steps, a line for each arm, with standard errors over seeds."""
    styles = ["-", "--", ":", "-."]
    for i, arm in enumerate(arms or numbers.cpu):
        steps = numbers.steps(arm, quantity)
        means, errors = zip(*(mean_and_error(numbers.of(arm, quantity, step)) for step in steps), strict=True)
        ax.errorbar(steps, means, errors, fmt=f"o{styles[i % 4]}", markersize=3, linewidth=1.2, capsize=2, label=arm)
    ax.set_xlabel("Steps")


def dots(numbers: Numbers, quantities: Sequence[str], ax: Axes, *, arms: Sequence[str] | None = None) -> None:
    """Quantities at the last step, a row for each arm, with standard errors over seeds."""
    names = list(arms or numbers.cpu)
    for quantity, marker in zip(quantities, "osD^v<>", strict=False):
        there = [i for i, arm in enumerate(names) if numbers.steps(arm, quantity)]
        pairs = [mean_and_error(numbers.of(names[i], quantity)) for i in there]
        ax.errorbar(
            [mean for mean, _ in pairs], there, xerr=[error for _, error in pairs], fmt=marker, markersize=5, capsize=2,
            label=quantity,
        )  # fmt: skip
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
