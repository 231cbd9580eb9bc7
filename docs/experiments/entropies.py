"""What is taken for the entropy of tokens: reliance on a memory (experiment 11), differences of windows (12); weights (13)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from grounds import BITS, COINS, ON_COINS, PLAIN, Ground, coins, heads, library, loss_of, trained
from harness import Arm, Experiment, Finding, Numbers, dots, less
from matplotlib.axes import Axes
from torch import Tensor

import tl_entropy as tle

QUIET: dict[str, Any] = {"progress": False, "batch_size": 64}
HERE_AND_BEFORE: dict[str, Any] = {**PLAIN, **heads(4)}
WITHOUT = {name: value for name, value in ON_COINS.items() if name not in ("kind", "encoder_width")}
TOLD: dict[str, Any] = {**PLAIN, **heads(4), "kind": "memory"}


def held(ground: Ground, windows: int) -> Any:
    """So many windows of what is held out, a document each."""
    if ground.tokenizer is None:
        return ground.held_out[:windows]
    return [text[i : i + 32] for text in ground.held_out for i in range(0, 32 * windows // len(ground.held_out), 32)]


def squared(x: Tensor, y: Tensor) -> float:
    """R², of two quantities of the same tokens."""
    return float(torch.corrcoef(torch.stack([x.double().flatten(), y.double().flatten()]))[0, 1] ** 2)


def relied(model: Any, ground: Ground) -> dict[str, float]:
    """How reliance on the memory goes with itself by another measure, with losses, and along the window."""
    texts = held(ground, 180)
    found = tle.token_reliance(model, texts, {"memory": tle.occlude("memory")}, metrics=("l1", "cosine"), **QUIET)
    losses = tle.token_surprisal(model, texts, top_k=0, **QUIET).surprisal
    l1, cosine = found.normalized("l1"), found.normalized("cosine")
    late = found.position > found.position.double().median()
    raw = found.value("l1").flatten()
    return {
        "loss": loss_of(model, ground)["loss"], "R² of L1 and cosine": squared(l1, cosine),
        "R² of L1 and loss": squared(l1, losses), "R² of cosine and loss": squared(cosine, losses),
        "late / early": float(raw[late].mean() / raw[~late].mean()),
    }  # fmt: skip


RELYING = ("R² of L1 and cosine", "R² of L1 and loss", "R² of cosine and loss", "late / early")


def draw_relying(numbers: Numbers, ax: Axes) -> None:
    """Shares of variance."""
    dots(numbers, RELYING, ax)
    ax.set_xlabel("R², and reliance late in the window over early")


RELIANCE = Experiment(
    "Is reliance on the memory a loss by another name?",
    {
        "coins, 2 numbers": trained(tle.EstimationConfig(**ON_COINS, numbers=2), coins, relied, steps=400),
        "text, 16 numbers": trained(tle.EstimationConfig(**TOLD, numbers=16), library, relied, steps=300),
    },
    [
        finding
        for arm in ("coins, 2 numbers", "text, 16 numbers")
        for finding in (
            Finding(f"{arm}: L1 goes with cosine, R²", lambda v, a=arm: v(a, RELYING[0]), low=0.42),
            Finding(f"{arm}: L1 does not go with loss, R²", lambda v, a=arm: v(a, RELYING[1]), high=0.1),
            Finding(f"{arm}: nor does cosine", lambda v, a=arm: v(a, RELYING[2]), high=0.1),
            Finding(f"{arm}: it falls along the window", lambda v, a=arm: v(a, RELYING[3]), high=1),
        )
    ],
    draw_relying,
    ("loss", *RELYING),
)


def both(told: dict[str, Any], alone: dict[str, Any], ground_of: Any, steps: int) -> Arm:
    """A model that is told of the text and a causal one, and what each says of tokens."""

    def arm(seed: int, share: float = 1.0) -> Iterator[tuple[int, dict[str, float]]]:
        ground, n = ground_of(seed), max(2, round(steps * share))
        oracle, causal = (tle.estimation_model(tle.EstimationConfig(**of), ground.tokenizer, seed=seed) for of in (told, alone))
        for model in (oracle, causal):  # many windows are short, so that states of beginnings are trained, too
            options = {**ground.options, "short": 0.5}
            tle.train_estimation(
                model, ground.training, validation=ground.held_out, steps=n, every=n, seed=seed, progress=False, **options
            )
        texts = held(ground, 60)
        difference = tle.conditional_entropy(oracle, texts, **QUIET).entropy
        own, plain = (tle.token_surprisal(model, texts, top_k=0, **QUIET).surprisal for model in (oracle, causal))
        found = {
            "difference with causal": squared(difference, plain), "own loss with causal": squared(own, plain),
            "slope": float(torch.cov(torch.stack([difference, plain.double()]))[0, 1] / plain.double().var()),
            "share below 0": float((difference < 0).double().mean()),
        }  # fmt: skip
        if ground.tokenizer is None:
            truth = torch.tensor(COINS.entropies(16).tolist()).repeat(len(texts))
            for name, values in (("causal", plain), ("difference", difference), ("own loss", own)):
                found[f"{name} with truth"] = squared(values, truth)
        yield n, found

    return arm


TRUE = ("causal with truth", "difference with truth", "own loss with truth")


def draw_windows(numbers: Numbers, ax: Axes) -> None:
    """Shares of variance."""
    dots(numbers, ("difference with causal", "own loss with causal", *TRUE), ax)
    ax.set_xlabel("R²")


WINDOWS = Experiment(
    "Is the difference between two windows' losses the entropy of a token, where the memory has read it?",
    {
        "coins, 2 numbers": both({**ON_COINS, "numbers": 2}, WITHOUT, coins, 400),
        "text, 16 numbers": both({**TOLD, "numbers": 16}, HERE_AND_BEFORE, library, 300),
    },
    [
        *(
            Finding(
                f"{arm}: more like causal losses than the model's own are",
                less((arm, "difference with causal"), (arm, "own loss with causal")), low=0,
            )
            for arm in ("coins, 2 numbers", "text, 16 numbers")
        ),
        Finding("coins: a causal loss follows the truth", lambda v: v("coins, 2 numbers", TRUE[0]), low=0.5),
        Finding("coins: the difference does not", lambda v: v("coins, 2 numbers", TRUE[1]), high=0.5),
        Finding("coins: less than a causal loss", less(("coins, 2 numbers", TRUE[1]), ("coins, 2 numbers", TRUE[0])), high=0),
    ],
    draw_windows,
    ("difference with causal", "slope", "own loss with causal", "share below 0", *TRUE),
)  # fmt: skip


def named(model: Any, ground: Ground) -> dict[str, float]:
    """Bits a byte, and how many bytes are the most probable one, of what is held out."""
    found = tle.token_surprisal(model, ground.held_out, top_k=0, **QUIET)
    return {"bits a byte": found.loss() / BITS, "named right": float((found.rank == 0).double().mean())}


def weighted(by: str) -> Arm:
    """A causal model of the library whose losses count 1 - reliance or 1 - entropy, as a model trained before says."""

    def arm(seed: int, share: float = 1.0) -> Iterator[tuple[int, dict[str, float]]]:
        ground, n = library(seed), max(2, round(300 * share))
        options: dict[str, Any] = {
            "validation": ground.held_out, "steps": n, "every": n, "progress": False, **ground.options,
        }  # fmt: skip
        shape = {**TOLD, "numbers": 2} if by == "reliance" else HERE_AND_BEFORE
        before = tle.estimation_model(tle.EstimationConfig(**shape), "bytes", seed=100 + seed)
        tle.train_estimation(before, ground.training, seed=100 + seed, **options)

        @torch.no_grad()
        def weights(tokens: Tensor, mask: Tensor) -> Tensor:
            logits = before(tokens, attention_mask=mask)
            if by == "entropy":
                values = tle.functional.shannon_entropy(logits)
            else:
                hooks = [("hook_memory", lambda x, hook: torch.zeros_like(x))]
                values = (before.run_with_hooks(tokens, attention_mask=mask, fwd_hooks=hooks) - logits).abs().sum(-1)
            return 1 - tle.functional.min_max(values[:, :-1], mask[:, 1:])

        model = tle.estimation_model(tle.EstimationConfig(**HERE_AND_BEFORE), "bytes", seed=seed)
        tle.train_estimation(model, ground.training, seed=seed, weights=weights, **options)
        yield n, named(model, ground)

    return arm


def draw_weighted(numbers: Numbers, ax: Axes) -> None:
    """Bits a byte."""
    dots(numbers, ["bits a byte"], ax)
    ax.set_xlabel("Bits a byte")


WEIGHTED = Experiment(
    "What does a training gain whose losses count 1 - reliance, or 1 - entropy?",
    {
        "all alike": trained(tle.EstimationConfig(**HERE_AND_BEFORE), library, named, steps=300),
        "1 - reliance": weighted("reliance"),
        "1 - entropy": weighted("entropy"),
    },
    [
        finding
        for arm in ("1 - reliance", "1 - entropy")
        for finding in (
            Finding(f"{arm}: a little worse in bits a byte", less((arm, "bits a byte"), ("all alike", "bits a byte")), 0, 0.1),
            Finding(f"{arm}: more is named right", less((arm, "named right"), ("all alike", "named right")), low=0),
        )
    ],
    draw_weighted,
)
