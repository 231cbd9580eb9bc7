"""Casts of a trained memory (experiment 8 of the source), and noise in training: at the memory (9), or before it (10)."""

from __future__ import annotations

from typing import Any

from grounds import ON_COINS, PLAIN, Ground, coins, heads, library, trained
from harness import Arm, Experiment, Finding, Numbers, See, dots, less
from matplotlib.axes import Axes

import tl_entropy as tle

CASTS = ("bfloat16", "float16", "int8", "float8_e4m3fn", "float8_e5m2")
PROJECTIONS = {"down": "memory.down.weight", "up": "entry.up.weight"}
OTHERS = {
    "encoder's mlp": "encoder.blocks.0.mlp.out.weight", "decoder's mlp": "blocks.0.mlp.out.weight",
    "encoder's mixer": "encoder.blocks.0.attn.out.weight", "decoder's mixer": "blocks.0.attn.out.weight",
}  # fmt: skip
PLACES = ("encoder.resid_post.0", "state", "embed", "resid_post.0")


def cast(model: Any, ground: Ground) -> dict[str, float]:
    """The loss, its change by casts of the memory, and by the coarsest of other places and matrices; the range of numbers."""
    quiet: dict[str, Any] = {"progress": False, "batch_size": 64}
    texts = ground.held_out if ground.tokenizer is None else [text[:1000] for text in ground.held_out]
    at_memory = tle.sensitivity(model, texts, CASTS, sites="memory", **quiet)
    elsewhere = tle.sensitivity(model, texts, ["int4"], sites=("memory", *PLACES), **quiet)
    matrices = tle.sensitivity(model, texts, ["int4"], weights=PROJECTIONS | OTHERS, **quiet)
    found = {"loss": at_memory.mean_loss()[0]}
    found |= {name: float(at_memory.value(name)[0]) for name in CASTS}
    found |= {f"int4 at {place}": float(x) for place, x in zip(elsewhere.sites, elsewhere.value("int4"), strict=True)}
    found |= {f"int4 of {place}": float(x) for place, x in zip(matrices.sites, matrices.value("int4"), strict=True)}
    return found | {"largest number": float(tle.memories(model, texts, **quiet).numbers.abs().max())}


def told(ground: Any, steps: int, **options: Any) -> Arm:
    """A decoder that is told two numbers of its window, to which the state is projected and back."""
    shape = ON_COINS if ground is coins else {**PLAIN, "kind": "memory", **heads(4)}
    return trained(tle.EstimationConfig(**shape, numbers=2, into="add", **options), ground, cast, steps=steps)


SMALL = 2**-4
NOISY = {
    "coins": told(coins, 400),
    "coins, noise": told(coins, 400, noise=SMALL),
    "coins, noise before": told(coins, 400, noise=4 * SMALL, noise_at="state"),
    "coins, within tanh": told(coins, 400, limit=1.0),
    "coins, within tanh, noise": told(coins, 400, limit=1.0, noise=SMALL),
    "text": told(library, 320),
    "text, noise": told(library, 320, noise=SMALL),
}


def others(see: See, arm: str) -> float:
    """The change at the memory by int4, less the largest at other places."""
    return see(arm, "int4 at memory") - max(see(arm, f"int4 at {place}") for place in PLACES)


def projections(see: See, arm: str) -> float:
    """The smaller change by int4 of a projection of the memory, less the largest of other matrices."""
    return min(see(arm, f"int4 of {x}") for x in PROJECTIONS) - max(see(arm, f"int4 of {x}") for x in OTHERS)


def draw_casts(numbers: Numbers, ax: Axes) -> None:
    """Change of the loss by casts of the memory."""
    dots(numbers, CASTS, ax)
    ax.set_xscale("symlog", linthresh=1e-3)
    ax.set_xlabel("Change of the loss (nats a token)")


CASTING = Experiment(
    "What do casts after training cost?",
    {name: NOISY[name] for name in ("coins", "coins, within tanh", "text")},
    [
        *(
            Finding(f"{arm}: {name} {says}, nats", lambda v, a=arm, n=name: v(a, n), -most, most)
            for arm in ("coins", "text")
            for name, says, most in (("bfloat16", "is harmless", 0.01), ("int8", "costs little", 0.05))
        ),
        *(
            Finding(f"{arm}: {name} costs more than {than}", less((arm, name), (arm, than)), low=0)
            for arm in ("coins", "text")
            for name, than in (("float8_e4m3fn", "int8"), ("float8_e5m2", "float8_e4m3fn"))
        ),
        Finding("coins: the memory is the most sensitive place", lambda v: others(v, "coins"), low=0),
        Finding("text: the memory is the most sensitive place", lambda v: others(v, "text"), low=0),
        Finding("coins: its two projections are the most sensitive matrices", lambda v: projections(v, "coins"), low=0),
        Finding("text: likewise", lambda v: projections(v, "text"), low=0),
    ],
    draw_casts,
    ("loss", *CASTS),
)  # fmt: skip


NOISE = Experiment(
    "Does noise in training make a memory robust?",
    {name: arm for name, arm in NOISY.items() if name != "coins, noise before"},
    [
        Finding(
            f"{ground}: noise costs less than .001 of the loss",
            lambda v, g=ground: v(f"{g}, noise", "loss") / v(g, "loss") - 1, high=0.001,
        )
        for ground in ("coins", "coins, within tanh", "text")
    ] + [
        Finding(f"{ground}: {name} costs less with noise", less((f"{ground}, noise", name), (ground, name)), high=0)
        for ground in ("coins", "coins, within tanh", "text")
        for name in ("int8", "float8_e4m3fn", "float8_e5m2", "int4 at memory")
    ] + [
        Finding(
            "coins: without a limit, noise spreads the numbers",
            less(("coins, noise", "largest number"), ("coins", "largest number")), low=0,
        ),
    ],
    draw_casts,
    ("loss", *CASTS, "int4 at memory", "largest number"),
)  # fmt: skip


BEFORE = Experiment(
    "Does noise before the compression make it more robust still?",
    {name: NOISY[name] for name in ("coins", "coins, noise", "coins, noise before")},
    [
        Finding(
            "noise before it costs no more than at the memory", less("coins, noise before", "coins, noise"), high=0,
        ),
        *(
            Finding(f"{name} costs less than with none", less(("coins, noise before", name), ("coins", name)), high=0)
            for name in ("int8", "float8_e4m3fn", "float8_e5m2", "int4 at memory")
        ),
        *(
            Finding(
                f"{name} costs less than with noise at the memory", less(("coins, noise before", name), ("coins, noise", name)),
                high=0,
            )
            for name in ("int8", "float8_e4m3fn", "float8_e5m2", "int4 at memory")
        ),
    ],
    draw_casts,
    ("loss", *CASTS, "int4 at memory", "largest number"),
)  # fmt: skip
