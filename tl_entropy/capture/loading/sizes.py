"""How large a model on this machine is, without its weights: what its configuration and the headers of its weight files say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open


class ModelSize(NamedTuple):
    """A model's numbers.

    Attributes:
        parameters: values of its weights.
        layers: blocks.
        heads: query heads of a block.
        d_model: width of the residual stream.
        tokens_a_byte: tokens of a byte of text, of the sample that was given; None where it has no tokenizer.
    """

    parameters: int
    layers: int
    heads: int
    d_model: int
    tokens_a_byte: float | None


def size_of(place: str | Path, sample: str) -> ModelSize | None:
    """The numbers of the model in a folder; None where none lies there in Hugging Face's layout, with safetensors.

    >>> from tl_entropy.demo import FOLDER
    >>> size = size_of(FOLDER, "import os")
    >>> size.layers, size.d_model, size.parameters > 3_000_000
    (6, 192, True)
    """
    from transformers import AutoConfig, AutoTokenizer

    folder = Path(place).expanduser()
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files or not (folder / "config.json").is_file():
        return None
    parameters = 0
    for path in files:
        with safe_open(path, "pt") as file:
            parameters += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no mapping)
    config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    rate = None
    if sample and (folder / "tokenizer.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        rate = len(tokenizer(sample, add_special_tokens=False, verbose=False)["input_ids"]) / len(
            sample.encode("utf-8", "replace")
        )
    return ModelSize(parameters, config.num_hidden_layers, config.num_attention_heads, config.hidden_size, rate)
