"""The bundled model, its tuned lens, and texts that neither was shown: all of the documentation runs on them, offline."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from tl_entropy.capture.loading import Kind, load_model
from tl_entropy.lenses.files import load_tuned_lens
from tl_entropy.lenses.tuned import TunedLens
from tl_entropy.torch_state import steady

_HERE = Path(__file__).parent
FOLDER = _HERE / "stdlib-gpt2-3m"
"""Of the bundled model: configuration, weights and tokenizer."""


@steady
def demo_model(*, kind: Kind | None = None, device: str = "cpu") -> Any:
    """The bundled model: 6 layers, 6 heads, d_model 192, trained on the source code that ships with Python.

    Args:
        kind: "bridge" for a TransformerBridge, "hooked" for a HookedTransformer; None takes the one that is installed.
        device: where to put it.

    Returns:
        The model in float32 and evaluation mode; its context is 256 tokens, its vocabulary 4096.

    >>> demo_model().cfg.n_layers
    6
    """
    return load_model(FOLDER, kind=kind, device=device)


@steady
def demo_lens() -> TunedLens:
    """The tuned lens of the bundled model, trained on the model's own training text; it fits either kind of model.

    >>> demo_lens().n_layers
    6
    """
    return load_tuned_lens(_HERE / "stdlib-gpt2-3m-lens.safetensors")


@steady
def demo_texts(n: int | None = None) -> list[str]:
    """Source code of Python modules that the bundled model was not trained on; the first ``n`` of thirty.

    >>> len(demo_texts()), len(demo_texts(2))
    (30, 2)
    """
    return [text for _, text in _held_out()[:n]]


@steady
def demo_names(n: int | None = None) -> list[str]:
    """File names of ``demo_texts``, in the same order.

    >>> demo_names(1)
    ['bdb.py']
    """
    return [name for name, _ in _held_out()[:n]]


def _held_out() -> list[tuple[str, str]]:
    with zipfile.ZipFile(_HERE / "held_out.zip") as archive:
        return [(name, archive.read(name).decode("utf-8")) for name in sorted(archive.namelist())]
