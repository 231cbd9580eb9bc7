"""Small entropy-estimation models, one of every way to build one, with weights that say something."""

from __future__ import annotations

from functools import cache

import torch

import tl_entropy as tle

SIZES = {"n_ctx": 24, "d_model": 16, "n_layers": 2, "n_heads": 4}
MIXERS = {"flat": ("conv", 1), "kernel": ("conv", 4), "heads": ("heads", 1), "attention": ("attention", 1)}
MEMORY = {"numbers": 4, "encoder_width": 8}


def settings():
    """Settings by a name, every kind with every mixer, and every way in."""
    found = {}
    for name, (mixer, kernel) in MIXERS.items():
        common = {"mixer": mixer, "kernel": kernel}
        found[f"causal {name}"] = {"kind": "causal", **common}
        found[f"autoencoder {name}"] = {"kind": "autoencoder", "numbers": 8, **common}
        found[f"memory {name}"] = {"kind": "memory", **MEMORY, **common}
    found["autoencoder unrolled"] = {"kind": "autoencoder", "mixer": "attention", "spread": "unroll", "spread_width": 24}
    found["autoencoder unmasked"] = {
        "kind": "autoencoder", "mixer": "heads", "causal": False, "encoder_causal": False, "positions": "learned",
    }  # fmt: skip
    found["autoencoder unmasked attention"] = {
        "kind": "autoencoder", "mixer": "attention", "causal": False, "encoder_causal": False, "positions": "learned",
    }  # fmt: skip
    for mixer in ("heads", "attention"):
        for into in ("add", "token"):
            found[f"memory {mixer} {into}"] = {"kind": "memory", "mixer": mixer, "into": into, **MEMORY}
            found[f"past {mixer} {into}"] = {**found[f"memory {mixer} {into}"], "memory_of": "past", "memories": 2}
    found["past flat embedding"] = {"kind": "memory", "memory_of": "past", "memories": 2, "positions": "learned", **MEMORY}
    found["memory on a grid"] = {"kind": "memory", "mixer": "heads", "limit": 1.0, "noise": 0.1, "bits": 4, **MEMORY}
    found["memory tied"] = {"kind": "memory", "numbers": 4, "into": "add", "tied": True}
    return found


SETTINGS = settings()


@cache
def small_model(name: str):
    """The model of these settings, whose bytes differ in what they are worth."""
    return drawn(SETTINGS[name])


def drawn(options: dict, tokenizer="bytes", **sizes):
    model = tle.estimation_model(tle.EstimationConfig(**SIZES | sizes | options), tokenizer, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "W_U" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def rows(*lengths: int, model, seed: int = 0):
    """Random ids [row, pos], padded on the right, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 250, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return tokens, mask
