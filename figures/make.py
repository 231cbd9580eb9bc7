"""Draw the figures of the README from the bundled model and texts that it was never shown.

    python figures/make.py                                draw all, next to this file
    python figures/make.py token_heatmap --out /tmp       draw one, elsewhere
    python figures/make.py lens_profile --model FOLDER    draw one of another model, if it needs no part of the bundled one

Every figure is written as PNG and as PDF. They hold no date, so equal numbers give equal files.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layers
import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from edits import FIGURES as EDIT_FIGURES
from layers import FIGURES as LAYER_FIGURES, beginnings
from matplotlib.axes import Axes
from predictions import FIGURES as PREDICTION_FIGURES
from tokens import FIGURES as TOKEN_FIGURES, function

import tl_entropy as tle

ABLATED = ((1, 5), (3, 1), (5, 1))
"""Heads whose absence a figure shows: the sharpest ones (``head_patterns``) of an early, a middle and the last layer."""


def lens_profile(model: Any) -> Axes:
    """Mean entropy by layer, for several orders."""
    return tle.plots.profile(tle.lens_entropy(model, beginnings(), orders=(0.5, 1.0, 2.0, 5.0), keep="summary", progress=False))


def token_heatmap(model: Any) -> Axes:
    """One function, token by layer, with the most probable next token in each cell."""
    result = tle.lens_entropy(model, function("copyreg.py", "constructor"), top_k=1, progress=False)
    return tle.plots.heatmap(result, top_tokens=True)


def site_profile(model: Any) -> Axes:
    """Mean entropy of the residual stream, and of what attention and MLP write into it."""
    sites = ("embed", "attn_out", "resid_mid", "mlp_out", "resid_post")
    return tle.plots.profile(tle.lens_entropy(model, beginnings(), sites=sites, keep="summary", progress=False))


def divergence_profile(model: Any) -> Axes:
    """KL of every layer's prediction from the output, through the logit lens and through the bundled tuned lens."""
    lenses = {"logit lens": None, "tuned lens": tle.demo_lens()}
    results = {
        name: tle.layer_divergence(model, beginnings(), metrics="kl", lens=lens, keep="summary", progress=False)
        for name, lens in lenses.items()
    }
    return tle.plots.divergences(results, log=True)


def sublayer_divergence(model: Any) -> Axes:
    """Jensen-Shannon divergence from the output, of the residual stream and of what is written into it."""
    sites = ("embed", "attn_out", "resid_mid", "mlp_out", "resid_post")
    result = tle.layer_divergence(model, beginnings(), metrics="jsd", sites=sites, keep="summary", progress=False)
    return tle.plots.divergences(result)


def layer_steps(model: Any) -> Axes:
    """How far each layer moves the prediction: Fisher-Rao distance from the layer before."""
    result = tle.layer_divergence(model, beginnings(), metrics="fisher_rao", against="previous", keep="summary", progress=False)
    return tle.plots.divergences(result)


def decided(model: Any) -> Axes:
    """Share of tokens that are decided by each layer."""
    return tle.plots.decisions(tle.layer_divergence(model, beginnings(), metrics="kl", keep="summary", progress=False))


def lens_table(model: Any) -> Axes:
    """The classic table of the logit lens: top token at every layer, coloured by the divergence from the output."""
    text = function("copyreg.py", "constructor")
    return tle.plots.heatmap(tle.layer_divergence(model, text, metrics="jsd", progress=False), top_tokens=True)


def head_patterns(model: Any) -> Axes:
    """Entropy of every head's attention, as a share of what the number of keys allows."""
    return tle.plots.heads(tle.head_entropy(model, beginnings(), keep="summary", progress=False), of="normalized")


def head_readouts(model: Any) -> Axes:
    """Entropy of what each head's output would predict by itself."""
    result = tle.head_entropy(model, beginnings()[:10], of="readout", norm="recomputed", keep="summary", progress=False)
    return tle.plots.heads(result)


def ablation(model: Any) -> Axes:
    """What the model without one of its heads is less sure of, layer by layer."""
    plain = tle.lens_entropy(model, beginnings(), progress=False)
    found = {}
    for head in ABLATED:
        edited = tle.lens_entropy(model, beginnings(), interventions=tle.ablate_heads([head]), progress=False)
        found["without head {}.{}".format(*head)] = tle.contrast(plain, edited)
    return tle.plots.contrast(found)


def information_profile(model: Any) -> Axes:
    """Information about the tokens up to and after each position, by layer, under its ceiling."""
    result = tle.soft_information(model, beginnings(), labels=("token", "bigram", "next_token", "next_bigram"), progress=False)
    return tle.plots.information(result, ceiling=True)


def entropy_profile(model: Any) -> Axes:
    """Soft entropy of the residual stream, and of what attention and MLP write into it."""
    sites = ("embed", "attn_out", "mlp_out", "resid_post")
    return tle.plots.information(
        tle.soft_information(model, beginnings(), labels="token", sites=sites, progress=False), of="entropy"
    )


def information_plane(model: Any) -> Axes:
    """Complexity against expressivity, layers as a path."""
    return tle.plots.information_plane(tle.soft_information(model, beginnings(), progress=False))


def head_information(model: Any) -> Axes:
    """What each head writes into the residual stream says about the next token."""
    result = tle.soft_information(model, beginnings(), labels="next_token", sites="result", progress=False)
    return tle.plots.heads(result)


def independent_tokens(_: Any) -> Axes:
    """Tokens independent of each other, states that know their own: plug-in optimality climbs with n, the truth is 0."""
    kinds, rows, draw = 5000, 20_000, torch.Generator().manual_seed(0)
    tokens = torch.multinomial(1 / torch.arange(1, kinds + 1), rows + 8, replacement=True, generator=draw)
    states = torch.randn(kinds, 64, generator=draw)[tokens] + torch.randn(rows + 8, 64, generator=draw)
    found = []
    for n in (1, 2, 3, 4):
        grams = tokens.unfold(0, n, 1).unique(dim=0, return_inverse=True)[1]  # that begin at each token
        before, after = grams[4 - n + 1 :][:rows], grams[5:][:rows]
        pair = [
            tle.functional.soft_mutual_information(states[4 : rows + 4], labels, documents=torch.arange(rows) // 500)
            for labels in (before, after)
        ]
        found.append((n, *pair))
    _, ax = plt.subplots(figsize=(4.8, 3.2), layout="constrained")
    orders = [n for n, _, _ in found]
    ax.plot(orders, [(y.plug_in / x.plug_in).item() for _, x, y in found], "s--", color="tab:orange", label="plug-in")
    corrected = [(y.information / x.information).item() for _, x, y in found]
    errors = [1.96 * y.se / x.information.item() for _, x, y in found]
    ax.errorbar(orders, corrected, errors, fmt="o-", color="tab:blue", capsize=3, label="cross-fitted")
    ax.axhline(0, color="0.3", linestyle=":", linewidth=1, label="truth")
    ax.set_xticks(orders)
    ax.set_xlabel("Tokens before and after (n)")
    ax.set_ylabel("Optimality")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax


def checkpoints(layers: list[int]) -> dict[int, Any]:
    """Results of the training's checkpoints, as ``training.py`` measured them, by step."""
    files = Path(__file__).with_name("training").glob("step-*.safetensors")
    steps = sorted((int(path.stem.removeprefix("step-")), path) for path in files)
    return {step: tle.load(path).select(layers=layers) for step, path in steps}


def training_plane(_: Any) -> Axes:
    """The course of training in the information plane, one path for each layer."""
    return tle.plots.information_plane(checkpoints([0, 2, 5]), input="token", output="next_token", path="results")


def training_tokens(_: Any) -> Axes:
    """Information about the current token in the course of training."""
    return tle.plots.course(checkpoints([-1, 0, 2, 3, 5]), label="token")


def training_next_tokens(_: Any) -> Axes:
    """Information about the next token in the course of training."""
    return tle.plots.course(checkpoints([-1, 0, 2, 3, 5]), label="next_token")


def training_share(_: Any) -> Axes:
    """Information about the current token as a share of its ceiling, in the course of training."""
    return tle.plots.course(checkpoints([-1, 0, 2, 3, 5]), label="token", of="share")


def training_entropy(_: Any) -> Axes:
    """Soft entropy in the course of training."""
    return tle.plots.course(checkpoints([-1, 0, 2, 3, 5]), label="token", of="entropy")


FIGURES: dict[str, Callable[[Any], Axes]] = {
    "lens_profile": lens_profile,
    "token_heatmap": token_heatmap,
    "site_profile": site_profile,
    "divergence_profile": divergence_profile,
    "sublayer_divergence": sublayer_divergence,
    "layer_steps": layer_steps,
    "decided": decided,
    "lens_table": lens_table,
    "head_patterns": head_patterns,
    "head_readouts": head_readouts,
    "ablation": ablation,
    "information_profile": information_profile,
    "entropy_profile": entropy_profile,
    "information_plane": information_plane,
    "head_information": head_information,
    "independent_tokens": independent_tokens,
    "training_plane": training_plane,
    "training_tokens": training_tokens,
    "training_next_tokens": training_next_tokens,
    "training_share": training_share,
    "training_entropy": training_entropy,
    **LAYER_FIGURES,
    **PREDICTION_FIGURES,
    **TOKEN_FIGURES,
    **EDIT_FIGURES,
}


def main() -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "figures", nargs="*", metavar="figure", help=f"which to draw: {', '.join(FIGURES)}; all if none is named"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to (default: this file's)")
    parser.add_argument("--model", type=Path, help="a model's folder; without it, the bundled model")
    parser.add_argument("--small", action="store_true", help="of little text and short trainings: to see that all can be drawn")
    arguments = parser.parse_args()
    unknown = set(arguments.figures) - set(FIGURES)
    if unknown:
        parser.error(f"no figure {', '.join(sorted(unknown))}; choose from {', '.join(FIGURES)}")
    layers.SMALL = arguments.small
    mpl.use("agg")  # a canvas that needs no screen
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = tle.load_model(arguments.model) if arguments.model else tle.demo_model()
    for name in arguments.figures or FIGURES:
        with mpl.rc_context({"pdf.fonttype": 42}):  # TrueType, which publishers accept
            figure = FIGURES[name](model).figure
            figure.savefig(arguments.out / f"{name}.png", dpi=200, metadata={"Software": None})
            figure.savefig(arguments.out / f"{name}.pdf", metadata={"CreationDate": None})
        plt.close(figure)
        print(f"drew {arguments.out / name}.png and .pdf")


if __name__ == "__main__":
    main()
