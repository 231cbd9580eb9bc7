"""Figures of what edits change, of memories that are charged for, and of states from anywhere; ``make.py`` draws them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import torch
from layers import beginnings, modules, much
from matplotlib.axes import Axes
from tokens import function

import tl_entropy as tle


def ablation_map(model: Any) -> Axes:
    """What the model without head 3.1 is less sure of, token by layer of one function."""
    text = function("copyreg.py", "constructor")
    plain = tle.lens_entropy(model, text, progress=False)
    edited = tle.lens_entropy(model, text, interventions=tle.ablate_heads([(3, 1)]), progress=False)
    return tle.plots.contrast_map(tle.contrast(plain, edited))


def sensitivity(model: Any) -> Axes:
    """What rounding to few bits costs, at what attention and MLP write."""
    edits = ["int8", "float8_e5m2", "int4"]
    found = tle.sensitivity(model, beginnings()[:4], edits, sites=("attn_out", "mlp_out"), progress=False)
    return tle.plots.sensitivity(found)


def memory_sweep(_: Any) -> Axes:
    """Loss of small models that are told of the text, alone and with the price of what they are told."""
    texts = list(modules().values())
    last = max(2 * len(texts) // 5, 1)
    base = tle.EstimationConfig(kind="memory", mixer="heads", n_ctx=64, d_model=32, n_layers=1, numbers=8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that the trainings are the same on any number of cores
    found = tle.memory_sweep(
        texts[:-last], validation=[text[:2000] for text in texts[-last:]], numbers=(0, 2, 8), bits=(1, 4), base=base,
        steps=much(150, 10), progress=False,
    )  # fmt: skip
    torch.set_num_threads(threads)
    return tle.plots.memory_sweep(found)


def state_information(_: Any) -> Axes:
    """What states say about one of fifty words as noise covers them: counted as if all were seen, and cross-fitted."""
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(0, 50, (1000,), generator=draw)
    places, noise = torch.randn(50, 64, generator=draw), torch.randn(1000, 64, generator=draw)
    scales = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    found = []
    for scale in scales:
        states = tle.StateInformation(64)
        for rows in torch.arange(1000).split(100):
            states.update(places[words[rows]] + scale * noise[rows], {"word": words[rows]}, documents=rows // 50)
        found.append(states.mutual_information("word"))
    _, ax = plt.subplots(figsize=(4.8, 3.2), layout="constrained")
    ax.errorbar(
        scales, [one.information for one in found], [1.96 * one.se for one in found], fmt="o-", capsize=3, label="information"
    )
    ax.plot(scales, [one.plug_in for one in found], "s--", label="plug-in")
    ax.plot(scales, [one.ceiling for one in found], ":", color="0.3", label="ceiling")
    ax.set_xscale("log", base=2)
    ax.set_xlabel("Noise, in sizes of what it covers")
    ax.set_ylabel("About the word (nats)")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax


FIGURES: dict[str, Callable[[Any], Axes]] = {
    "ablation_map": ablation_map,
    "sensitivity": sensitivity,
    "memory_sweep": memory_sweep,
    "state_information": state_information,
}
