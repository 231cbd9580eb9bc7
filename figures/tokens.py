"""Figures of single tokens: what they cost, what they rely on, two tokenizers, a training; ``make.py`` draws them."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from layers import modules, much
from matplotlib.axes import Axes

import tl_entropy as tle
from tl_entropy.results.positions import token_means

WORD = r"[^\W\d_]+"
"""Letters in a row; in a name such as ``find_param`` there are two such words."""

TRAINED_ON = 18
"""Modules that the small model is trained on; the other twelve are for measuring."""

MEASURED = (0, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320)
"""Steps of its training that are looked at; the last is its end."""


def function(module: str, name: str) -> str:
    """Source of one function of a held-out module."""
    source = dict(zip(tle.demo_names(), tle.demo_texts(), strict=True))[module]
    (found,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)
    return f"{ast.get_source_segment(source, found)}\n"


def token_text(model: Any) -> Axes:
    """One function with the surprisal of its tokens."""
    return tle.plots.token_text(tle.token_surprisal(model, function("cgi.py", "_parseparam"), progress=False))


def sub_tokens(model: Any) -> Axes:
    """Surprisal and entropy of the first, second and third token of words, by how many tokens the word has."""
    result = tle.token_surprisal(model, [text[: much(4000, 1000)] for text in modules().values()], top_k=0, progress=False)
    words = result.words(WORD)
    _, ax = plt.subplots(figsize=(4.8, 3.2), layout="constrained")
    for tokens, colour in zip((1, 2, 3), plt.get_cmap("viridis")((0.0, 0.45, 0.8)), strict=True):
        for values, style in ((result.surprisal, "o-"), (result.entropy, "s--")):
            means, errors = [], []
            for part in range(tokens):
                rows = torch.tensor(((words["parts"] == tokens) & (words["part"] == part)).to_numpy())
                mean, error = token_means(values[rows], result.document[rows])
                means.append(mean.item())
                errors.append(1.96 * error.item())
            name = "surprisal" if values is result.surprisal else "entropy"
            places = [place + 0.05 * (tokens - 2) for place in range(1, tokens + 1)]  # side by side
            empty = "white" if name == "entropy" else colour
            label = f"{name}, words of {tokens}" if tokens > 1 else f"{name}, whole words"
            ax.errorbar(places, means, errors, fmt=style, color=colour, markerfacecolor=empty, capsize=3, label=label)
    ax.set_xticks([1, 2, 3], ["first", "second", "third"])
    ax.set_xlim(0.8, 3.2)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("Token of the word")
    ax.set_ylabel("nats")
    ax.spines[["top", "right"]].set_visible(False)
    handles, labels = ax.get_legend_handles_labels()
    order = [0, 2, 4, 1, 3, 5]  # one column of surprisals, one of entropies
    ax.figure.legend(
        [handles[i] for i in order], [labels[i] for i in order], frameon=False, loc="outside upper center", ncols=2, fontsize=8
    )
    return ax


def token_reliance(model: Any) -> Axes:
    """How much more each token of a function costs where another one can't be attended to."""
    result = tle.token_reliance(model, function("mailcap.py", "findparam"), "tokens", metrics=("loss",), progress=False)
    return tle.plots.reliance(result)


def pieces() -> list[str]:
    """A piece of each module that the small model is not trained on."""
    return [text[2000:2800] for text in tle.demo_texts()[TRAINED_ON:][: much(12, 4)]]


@cache
def small() -> tuple[Any, Any]:
    """A small model with a tokenizer of 512 tokens, trained on 18 modules for some seconds, and the course of its training."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    texts, begin, context = tle.demo_texts()[: much(TRAINED_ON, 2)], "<|endoftext|>", 128
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=512, special_tokens=[begin], initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=begin, eos_token=begin, unk_token=begin)
    config = GPT2Config(
        vocab_size=512, n_positions=context, n_embd=64, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0,
        initializer_range=0.1, tie_word_embeddings=False, embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "small"
        GPT2LMHeadModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        model = tle.load_model(folder)
    ids = torch.tensor([token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]])
    monitor = tle.EntropyMonitor(model, [text[:400] for text in pieces()])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.006, betas=(0.9, 0.98))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that the training is the same on any number of cores
    for step in range(much(MEASURED[-1], 8) + 1):
        if step in MEASURED:
            monitor(step)
        rows = ids[torch.randint(len(ids) - context, (4, 1)) + torch.arange(context)]
        rows[:, 0] = tokenizer.bos_token_id  # as every window is begun where we measure
        losses, _ = tle.functional.token_losses(model(rows), rows)
        losses.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.set_num_threads(threads)
    return model, monitor.history


def token_correlation(model: Any) -> Axes:
    """Surprisal of the same text by a small model with another tokenizer, on its tokens, against the bundled one's."""
    results = [tle.token_surprisal(one, pieces(), top_k=0, progress=False) for one in (model, small()[0])]
    return tle.plots.token_correlation(tle.token_correlation(*results))


def entropy_monitor(_: Any) -> Axes:
    """Entropy of each layer, and the loss, on held-out text while the small model learns."""
    return tle.plots.monitor(small()[1], log=True)


FIGURES: dict[str, Callable[[Any], Axes]] = {
    "token_text": token_text,
    "sub_tokens": sub_tokens,
    "token_reliance": token_reliance,
    "token_correlation": token_correlation,
    "entropy_monitor": entropy_monitor,
}
