"""Where a number comes from: a fingerprint of a model's weights, and how they were processed."""

from __future__ import annotations

import hashlib
from typing import Any


def fingerprint(model: Any) -> str:
    """A hash over the shapes and up to 1024 evenly spaced values of every parameter, whatever the parameters' names."""
    parts = set()
    for parameter in model.parameters():
        values = parameter.detach().flatten()
        sample = values[:: max(1, values.numel() // 1024)].float().cpu().numpy().tobytes()
        parts.add(hashlib.sha256(f"{tuple(parameter.shape)} {parameter.dtype}".encode() + sample).digest())
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()[:16]


def processing(model: Any, *, value_biases: bool) -> str:
    """The model's class, what TransformerLens has done to its weights, and whether z holds value biases."""
    mode = "compatibility mode" if getattr(model, "compatibility_mode", False) else str(model.cfg.normalization_type)
    return f"{type(model).__name__}, {mode}{', value biases in z' if value_biases else ''}"
