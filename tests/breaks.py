"""Whether the quick tests see it when a line that matters is wrong: break one after the other, and run the tests that are near.

    python tests/breaks.py            all, each in a copy of the package; prints which were seen, exits 1 if one was not
    python tests/breaks.py 3 17       these alone

A break is one small change that a person could make by mistake: a sign, an index, a mask, an axis, a factor. It counts as seen
if a test of the folders named beside it fails in the quick run, so that the whole quick run fails, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Break(NamedTuple):
    """In ``file``, the one place that reads ``right`` is made ``wrong``; ``tests`` are where it should be seen."""

    file: str
    right: str
    wrong: str
    tests: str


BREAKS = [
    Break("functional/lens/tiles.py", "excess.log1p() / (1 - order)", "excess.log1p() / (order - 1)", "functional/lens"),
    Break("functional/lens/tiles.py", "next(rows) + shift * total)).sum(0) / s", "next(rows))).sum(0) / s", "functional/lens"),
    Break("functional/lens/tiles.py", "2 * shift * first", "shift * first", "functional/lens"),
    Break("functional/pairs.py", "chord.square_().sum(-1)", "chord.abs_().sum(-1)", "functional"),
    Break("functional/statistics.py", "documents / (documents - 1)", "documents / documents", "functional results"),
    Break("functional/probabilities.py", "return -_p_log_p(p)", "return _p_log_p(p)", "functional"),
    Break("functional/information/chance.py", "(2 * n - 1) / (n - 1)", "(2 * n - 1) / n", "functional/information"),
    Break("functional/information/cross_fitting.py", "= self.by_label.i", "= 2 * self.by_label.i", "functional/information"),
    Break("functional/information/cross_fitting.py", "within + beta *", "within - beta *", "functional/information"),
    Break("functional/information/blocks.py", '- sums["null"][:, 1]', '+ sums["null"][:, 1]', "functional/information"),
    Break("functional/information/blocks.py", "corrected - left,", "corrected + left,", "functional/information"),
    Break("functional/information/blocks.py", '"ceiling": entropy - own', '"ceiling": entropy + own', "functional/information"),
    Break("results/information/uncertainty.py", "several / (several - 1)", "several", "results/information"),
    Break("functional/information/soft.py", "rows.norm(dim=-1, keepdim=True)", "rows.norm(dim=0, keepdim=True)", "functional"),
    Break("functional/tokens/coding.py", "tokens / units * loss", "units / tokens * loss", "functional/tokens"),
    Break("functional/states/similarity.py", "+ traces / ((n - 1) * (n", "- traces / ((n - 1) * (n", "functional"),
    Break("functional/states/similarity.py", "(sums[:, None] + sums) / (n - 2)", "(sums[:, None] + sums) / n", "functional"),
    Break("functional/states/matrix_scores.py", "(nearer.mean() - nearer)", "(nearer - nearer.mean())", "functional/states"),
    Break("functional/statistics.py", "- 2 * covariance", "- covariance", "functional results"),
    Break("functional/states/matrices.py", ".square() / -2)", ".square() / -1)", "functional/states"),
    Break("functional/profiles/curves.py", "velocity.sign() * velocity.abs().sqrt()", "velocity.abs().sqrt()", "functional"),
    Break("functional/profiles/samples.py", "right=True)", "right=False)", "functional/profiles"),
    Break("capture/attention.py", "else back >= 0", "else back > 0", "capture analyses/heads"),
    Break("capture/attention.py", "(back.abs() < sight.window)", "(back.abs() <= sight.window)", "capture analyses/heads"),
    Break("capture/occlusion.py", "cells[:, None, None] & others", "cells[:, None, :, None] & others", "capture"),
    Break("capture/corpus.py", "start - stride + room if start else 0", "start + room if start else 0", "capture"),
    Break("positions.py", "(position < meant.stop)", "(position <= meant.stop)", "test_positions.py"),
    Break("capture/proofs/frozen_norm.py", "(plus + minus) / 2", "(plus - minus) / 2", "capture"),
    Break("capture/proofs/generation.py", "prompt - 1 : prompt - 1 + len(new)", "prompt : prompt + len(new)", "capture"),
    Break("batches.py", "padding_value=value)", "padding_value=value, padding_side='left')", "test_batches.py capture"),
    Break("accumulators.py", "n * n * one, n * s, s * s", "n * one, n * s, s * s", "test_accumulators.py analyses/lens"),
    Break("analyses/tokens/rows.py", '+ (self._adapter.predicts == "next")', "", "analyses/tokens"),
    Break("analyses/rows.py", '"document": part["document"] + first}', '"document": part["document"]}', "analyses/lens"),
    Break("analyses/lens/reading.py", '-> row site ..."', '-> site row ..."', "analyses/lens"),
    Break("results/base.py", '"bits": 1.0 / 0.69', '"bits": 0.69', "results"),
    Break("lenses/tuned.py", "weights[index].T + biases", "weights[index] + biases", "lenses"),
    Break("labels/sets.py", "(1 if ahead else 1 - n)", "(1 if ahead else -n)", "test_labels.py analyses/information"),
    Break("estimation/mixing.py", "corner.tril() if causal else corner", "corner", "estimation/test_mixing.py"),
    Break("estimation/mixing.py", "left = (len(weight) - 1) // 2", "left = len(weight) // 2", "estimation/test_mixing.py"),
    Break("estimation/mixing.py", "first * cos - second * sin", "first * cos + second * sin", "estimation/test_mixing.py"),
    Break("estimation/mixing.py", "stack.positions, maps=1)", "stack.positions, maps=9)", "estimation/test_mixing.py"),
    Break("estimation/memory.py", "(place * mask).amax(1)", "(place + 0 * mask).amax(1)", "estimation/test_memory.py"),
    Break("estimation/memory.py", "if not self.training or self.config", "if self.config", "estimation/test_memory.py"),
    Break("estimation/memory.py", "range(memories, 0, -1)", "range(memories - 1, -1, -1)", "estimation/test_models.py"),
    Break("estimation/models.py", 'if predicts == "own":  # one', 'if predicts == "next":  # one', "estimation/test_models.py"),
    Break("estimation/showing.py", "x = x[:, self.cells :]", "x = x[:, : -self.cells or None]", "estimation/test_showing.py"),
    Break("estimation/training.py", "model.memory.drawn = step", "model.memory.drawn = 0", "estimation/test_training.py"),
    Break("estimation/training.py", "model.parameters(), 1.0)", "model.parameters(), 9e9)", "estimation/test_training.py"),
    Break("estimation/sweep.py", "trained.at_bits(b) if n else trained", "trained", "estimation/test_sweep.py"),
    Break("estimation/config.py", "return self.n_numbers * self.bits if", "return self.bits if", "estimation/test_config.py"),
    Break("functional/quantisation.py", "torch.log2(1 + a / q)", "torch.log2(a / q)", "functional/test_quantisation.py"),
    Break("functional/quantisation.py", "+ 1) * (steps / 2)", "+ 1) * (steps // 2)", "functional/test_quantisation.py"),
    Break("functional/quantisation.py", "(2 * u - 1) * scale", "u * scale", "functional/test_quantisation.py"),
]  # fmt: skip


def seen(one: Break) -> bool:
    """Whether a test fails with this break in place."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "figures", "tutorials", "__pycache__"))
        file = copy / "tl_entropy" / one.file
        source = file.read_text()
        if source.count(one.right) != 1:
            raise SystemExit(f"{one.file} has {one.right!r} {source.count(one.right)} times, not once: renew this table")
        file.write_text(source.replace(one.right, one.wrong))
        tests = [f"tests/{place}" for place in one.tests.split()]
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests, f"tl_entropy/{one.file}"],
            cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True,
        )  # fmt: skip
        if run.returncode not in (0, 1):
            raise SystemExit(run.stdout[-3000:] + run.stderr[-3000:])
        print(f"    {next((line for line in run.stdout.splitlines() if line.startswith('FAILED')), '')[:140]}")
        return run.returncode == 1


def main(numbers: list[str]) -> int:
    """Break what is asked for; 1 if one break was seen by no test."""
    chosen = [int(number) for number in numbers] or range(len(BREAKS))
    missed = []
    for number in chosen:
        one = BREAKS[number]
        print(f"{number}: {one.file}: {one.right} -> {one.wrong}", flush=True)
        if not seen(one):
            missed.append(number)
            print("    SEEN BY NO TEST")
    print(f"{len(chosen) - len(missed)} of {len(chosen)} breaks were seen" + (f"; not seen: {missed}" if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
