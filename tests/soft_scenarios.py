"""States and labels whose soft information is known, from easy to hard, and how near each estimate comes.

    python tests/soft_scenarios.py                       # writes the table of docs/soft_information.md, some ten minutes

A scenario draws states of any label, so that the truth follows from many draws of each: H(E[p]) - Σ_x P(x) H(E[p|x]), each
entropy freed of the bias of few draws. Whatever a corpus has in common (the places of labels, the sizes of
effects) is fixed; rows, labels and documents are drawn anew for each replicate.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from tl_entropy.functional import calibrate_temperature, soft_anchors, soft_assignments, soft_mutual_information

BINS = 50
DRAWS = 300  # of each label, for the truth, at least
REPLICATES = 64  # corpora, and draws of anchors: a spread over so many is known to a tenth


@dataclass(frozen=True)
class Scenario:
    """One way to draw a corpus.

    Attributes:
        name: what it is.
        weights: [label] how frequent each label is.
        draw: (rng, labels [row], documents [row] or None) to states [row, d]; every document gets a state of its own.
        rows: rows of a corpus.
        length: rows of a document; 0 for independent rows.
        classes: (rng, documents) to the class of each document, for labels of documents.
        deal: (rng, weights, documents [row]) to labels [row]; None draws every row by itself.
        limit: bias (nats) that it must stay within, as a share of the truth plus ``floor``.
        floor: nats.
    """

    name: str
    weights: np.ndarray
    draw: Callable[..., np.ndarray]
    rows: int
    length: int = 0
    deal: Callable[..., np.ndarray] | None = None
    limit: float = 0.05
    floor: float = 0.015

    def corpus(self, rng: np.random.Generator) -> tuple[torch.Tensor, np.ndarray, np.ndarray | None]:
        """States, labels, documents."""
        documents = np.arange(self.rows) // self.length if self.length else None
        deal = self.deal or (lambda rng, weights, _: rng.choice(len(weights), self.rows, p=weights))
        label = deal(rng, self.weights, documents)
        return torch.tensor(self.draw(rng, label, documents)), label, documents

    def truth(self, *, seed: int = 0) -> float:
        """Soft information with the anchors of ``seed``, in nats."""
        rng, draws = np.random.default_rng(1), max(DRAWS, 20_000 // len(self.weights))
        means, conditional, noise = [], 0.0, 0.0
        for x, weight in enumerate(self.weights):
            alone = np.arange(draws) if self.length else None  # every draw in a document of its own
            p = assignments(torch.tensor(self.draw(rng, np.full(draws, x), alone)), seed)
            without = (p.sum(0) - p) / (draws - 1)
            rest = -(without * np.log(np.maximum(without, 1e-300))).sum(1).mean()
            means.append(p.mean(0))
            noise = noise + weight**2 * p.var(0) / draws
            conditional += weight * (draws * entropy(p.mean(0)) - (draws - 1) * rest)
        mean = self.weights @ np.array(means)
        return entropy(mean) + 0.5 * float((noise / mean).sum()) - conditional


def entropy(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


@cache
def anchors(d: int, seed: int) -> tuple[torch.Tensor, float]:
    return soft_anchors(d, BINS, seed=seed), calibrate_temperature(d, BINS)


def assignments(z: torch.Tensor, seed: int = 0) -> np.ndarray:
    return soft_assignments(z, *anchors(z.shape[1], seed)).double().numpy()


def zipf(types: int) -> np.ndarray:
    weights = 1 / np.arange(1, types + 1.0)
    return weights / weights.sum()


def even(types: int) -> np.ndarray:
    return np.full(types, 1 / types)


def fixed(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(100 + seed).normal(size=shape)


def around(
    codes: np.ndarray, noise: float | np.ndarray = 0.7, *, clusters: int = 0, effect: float = 0.0, modes: int = 1
) -> Any:
    """States around the place of their label: with noise, in clusters that labels share, and with an effect of the document."""
    centres = fixed(max(clusters, 1), codes.shape[1], seed=7)
    spots = fixed(len(codes), modes, codes.shape[1], seed=8)

    def draw(rng: np.random.Generator, label: np.ndarray, documents: np.ndarray | None) -> np.ndarray:
        width = noise[label][:, None] if isinstance(noise, np.ndarray) else noise
        z = codes[label] + width * rng.normal(size=(len(label), codes.shape[1]))
        if modes > 1:
            z = z + 1.5 * spots[label, rng.integers(0, modes, len(label))]
        if clusters:
            z = z + centres[rng.integers(0, clusters, len(label))]
        if documents is not None and effect:
            z = z + effect * rng.normal(size=(documents.max() + 1, codes.shape[1]))[documents]
        return z

    return draw


def pairs(tokens: int, more: float) -> tuple[Callable[..., Any], Callable[..., Any], np.ndarray]:
    """States of a token and the one before it: draw by token, draw by bigram, weights of tokens."""
    codes, before, weights = fixed(tokens, 16), more * fixed(tokens, 16, seed=1), zipf(tokens)

    def by_token(rng: np.random.Generator, label: np.ndarray, _: Any) -> np.ndarray:
        first = rng.choice(tokens, len(label), p=weights)
        return codes[label] + before[first] + 0.7 * rng.normal(size=(len(label), 16))

    def by_bigram(rng: np.random.Generator, label: np.ndarray, _: Any) -> np.ndarray:
        return codes[label % tokens] + before[label // tokens] + 0.7 * rng.normal(size=(len(label), 16))

    return by_token, by_bigram, weights


def of_documents(rng: np.random.Generator, weights: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """A class for every document, all about equally often, in random order."""
    return rng.permutation(np.arange(documents.max() + 1) % len(weights))[documents]


def bursts(rng: np.random.Generator, weights: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Labels as in texts: every document has a taste of its own."""
    taste = rng.dirichlet(40 * weights + 1e-9, size=documents.max() + 1)
    return np.array([rng.choice(len(weights), p=taste[d]) for d in documents])


def spans(rng: np.random.Generator, weights: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """One label for ten rows in a row."""
    return rng.choice(len(weights), len(documents) // 10 + 1, p=weights)[np.arange(len(documents)) // 10]


def _independent(clusters: int) -> Any:
    return around(np.zeros((1, 16)), 0.7, clusters=clusters)


def _any_label(draw: Callable[..., Any]) -> Callable[..., Any]:
    return lambda rng, label, documents: draw(rng, np.zeros_like(label), documents)


def _tails(rng: np.random.Generator, label: np.ndarray, _: Any) -> np.ndarray:
    return fixed(150, 16)[label] + 0.6 * np.linspace(0.3, 2, 16) * rng.standard_t(2.5, size=(len(label), 16))


def _covariance(rng: np.random.Generator, label: np.ndarray, _: Any) -> np.ndarray:
    axes = np.exp(0.9 * fixed(60, 16))
    return axes[label] * rng.normal(size=(len(label), 16))


def _ring(rng: np.random.Generator, label: np.ndarray, _: Any) -> np.ndarray:
    angle = 2 * np.pi * label / 200 + 0.25 * rng.normal(size=len(label))
    ring = np.zeros((len(label), 16))
    ring[:, 0], ring[:, 1] = np.cos(angle), np.sin(angle)
    return ring + 0.15 * rng.normal(size=(len(label), 16))


def _common(rng: np.random.Generator, label: np.ndarray, _: Any) -> np.ndarray:
    return 6 * fixed(1, 16, seed=3) + fixed(150, 16)[label] + 0.7 * rng.normal(size=(len(label), 16))


def scenarios() -> list[Scenario]:
    """Twenty-five of the families on which estimators were compared, and ten of other ones."""
    half = fixed(300, 16) * (np.arange(300) % 2)[:, None]
    token, bigram, tokens = pairs(40, 0.0)
    more_token, more_bigram, _ = pairs(40, 1.0)
    both = np.outer(tokens, tokens).flatten()
    two, ten = fixed(2, 16), 0.7 * fixed(10, 16)
    twelve, forty = {"rows": 12 * 60, "length": 60}, {"rows": 40 * 60, "length": 60}
    sixty, thirty = {"rows": 60 * 40, "length": 40}, {"rows": 30 * 60, "length": 60}
    class_of, words = {"deal": of_documents}, around(fixed(30, 16), 0.7, effect=0.6)
    nothing = _any_label(around(np.zeros((1, 16)), 0.7, effect=0.6))
    ten_more = 0.6 * fixed(20, 16)
    loud = around(0.5 * two, 0.7, effect=1.2)
    hard = {"limit": 0.18, "floor": 0.02}
    near = 0.3 * fixed(150, 16)
    return [
        Scenario("independent, Zipf 800, 4000 rows", zipf(800), _any_label(_independent(0)), 4000),
        Scenario("independent, 3 rows a label, clustered", even(300), _any_label(_independent(8)), 900, floor=0.05),
        Scenario("Zipf 300, 900 rows", zipf(300), around(fixed(300, 16)), 900),
        Scenario("8 rows a label", even(100), around(fixed(100, 16)), 800),
        Scenario("3 rows a label", even(300), around(fixed(300, 16)), 900),
        Scenario("2 rows a label, noisier", even(400), around(fixed(400, 16), 1.2), 800),
        Scenario("Zipf 800, 4000 rows, noisy", zipf(800), around(fixed(800, 16), 1.8), 4000),
        Scenario("mostly rare, Zipf 800, 1600 rows", zipf(800), around(fixed(800, 16), 1.2), 1600),
        Scenario("weak, Zipf 300, 3000 rows", zipf(300), around(fixed(300, 16), 3.0), 3000),
        Scenario("half of the labels informative, 5 rows a label", even(300), around(half), 1500),
        Scenario("mixed noise, 5 rows a label", even(300), around(fixed(300, 16), 0.3 + 1.2 * (np.arange(300) % 2)), 1500),
        Scenario("100 rows a label", even(30), around(fixed(30, 16)), 3000),
        Scenario("200 rows a label, weak", even(10), around(fixed(10, 16), 2.0), 2000),
        Scenario("bigram says what the token says: token", tokens, token, 2500),
        Scenario("bigram says what the token says: bigram", both, bigram, 2500),
        Scenario("bigram says more: token", tokens, more_token, 2500),
        Scenario("bigram says more: bigram", both, more_bigram, 2500),
        Scenario("two sharp modes a label, 5 rows a label", even(150), around(near, 0.15, modes=2), 750, **hard),
        Scenario("five sharp modes a label, 5 rows a label", even(150), around(near, 0.15, modes=5), 750, **hard),
        Scenario("12 documents, 2 classes: class (null)", even(2), nothing, **twelve, **class_of, floor=0.03),
        Scenario("12 documents: token", zipf(30), words, **twelve, floor=0.04),
        Scenario("40 documents, 2 classes: class (null)", even(2), nothing, **forty, **class_of),
        Scenario("40 documents: token", zipf(30), words, **forty, floor=0.03),
        Scenario("60 documents, 10 classes: class", even(10), around(ten, 0.7, effect=0.6), **sixty, **class_of, floor=0.03),
        Scenario("30 documents, strong effects: class", even(2), loud, **thirty, **class_of, floor=0.03),
        # Of other families than those the estimator was chosen on.
        Scenario("heavy tails, unequal axes", zipf(150), _tails, 1500),
        Scenario("information in the covariance alone, 10 rows a label", even(60), _covariance, 600, **hard),
        Scenario("labels along a ring", even(200), _ring, 1000, limit=0.1),
        Scenario("a large common direction", zipf(150), _common, 1500),
        Scenario("bursty documents: token", zipf(60), around(fixed(60, 16), 0.7, effect=0.4), **forty, deal=bursts, floor=0.04),
        Scenario("spans of ten rows that say nothing", even(20), nothing, **forty, deal=spans),
        Scenario("spans of ten rows: label", even(20), around(ten_more, effect=0.4), **forty, deal=spans, floor=0.03),
        Scenario("two frequent labels and 300 rare ones", _two_and_many(), around(fixed(302, 16), 1.0), 1500),
        Scenario("three dimensions", zipf(150), around(fixed(150, 3), 0.5), 1500),
        Scenario("classes of 5 documents each (null)", even(20), nothing, 100 * 20, 20, floor=0.04, **class_of),
    ]  # fmt: skip


def _two_and_many() -> np.ndarray:
    weights = np.full(302, 0.5 / 300)
    weights[:2] = 0.25
    return weights


def measured(scenario: Scenario, replicates: int, *, seed: int = 0) -> dict[str, float]:
    """Truth, bias and RMSE of each estimate over replicates, errors and their spread; nats."""
    truth = scenario.truth(seed=seed)
    found = []
    for replicate in range(replicates):
        z, label, documents = scenario.corpus(np.random.default_rng(1000 + replicate))
        found.append(soft_mutual_information(z, label, documents=documents, n_bins=BINS, seed=seed))
    values = {"plug-in": [f.plug_in.item() for f in found], "adjusted": [f.chance_adjusted.item() for f in found]}
    values |= {"cross-fitted": [f.information.item() for f in found], "lower": [f.lower for f in found]}
    row = {"truth": truth}
    for name, of in values.items():
        row[f"{name} bias"] = float(np.mean(of)) - truth
        row[f"{name} rmse"] = math.sqrt(np.mean((np.array(of) - truth) ** 2))
    row["se"] = math.sqrt(np.mean([f.se**2 for f in found]))
    row["spread"] = float(np.std(values["cross-fitted"], ddof=1))
    return row


def over_anchors(scenario: Scenario, seeds: int) -> dict[str, float]:
    """The error over anchors, as one draw of them knows it, and the spread over ``seeds``, of one corpus; nats."""
    z, label, documents = scenario.corpus(np.random.default_rng(3))
    found = [soft_mutual_information(z, label, documents=documents, n_bins=BINS, seed=seed) for seed in range(seeds)]
    spread = float(np.std([f.information.item() for f in found], ddof=1))
    return {"anchors_se": math.sqrt(np.mean([f.anchors_se**2 for f in found])), "anchors_spread": spread}


def main() -> None:
    """Write the table in Markdown."""
    lines = [
        "| | truth | plug-in bias | chance-adjusted: bias, RMSE | **cross-fitted**: bias, RMSE | its se, spread: corpora "
        "| anchors | lower |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for scenario in scenarios():
        row = measured(scenario, REPLICATES) | over_anchors(scenario, REPLICATES)
        rows.append(row)
        lines.append(
            f"| {scenario.name} | {row['truth']:.3f} | {row['plug-in bias']:+.3f} | {row['adjusted bias']:+.3f}, "
            f"{row['adjusted rmse']:.3f} | {row['cross-fitted bias']:+.3f}, {row['cross-fitted rmse']:.3f} | {row['se']:.3f}, "
            f"{row['spread']:.3f} | {row['anchors_se']:.3f}, {row['anchors_spread']:.3f} "
            f"| {row['lower bias'] + row['truth']:.3f} |"
        )
    for part in ("", "anchors_"):
        ratios = np.array([row[f"{part}se"] / row[f"{part}spread"] for row in rows])
        inside = int((abs(ratios - 1) <= 0.35).sum())
        lines.append(
            f"\n{part}se / spread: {ratios.min():.2f} to {ratios.max():.2f}, {inside} within 35 %, geometric mean "
            f"{np.exp(np.log(ratios).mean()):.2f}"
        )
    for part, of in (("first 25", rows[:25]), ("last ten", rows[25:])):
        means = [np.mean([row[f"{name} rmse"] for row in of]) for name in ("plug-in", "adjusted", "cross-fitted")]
        lines.append(f"\nMean RMSE, {part}: plug-in {means[0]:.3f}, adjusted {means[1]:.3f}, cross-fitted {means[2]:.3f}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
