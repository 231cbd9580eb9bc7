"""Findings of papers, put to the test on any model: a function each, which measures by one call, draws, and says what it found.

``make.py`` runs them on the bundled model and on SmolLM2; the pages beside this file show them as they stand here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import prompts
import torch
from matplotlib.axes import Axes

import tl_entropy as tle

CHECKPOINTS = Path(__file__).parents[2] / "figures" / "training"


def entropy_lens(model: Any, texts: list[str], ax: Axes) -> list[str]:
    """Rényi entropies of the lens, of four orders, by layer."""
    result = tle.lens_entropy(model, texts, orders=(0.5, 1, 2, math.inf), keep="summary")
    tle.plots.profile(result, ax=ax)

    curves = result.mean_profile().pivot(index="layer", columns="order", values="mean")
    named = {layer: "the embedding" if layer < 0 else f"layer {layer}" for layer in curves.index}
    return [
        *(f"order {x:g}: lowest at {named[y.idxmin()]}, highest at {named[y.idxmax()]}" for x, y in curves.items()),
        f"correlation of two orders' curves: {curves.corr().min().min():.3f} or more; without the embedding "
        f"{curves.drop(-1).corr().min().min():.3f}",
    ]


def layer_by_layer(model: Any, texts: list[str], ax: Axes) -> list[str]:
    """How evenly the states of a text spread over directions, by layer, as a share of the possible."""
    result = tle.layer_geometry(model, texts, measures=("normalized_prompt_entropy", "dataset_entropy"))
    tle.plots.geometry(result, measure="normalized_prompt_entropy", ax=ax)

    return [
        f"{name}: {value[0]:.3f} at the embedding, {value.min():.3f} at its lowest, at {result.sites[value.argmin()]}, "
        f"{value[-1]:.3f} after the last layer"
        for name in result.measures
        for value in [result.value(name)]
    ]


def tuned_lens(model: Any, texts: list[str], ax: Axes, lens: Any = None) -> list[str]:
    """KL divergence of each layer's prediction from the model's output, through the logit lens, and through a tuned one."""
    results = {"logit lens": tle.layer_divergence(model, texts, metrics="kl", keep="summary")}
    if lens is not None:
        results["tuned lens"] = tle.layer_divergence(model, texts, metrics="kl", lens=lens, keep="summary")
    tle.plots.divergences(results, log=True, ax=ax)

    found = []
    for name, result in results.items():
        kl = result.mean_profile("kl")["mean"].tolist()
        steps = [after < before for before, after in pairwise(kl)]
        found.append(
            f"{name}: KL {kl[0]:.2f} nats at the embedding, {kl[len(kl) // 2]:.2f} in the middle, {kl[-2]:.2f} before the last "
            f"layer; {sum(steps)} of {len(steps)} layers bring it down"
        )
    return found


def three_phases(model: Any, texts: list[str], ax: Axes) -> list[str]:
    """Entropy of the lens at the last token of each prompt, by layer, in bits."""
    result = tle.lens_entropy(model, texts, positions=-1).to("bits")
    tle.plots.profile(result, traces=8, ax=ax)

    mean = result.mean_profile()["mean"].tolist()
    third, top = (len(mean) - 1) // 3, max(mean)
    thirds = [sum(mean[i : i + third]) / third for i in range(1, 3 * third, third)]
    return [
        f"bits: embedding {mean[0]:.2f}, thirds of the layers {', '.join(f'{x:.2f}' for x in thirds)}, output {mean[-1]:.2f}",
        f"highest {top:.2f}, after layer {mean.index(top) - 1}; log2 of the vocabulary is {math.log2(model.cfg.d_vocab):.1f}",
    ]


def late_facts(model: Any, kinds: dict[str, list[str]], ax: Axes) -> list[str]:
    """Jensen-Shannon divergence of each layer from the output, where a prompt asks for a fact and where grammar answers it."""
    results = {name: tle.layer_divergence(model, prompts, metrics="jsd", positions=-1) for name, prompts in kinds.items()}
    tle.plots.divergences(results, ax=ax)

    found = []
    for name, result in results.items():
        profile = result.mean_profile("jsd")
        late = profile[profile["layer"] >= 0.75 * profile["layer"].max()].iloc[:-1]
        decided = result.decided().double() / (len(result.sites) - 1)
        found.append(
            f"{name} ({len(decided)} prompts): JSD {late['mean'].mean():.3f} nats in the last quarter of layers; decided at "
            f"{decided.mean():.0%} of the depth (± {decided.std() / len(decided) ** 0.5:.0%})"
        )
    return found


def attention_entropy(model: Any, texts: list[str], ax: Axes) -> list[str]:
    """Entropy of the attention pattern of every head."""
    result = tle.head_entropy(model, texts, keep="summary")
    tle.plots.heads(result, ax=ax, annotate=False)

    frame = result.mean_profile()
    layers = frame.groupby("layer")["mean"].mean()
    ends = {"lowest": frame.loc[frame["mean"].idxmin()], "highest": frame.loc[frame["mean"].idxmax()]}
    return [
        *(f"{name}: head {int(head['layer'])}.{int(head['head'])}, {head['mean']:.3f} nats" for name, head in ends.items()),
        f"below 0.1 nats: {(frame['mean'] < 0.1).sum()} of {len(frame)} heads; below 0.5: {(frame['mean'] < 0.5).sum()}",
        f"mean of a layer: {layers.min():.2f} (layer {layers.idxmin()}) to {layers.max():.2f} (layer {layers.idxmax()})",
    ]


def compression_valley(model: Any, texts: list[str], ax: Axes) -> list[str]:
    """Matrix entropy of the states as they are, with the first token of a sequence and without it."""
    results = {
        name: tle.layer_geometry(model, texts, measures="prompt_entropy", normalise=None, include_special=with_bos)
        for name, with_bos in (("with BOS", True), ("without", False))
    }
    tle.plots.geometry(results, measure="prompt_entropy", ax=ax)

    return [
        f"{name}: {value[0]:.3f} nats at the embedding, lowest {value.min():.3f} at {result.sites[value.argmin()]}, "
        f"{value[-1]:.3f} after the last layer"
        for name, result in results.items()
        for value in [result.value("prompt_entropy")]
    ]


def deep_thinking(model: Any, texts: list[str], ax: Axes, g: float = 0.5, rho: float = 0.85) -> list[str]:
    """Where each token's prediction comes, for the first time, as near as g bits (JSD) to the output; late is deep."""
    result = tle.layer_divergence(model, texts, metrics="jsd")
    settled, last = result.settled(g, unit="bits"), len(result.sites) - 1
    share = torch.bincount(settled, minlength=last + 1) / len(settled)
    ax.bar(range(last + 1), share.tolist(), color=["tab:blue" if i >= rho * last else "0.6" for i in range(last + 1)])
    ax.set_xlabel("Layers until it settles")
    ax.set_ylabel("Share of tokens")

    ratios = {at: result.deep_thinking_ratio(rho, threshold=at, unit="bits")["ratio"][0] for at in (g, g / 2, 1.5 * g)}
    return [
        f"median: settled after {settled.median()} of {last} layers; deep is from {math.ceil(rho * last)} on; "
        f"{len(settled)} tokens",
        *(f"deep-thinking ratio {ratio:.3f} where g = {at:g} bits" for at, ratio in ratios.items()),
    ]


def fit_then_compress(_model: Any, _texts: list[str], ax: Axes) -> list[str]:
    """The course of a training in the information plane: about the tokens before against about those after."""
    steps = sorted(int(path.stem.removeprefix("step-")) for path in CHECKPOINTS.glob("step-*.safetensors"))
    results = {step: tle.load(CHECKPOINTS / f"step-{step}.safetensors").select(layers=[0, 2, 5]) for step in steps}
    tle.plots.information_plane(results, input="token", output="next_token", path="results", ax=ax)

    found = []
    for j, site in enumerate(results[0].sites):
        for label in ("token", "next_token"):
            course = {step: result.select(labels=label).value()[j].mean().item() for step, result in results.items()}
            top = max(course, key=course.__getitem__)
            found.append(
                f"{site}, {label}: {course[0]:.3f} nats at step 0, highest {course[top]:.3f} at step {top}, "
                f"{course[steps[-1]]:.3f} at step {steps[-1]}"
            )
    return found


BOTH: dict[str, Callable[..., list[str]]] = {
    "entropy_lens": entropy_lens, "layer_by_layer": layer_by_layer, "tuned_lens": tuned_lens, "three_phases": three_phases,
    "late_facts": late_facts, "attention_entropy": attention_entropy, "compression_valley": compression_valley,
    "deep_thinking": deep_thinking,
}  # fmt: skip
"""By page, those that both models are put to."""

ALONE: dict[str, Callable[..., list[str]]] = {"fit_then_compress": fit_then_compress}
"""Those of the bundled model alone."""


def arguments(name: str, own: str) -> dict[str, Any]:
    """What a recipe is given beside the model, for the "bundled" one or "smollm2"."""
    python = own == "bundled"
    if name == "three_phases":
        return {"texts": prompts.unfinished() if python else prompts.TRANSLATIONS}
    if name == "late_facts":
        return {"kinds": prompts.code() if python else prompts.ENGLISH}
    texts = [text[:1000] for text in tle.demo_texts(16)] if python else tle.demo_texts(language="english")
    return {"texts": texts} | ({"lens": tle.demo_lens()} if name == "tuned_lens" and python else {})
