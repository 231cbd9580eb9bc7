"""Sources of known entropy: whether every charged loss is a bound on it, and what is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grounds import BITS, COINS, ON_COINS, Ground, coins, drawn, loss_of, trained
from harness import Arm, Experiment, Finding, Numbers, See, mean_and_error
from matplotlib.axes import Axes

import tl_entropy as tle
from tl_entropy.estimation.sources import BiasedCoin, MarkovChain, Source


def swept(
    source: Source, numbers: tuple[int, ...], bits: tuple[int, ...], steps: int, *, windows: int = 1000, **options: Any
) -> Arm:
    """A sweep over memories of a source, trained on so many windows, every cell with the noise of its grid."""

    def arm(seed: int, share: float = 1.0) -> Iterator[tuple[int, dict[str, float]]]:
        ground, last = drawn(source, seed, windows=windows), max(2, round(steps * share))
        base = tle.EstimationConfig(**ON_COINS, numbers=1)
        found = tle.memory_sweep(
            ground.training, validation=ground.held_out, numbers=numbers, bits=bits, base=base, tokenizer=None, steps=last,
            per_bits=True, seed=seed, progress=False, **ground.options | options,
        )  # fmt: skip
        cells = found.charged.tolist()
        surely = (found.charged + 3 * found.se - ground.entropy).min()
        yield last, {
            "entropy": ground.entropy, **({"causal": cells.pop(0)} if 0 in numbers else {}), "best with a memory": min(cells),
            "worst": max(cells), "least + 3 se - entropy": float(surely),
        }  # fmt: skip

    return arm


def flattered(model: Any, ground: Ground) -> dict[str, float]:
    """One number as it is, charged for 4 bits; and rounded to 16 steps over its range."""
    quiet: dict[str, Any] = {"progress": False, "batch_size": 64}
    top = float(tle.memories(model, ground.training[:500], **quiet).numbers.abs().max())
    grid = tle.quantize("memory", "grid", bits=4, limit=top)
    on_grid = tle.token_surprisal(model, ground.held_out, interventions=grid, top_k=0, **quiet).loss(memory_bits=4)
    return {
        "entropy": ground.entropy,
        "a float at 4 bits": loss_of(model, ground)["loss"] + 4 * BITS / 16,
        "on 4 bits": on_grid,
    }


def draw_sources(numbers: Numbers, ax: Axes) -> None:
    """Charged losses of sources of known entropy, as shares of it."""
    names = list(numbers.cpu)
    for quantity, marker in zip(
        ("causal", "best with a memory", "worst", "a float at 4 bits", "on 4 bits"), "Dosxv", strict=True
    ):
        there = [arm for arm in names if numbers.steps(arm, quantity)]
        pairs = [mean_and_error(numbers.of(arm, quantity) / numbers.of(arm, "entropy")) for arm in there]
        places = [names.index(arm) for arm in there]
        ax.errorbar(
            [p[0] for p in pairs], places, xerr=[p[1] for p in pairs], fmt=marker, markersize=5, capsize=2, label=quantity
        )
    ax.axvline(1, color="0.4", linestyle="--", linewidth=1.2, label="entropy")
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("Charged loss / entropy of the source")


def holds(see: See, name: str) -> float:
    """Whether the bound holds in every cell of a sweep, up to the rounding of sums."""
    return float(see(name, "least + 3 se - entropy") > -1e-6)


OF_COINS = ("coins and copies", "coins and copies, few numbers", "coins and copies, long")
SOURCES = Experiment(
    "Is every charged loss a bound, where the entropy is known?",
    {
        "coins and copies": swept(COINS, (0, 2, 8), (1, 4), 200),
        "coins and copies, few numbers": swept(
            COINS, (2, 4), (1,), 800, windows=8000, learning_rate=5e-3, noise_up=0.5
        ),
        "coins and copies, long": swept(COINS, (8,), (1,), 3000, windows=8000, learning_rate=5e-3, noise_up=0.5),
        "a biased coin": swept(BiasedCoin(0.2), (0, 2, 8), (1, 4), 120),
        "a Markov chain": swept(MarkovChain([[0.9, 0.1], [0.3, 0.7]]), (0, 2, 8), (1, 4), 120),
        "coins, one float": trained(tle.EstimationConfig(**ON_COINS, numbers=1), coins, flattered, steps=800),
    },
    [
        *(
            Finding(f"{name}: no cell 3 se below the entropy, share of seeds", lambda v, n=name: holds(v, n), low=1)
            for name in (*OF_COINS, "a biased coin", "a Markov chain")
        ),
        Finding(
            "coins and copies: no memory, as a share of the entropy",
            lambda v: v("coins and copies", "causal") / COINS.rate(16), high=1.1,
        ),
        *(
            Finding(
                f"{name}: the best memory, as a share of the entropy",
                lambda v, n=name: v(n, "best with a memory") / v(n, "entropy"), high=1.1,
            )
            for name in OF_COINS
        ),
        Finding(
            "a float charged as 4 bits is below the entropy: no code",
            lambda v: v("coins, one float", "a float at 4 bits") / COINS.rate(16), high=1,
        ),
        Finding("on a grid of 4 bits it is not", lambda v: v("coins, one float", "on 4 bits") / COINS.rate(16), low=1),
    ],
    draw_sources,
)  # fmt: skip
