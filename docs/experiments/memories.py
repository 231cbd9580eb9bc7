"""Decoders that are told a memory: how it should enter (experiment 6 of the source), and whether it pays (7)."""

from __future__ import annotations

from typing import Any

from grounds import ATTENTION, BITS, FLAT, PLAIN, Ground, heads, library, loss_of, trained
from harness import Arm, Experiment, Finding, Numbers, See, courses, dots, less, mean_and_error
from matplotlib.axes import Axes

import tl_entropy as tle

TOLD: dict[str, Any] = {**PLAIN, "kind": "memory", "numbers": 2, "limit": 1.0, "noise": 1 / 15, "bits": 4}


def decoder(mixer: dict[str, Any], into: str = "") -> Arm:
    """A decoder of the library, causal or with 2 numbers of 4 bits for 32 bytes, as the source's 64 for 1024 tokens."""
    config = tle.EstimationConfig(**mixer, **TOLD, into=into) if into else tle.EstimationConfig(**mixer, **PLAIN)
    return trained(config, library, loss_of, steps=240, looks=(0.25, 0.5, 0.75, 1.0))


def draw_ways(numbers: Numbers, ax: Axes) -> None:
    """Loss by the way in, alone and charged."""
    dots(numbers, ["loss", "charged"], ax)
    ax.set_xlabel("Loss (nats a byte)")


def best_of_others(see: See, mixer: str, mine: str) -> float:
    """The loss of one way in, less that of the better of the other two."""
    ways = {"embedding", "add", "token"}
    return see(f"{mixer}, {mine}", "loss") - min(see(f"{mixer}, {way}", "loss") for way in ways - {mine})


def between_ways(see: See, mixer: str) -> float:
    """The worst loss of the three, less the best."""
    some = [see(f"{mixer}, {way}", "loss") for way in ("embedding", "add", "token")]
    return max(some) - min(some)


WAYS = Experiment(
    "How should a memory enter a decoder?",
    {
        "flat, causal": decoder(FLAT),
        **{f"flat, {way}": decoder(FLAT, way) for way in ("embedding", "add", "token")},
        **{f"k = 4, {way}": decoder({**FLAT, "kernel": 4}, way) for way in ("embedding", "token")},
        "attention, causal": decoder(ATTENTION),
        **{f"attention, {way}": decoder(ATTENTION, way) for way in ("embedding", "add", "token")},
    },
    [
        Finding("flat: the three ways within .05 of each other", lambda v: between_ways(v, "flat"), high=0.05),
        Finding("attention: likewise", lambda v: between_ways(v, "attention"), high=0.05),
        Finding("flat: the embedding is best", lambda v: best_of_others(v, "flat", "embedding"), high=0),
        Finding("attention: a token is as good", lambda v: best_of_others(v, "attention", "token"), high=0.02),
        Finding("k = 4 helps with a token", less("k = 4, token", "flat, token"), high=0),
        Finding("k = 4 does not help with the embedding", less("k = 4, embedding", "flat, embedding"), low=0),
        Finding("flat: ends below causal, uncharged", less("flat, embedding", "flat, causal"), high=0),
        Finding("attention: ends below causal, uncharged", less("attention, embedding", "attention, causal"), high=0),
        Finding("charged, it starts above", less(("flat, embedding", "charged", 60), ("flat, causal", "loss", 60)), low=0),
    ],
    draw_ways,
    ("loss", "charged"),
)  # fmt: skip


def by_bits(*bits: int) -> Any:
    """What is measured of a memory on these grids: the loss, charged; and the bits a number at which both models are even."""

    def measure(model: Any, ground: Ground) -> dict[str, float]:
        if not model.cfg.reads_ahead:
            return {"loss": loss_of(model, ground)["loss"]}
        found: dict[str, float] = {}
        for b in bits:
            told = loss_of(model.at_bits(b), ground)
            found |= {f"told, {b} bit": told["loss"], f"charged, {b} bit": told["charged"]}
        return found

    return measure


def draw_charged(numbers: Numbers, ax: Axes) -> None:
    """Loss of the memory model at several prices, and of the causal model, over steps."""
    courses(numbers, "loss", ax, arms=["text, causal"])
    for quantity, style in (("told, 4 bit", "^:"), ("charged, 4 bit", "s-"), ("charged, 8 bit", "D-")):
        steps = numbers.steps("text, told", quantity)
        pairs = [mean_and_error(numbers.of("text, told", quantity, step)) for step in steps]
        ax.errorbar(steps, [p[0] for p in pairs], [p[1] for p in pairs], fmt=style, markersize=4, capsize=2, label=quantity)
    ax.set_ylabel("Loss (nats a byte)")


def even(see: See) -> float:
    """Bits a number at which the memory would have cost what it saved."""
    return (see("text, causal", "loss") - see("text, told", "told, 8 bit")) * 32 / (2 * BITS)


CHARGED = Experiment(
    "Does a memory pay for itself?",
    {
        "text, causal": trained(
            tle.EstimationConfig(**heads(4), **PLAIN), library, by_bits(), steps=600, looks=(0.1, 0.25, 0.5, 0.75, 1.0)
        ),
        "text, told": trained(
            tle.EstimationConfig(**heads(4), **TOLD), library, by_bits(4, 8), steps=600, looks=(0.1, 0.25, 0.5, 0.75, 1.0)
        ),
    },
    [
        Finding(
            "early, charged at 4 bits, it is above causal",
            less(("text, told", "charged, 4 bit", 60), ("text, causal", "loss", 60)), low=0,
        ),
        Finding("late, charged at 4 bits, it is below", less(("text, told", "charged, 4 bit"), "text, causal"), high=0),
        Finding("at 4 bits before 8", less(("text, told", "charged, 4 bit"), ("text, told", "charged, 8 bit")), high=0),
        Finding("uncharged, it is below causal", less(("text, told", "told, 8 bit"), "text, causal"), high=0),
        Finding("bits a number at which both are even", even, 2.5, 8.3),
    ],
    draw_charged,
)  # fmt: skip
