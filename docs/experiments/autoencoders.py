"""Autoencoders: which mixer gives a text back (experiment 1 of the source), with its mask or without (2), how the memory should
enter (3), which decoder for which encoder (4), and what compression costs (5).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from grounds import ATTENTION, FLAT, Ground, heads, library, loss_of, trained
from harness import Arm, Experiment, Finding, Numbers, See, courses, dots, less, mean_and_error
from matplotlib.axes import Axes

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.estimation.windows import Windows

AUTOENCODER: dict[str, Any] = {"kind": "autoencoder", "n_ctx": 32, "d_model": 64, "n_layers": 2}
UNROLL, LOOKS = {"spread": "unroll", "spread_width": 64}, (0.2, 0.4, 0.6, 0.8, 1.0)


def autoencoder(**options: Any) -> Arm:
    """An autoencoder of the library."""
    return trained(tle.EstimationConfig(**AUTOENCODER | options), library, copied, steps=240, looks=LOOKS, learning_rate=3e-3)


def copied(model: Any, ground: Ground) -> dict[str, float]:
    """The loss; how far a text's logits differ between positions; and what each window's own histogram of bytes costs."""
    read = Windows.of(Adapter(model), ground.held_out, "held out")
    rows, _, _ = next(iter(read.in_order(64)))
    with torch.no_grad():
        logits = model(rows)
    counts = torch.nn.functional.one_hot(rows).sum(1).double() / rows.shape[1]
    return {
        "loss": loss_of(model, ground)["loss"],
        "between positions": float((logits - logits[:, :1]).abs().max()),
        "histogram": float(torch.special.entr(counts).sum(1).mean()),
    }


def gain(see: See, name: str) -> float:
    """What twice the width saves."""
    return see(f"{name}, d 32", "loss") - see(name, "loss")


def samples(see: See, looked: tuple[int, ...] = (48, 96, 144, 192, 240)) -> float:
    """Steps of the flat mixer over those of 4 heads to the flat one's last loss, between looks in a straight line."""
    goal, losses = see("flat", "loss"), [see("4 heads", "loss", step) for step in looked]
    for i, after in enumerate(losses):
        if after <= goal:
            before, start = (losses[i - 1], looked[i - 1]) if i else (math.log(257), 0)
            return looked[-1] / (start + (before - goal) / (before - after) * (looked[i] - start))
    return 1.0


def draw_mixers(numbers: Numbers, ax: Axes) -> None:
    """Loss of autoencoders by mixer, over steps."""
    courses(numbers, "loss", ax, arms=BY_MIXER)
    ax.set_ylabel("Loss (nats a byte)")


COPYING = {
    "flat": autoencoder(**FLAT),
    "flat, unrolled": autoencoder(**FLAT, **UNROLL),
    "k = 4": autoencoder(**FLAT, kernel=4),
    "k = 8": autoencoder(**FLAT, kernel=8),
    "4 heads": autoencoder(**heads(4)),
    "4 heads, unrolled": autoencoder(**heads(4), **UNROLL),
    "16 heads": autoencoder(**heads(16)),
    "attention": autoencoder(**ATTENTION),
    "attention, with positions": autoencoder(**ATTENTION, positions="learned"),
    "attention, unrolled": autoencoder(**ATTENTION, **UNROLL),
    "4 heads, d 32": autoencoder(**heads(4), d_model=32),
    "attention, unrolled, d 32": autoencoder(**ATTENTION, **UNROLL, d_model=32),
    "flat, encoder unmasked": autoencoder(**FLAT, encoder_causal=False),
    "flat, decoder unmasked": autoencoder(**FLAT, causal=False),
    "flat, both unmasked": autoencoder(**FLAT, encoder_causal=False, causal=False),
    "attention to flat": autoencoder(**FLAT, encoder_mixer="attention", encoder_heads=4),
    "flat to attention": autoencoder(**ATTENTION, encoder_mixer="conv"),
    "4 heads, 32 numbers": autoencoder(**heads(4), numbers=32),
}
"""Memories are repeated where nothing else is said."""

BY_MIXER = ("flat", "k = 4", "k = 8", "4 heads", "16 heads", "attention, unrolled")
BY_SPREAD = (
    "flat", "flat, unrolled", "4 heads", "4 heads, unrolled", "attention", "attention, with positions", "attention, unrolled",
)  # fmt: skip
BY_MASK = ("flat", "flat, encoder unmasked", "flat, decoder unmasked", "flat, both unmasked")
BY_PAIR = ("flat", "attention to flat", "flat to attention", "attention")
BY_SIZE = ("4 heads", "4 heads, 32 numbers", "4 heads, d 32")


MIXERS = Experiment(
    "Which mixer lets an autoencoder give a text back?",
    {name: COPYING[name] for name in (*BY_MIXER, "4 heads, d 32", "attention, unrolled, d 32")},
    [
        Finding("k = 8 is below attention", less("k = 8", "attention, unrolled"), high=0),
        Finding("4 heads are below attention", less("4 heads", "attention, unrolled"), high=0),
        Finding("so they are at half the width", less("4 heads, d 32", "attention, unrolled, d 32"), high=0),
        Finding("a flat mixer is below attention", less("flat", "attention, unrolled"), high=0),
        Finding("k = 8 is about equal to 4 heads", less("k = 8", "4 heads"), -0.05, 0.05),
        Finding("16 heads are worse than 4", less("16 heads", "4 heads"), low=0),
        Finding("flat takes more than 6 times the samples of 4 heads", samples, low=6),
        Finding(
            "twice the width: 4 heads gain more than attention",
            lambda v: gain(v, "4 heads") - gain(v, "attention, unrolled"), low=0,
        ),
    ],
    draw_mixers,
    ("loss",),
)  # fmt: skip


def draw_spread(numbers: Numbers, ax: Axes) -> None:
    """Loss of autoencoders by how the memory enters, over the cost of each window's histogram."""
    dots(numbers, ["loss"], ax)
    floor, _ = mean_and_error(numbers.of("flat", "histogram"))
    ax.axvline(floor, color="0.4", linestyle="--", linewidth=1.2, label="histogram of each window")
    ax.set_xlabel("Loss (nats a byte)")


SPREAD = Experiment(
    "Is a memory better repeated at every position, or unrolled?",
    {name: COPYING[name] for name in BY_SPREAD},
    [
        Finding("attention: unrolled much better", less("attention, unrolled", "attention"), high=0),
        Finding("4 heads, narrow: repeated as good", less("4 heads", "4 heads, unrolled"), high=0.02),
        Finding("flat, narrow: repeated as good", less("flat", "flat, unrolled"), high=0.02),
        Finding("attention, repeated: all positions alike", lambda v: v("attention", "between positions"), high=1e-3),
        Finding("attention, repeated: not below the histogram", less("attention", ("attention", "histogram")), low=0),
        Finding("attention: positions help it", less("attention, with positions", "attention"), high=0),
    ],
    draw_spread,
    ("loss", "between positions"),
)  # fmt: skip


def draw_losses(numbers: Numbers, ax: Axes) -> None:
    """Loss of autoencoders, over steps."""
    courses(numbers, "loss", ax)
    ax.set_ylabel("Loss (nats a byte)")


MASKS = Experiment(
    "Does a causal mask help encoder or decoder of an autoencoder?",
    {name: COPYING[name] for name in BY_MASK},
    [
        Finding("off in the encoder, it trains worse", less("flat, encoder unmasked", "flat"), low=0),
        Finding("off in the decoder, it trains worse", less("flat, decoder unmasked", "flat"), low=0),
        Finding("off in both, it trains worse", less("flat, both unmasked", "flat"), low=0),
        Finding(
            "off in both, it diverges: its loss rises from step 144 on",
            less("flat, both unmasked", ("flat, both unmasked", "loss", 144)), low=0,
        ),
    ],
    draw_losses,
    ("loss",),
)  # fmt: skip
PAIRS = Experiment(
    "Which encoder goes with which decoder, where the memory is repeated?",
    {name: COPYING[name] for name in BY_PAIR},
    [
        Finding("flat to flat is below attention to flat", less("flat", "attention to flat"), high=0),
        Finding("attention to flat is below flat to attention", less("attention to flat", "flat to attention"), high=0),
        Finding("flat to attention is below attention to attention", less("flat to attention", "attention"), high=0),
        *(
            Finding(f"{name}: not below the histogram", less(name, (name, "histogram")), low=0)
            for name in ("flat to attention", "attention")
        ),
    ],
    draw_losses,
    ("loss",),
)
COMPRESSION = Experiment(
    "Is a wide autoencoder with compression between better than a narrow one without?",
    {name: COPYING[name] for name in BY_SIZE},
    [
        Finding("worse than half the width", less("4 heads, 32 numbers", "4 heads, d 32"), low=0),
        Finding("worse than without compression", less("4 heads, 32 numbers", "4 heads"), low=0),
        Finding("a loss far from 0", lambda v: v("4 heads, 32 numbers", "loss"), low=1),
    ],
    draw_losses,
    ("loss",),
)
