"""The experiments of docs/experiments: the page says what is stored, verdicts follow from intervals, and every arm runs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import tl_entropy as tle

FOLDER = Path(tle.__file__).parents[1] / "docs" / "experiments"
sys.path.append(str(FOLDER))  # as for the script itself

import experiments  # noqa: E402
import harness  # noqa: E402


@pytest.mark.long
def test_the_page_says_what_is_stored_of_three_seeds_each():
    stored = experiments.stored()
    assert list(stored) == list(experiments.EXPERIMENTS)
    page = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert page == experiments.paged(page, stored), "python docs/experiments/experiments.py --pages writes it"
    for name, numbers in stored.items():
        assert numbers.seeds == [0, 1, 2]
        assert sum(map(sum, numbers.cpu.values())) / 2 < 300, "below five minutes on two cores"
        assert set(numbers.cpu) == set(experiments.EXPERIMENTS[name].arms)
        assert f"](figures/{name}.png)" in page
        assert (FOLDER / "figures" / f"{name}.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="one block 'summary'; it has 0"):
        experiments.paged("", stored)


@pytest.mark.parametrize(
    ("values", "low", "high", "said"),
    [
        ((-1.0, -1.1, -0.9), -np.inf, 0, "seen again"),
        ((1.0, 1.1, 0.9), -np.inf, 0, "not seen"),
        ((-0.1, -1.1, -0.9), -np.inf, 0, "undecided"),  # the mean is below 0 by 2.3 errors, where 4.3 are needed
        ((0.51, 0.5, 0.49), 0.4, 0.6, "seen again"),
        ((0.71, 0.7, 0.69), 0.4, 0.6, "not seen"),
        ((-1.0,), -np.inf, 0, "one seed: nothing said"),
    ],
)
def test_a_verdict_takes_the_whole_interval_over_seeds(values, low, high, said):
    assert harness.verdict(values, harness.Finding("", lambda see: 0.0, low, high)) == said


def test_what_two_experiments_share_is_trained_once_and_comes_back_from_its_file(tmp_path):
    calls = []

    def arm(seed, share):
        calls.append(seed)
        yield 1, {"loss": seed + 0.25}
        yield 2, {"loss": seed + 0.5}

    def job(one):
        return harness.job_of(both[one[0]], *one[1:])

    both = {name: harness.Experiment("", {own: arm}, [], lambda numbers, ax: None) for name, own in (("a", "x"), ("b", "y"))}
    done = {}
    for name, own in (("a", "x"), ("b", "y")):
        numbers = harness.run(name, both[name], job, seeds=2, workers=1, done=done)
        numbers.save(tmp_path / name)
        read = harness.Numbers.load(tmp_path / name)
        assert read.frame.equals(numbers.frame)
        assert (read.of(own, "loss").tolist(), read.see(1)(own, "loss", 1)) == ([0.5, 1.5], 1.25)
    assert calls == [0, 1]
    assert harness.less(("y", "loss", 1), "y")(read.see(0)) == -0.25


@pytest.mark.long
@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_an_arm_gives_what_is_stored_of_it_in_a_few_steps(name):
    *_, arm = experiments.EXPERIMENTS[name].arms
    rows, _ = harness.job_of(experiments.EXPERIMENTS[name], arm, 0, 0.02)
    stored = experiments.stored()[name].frame
    assert {row[3] for row in rows} == set(stored[stored["arm"] == arm]["quantity"])
    assert all(np.isfinite(row[4]) for row in rows)
