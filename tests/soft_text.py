"""How near soft information comes on a model's states of text: a large corpus is the population, and parts of it are samples.

    python tests/soft_text.py        # writes the table of docs/soft_information.md on text, some two minutes

The population is every position of thirty held-out modules whose label is seen 20 times or more there, and the plug-in value of
all of them is the truth. A sample is some runs of neighbouring positions, each a document.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

import tl_entropy as tle
from tl_entropy.functional import calibrate_temperature, soft_anchors, soft_assignments, soft_mutual_information

BINS, DRAWS, SEEN = 100, 12, 20
SAMPLES = ((3, 500), (10, 500), (40, 500), (10, 4000))  # runs, positions of each
SITES = ("embed", "resid_post.3", "resid_post.5")


class States:
    """An accumulator that keeps every counted state, and its token."""

    def __init__(self) -> None:
        self.sites = tuple(tle.Site(name.partition(".")[0], int(name.partition(".")[2] or -1)) for name in SITES)
        self.rows: dict[str, list[torch.Tensor]] = {name: [] for name in SITES}
        self.tokens: list[torch.Tensor] = []

    def update(self, batch, activations) -> None:
        for name, site in zip(SITES, self.sites, strict=True):
            self.rows[name].append(batch.rows(activations[site]).clone())
        self.tokens.append(batch.rows(batch.tokens))


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(p)).sum(-1)


def labels_of(tokens: np.ndarray) -> dict[str, np.ndarray]:
    """The label of every position, as dense numbers."""
    before, after = np.roll(tokens, 1), np.roll(tokens, -1)
    many = int(tokens.max()) + 1
    found = {"token": tokens, "bigram": before * many + tokens}
    found |= {"next_token": after, "next_bigram": after * many + np.roll(tokens, -2)}
    return {name: np.unique(label, return_inverse=True)[1] for name, label in found.items()}


def measured(states: torch.Tensor, label: np.ndarray) -> tuple[float, list[tuple[float, float]]]:
    """The truth, and of each kind of sample the bias and the RMSE, nats."""
    rows = np.flatnonzero(np.bincount(label)[label] >= SEEN)
    anchors = soft_anchors(states.shape[1], BINS)
    p = soft_assignments(states[rows], anchors, calibrate_temperature(states.shape[1], BINS)).double().numpy()
    p /= p.sum(1, keepdims=True)
    which, count = np.unique(label[rows], return_inverse=True, return_counts=True)[1:]
    means = np.zeros((len(count), BINS))
    np.add.at(means, which, p / count[which, None])
    truth = float(entropy(p.mean(0)) - count @ entropy(means) / len(p))
    found = []
    for runs, length in SAMPLES:
        off = []
        for draw in range(DRAWS):
            starts = np.random.default_rng(draw).integers(0, len(rows) - length, runs)
            some = rows[np.concatenate([np.arange(start, start + length) for start in starts])]
            documents = np.repeat(np.arange(runs), length)
            sample = soft_mutual_information(states[some], label[some], documents=documents, anchors=anchors)
            off.append(sample.information.item() - truth)
        found.append((float(np.mean(off)), float(np.sqrt(np.mean(np.square(off))))))
    return truth, found


def main() -> None:
    """Write the table in Markdown."""
    kept = States()
    tle.stream(tle.demo_model(), tle.demo_texts(30), [kept], progress=False)
    labels = labels_of(torch.cat(kept.tokens).numpy())
    lines = ["| | truth | " + " | ".join(f"{runs} x {length}" for runs, length in SAMPLES) + " |"]
    lines.append("|---|---|" + "---|" * len(SAMPLES))
    for site in SITES:
        states = torch.cat(kept.rows[site])
        for name, label in labels.items():
            truth, found = measured(states, label)
            cells = " | ".join(f"{bias:+.3f}, {rmse:.3f}" for bias, rmse in found)
            lines.append(f"| {site}, {name} | {truth:.3f} | {cells} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
