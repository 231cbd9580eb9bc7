"""What a run will take, before it runs: rows, passes, memory, disk and files, from its texts and its models' configurations.

Of a model on this machine the tokenizer, the configuration and the headers of its weight files are read, never the weights; of
one on the hub nothing is fetched, and its line says so. Tokens are counted in a sample and scaled by bytes. States are counted
by formula: of kept positions by the bytes of a row, which are right to 5 % beside what a file holds once; of soft information a
row of ``n_bins`` sums for each class, fold and site, of at most as many classes as there are tokens.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tl_entropy.analyses.information.writing import disk_bytes
from tl_entropy.capture.inputs import pieces, read_text
from tl_entropy.capture.loading.sizes import ModelSize, size_of
from tl_entropy.errors import InputError, counted
from tl_entropy.runs.analyses import ANALYSES, called
from tl_entropy.runs.ask import Ask
from tl_entropy.runs.inputs import Documents
from tl_entropy.runs.models import checkpoints

_SAMPLE = 200_000
"""Bytes of text in which tokens are counted."""
_PASSES = {
    "soft_information": lambda options: 2 if options.get("center") is True else 1,
    "entropy_calibration": lambda _: 2,
}


def planned(config: Mapping[str, Any] | str | Path) -> str:
    """What a run will take, as lines.

    Raises:
        InputError, InputTypeError: as ``run``.
    """
    ask = Ask.of(config)
    models, documents = checkpoints(ask.models), Documents.of(ask.inputs)
    units = math.ceil(documents.count / ask.unit_documents)
    sample, n_bytes = _texts(documents)
    jobs = len(models) * len(ask.analyses)
    lines = [
        f"{counted(len(models), 'model')}, {len(ask.analyses)} {'analysis' if len(ask.analyses) == 1 else 'analyses'}: "
        f"{counted(jobs, 'result')}",
        f"{counted(documents.count, 'document', ',')} of {_sized(n_bytes)}, in {counted(units, 'unit', ',')} of "
        f"{ask.unit_documents:,}",
    ]
    disk = 0
    for model in models:
        size = size_of(model.name, sample)
        if size is None:
            lines.append(f"{model.label}: not on this machine; its size is known when it is downloaded")
            continue
        tokens = n_bytes // 4 if size.tokens_a_byte is None else round(n_bytes * size.tokens_a_byte)
        each = torch.empty((), dtype=getattr(torch, model.options.get("dtype", "float32"))).element_size()
        passes = sum(_PASSES.get(name, lambda _: 1)(options) for name, options in ask.analyses.values())
        work = 2 * size.parameters * tokens * passes
        lines.append(
            f"{model.label}: {size.parameters:,} parameters in {counted(size.layers, 'layer')}, "
            f"{_sized(size.parameters * each)} of memory; about {tokens:,} rows, "
            f"{passes} {'pass' if passes == 1 else 'passes'}, {work:.1e} floating-point operations"
        )
        for name, (function, options) in ask.analyses.items():
            state, what = _state(function, called(function, options), size, tokens, documents.count)
            disk = max(disk, state)
            lines.append(f"  {name}: {what}")
    files = 3 + 2 * len(models) + jobs  # run.json, inputs.json and their hashes; model.json and tokens.txt
    lines.append(
        f"disk: at most {_sized(disk)} a process while an analysis is under way; {files:,} files at the end, and {units + 2:,} "
        "small ones for each analysis under way"
    )
    return "\n".join(lines)


def _texts(documents: Documents) -> tuple[str, int]:
    """The first texts, and the bytes of all."""
    parts: list[str] = []
    room, n_bytes = _SAMPLE, 0
    for piece in pieces(documents.inputs, text_column="text", special_ids=frozenset(), skip=True):
        value = piece.value
        if isinstance(value, Path):
            n_bytes += value.stat().st_size
        elif isinstance(value, str):
            n_bytes += len(value.encode("utf-8", "replace"))
        if room > 0 and isinstance(value, str | Path):
            try:
                text = (read_text(value) if isinstance(value, Path) else value)[:room]
            except InputError:  # one that the run will refuse, or leave out
                continue
            parts.append(text)
            room -= len(text)
    return "\n".join(parts), n_bytes


def _state(function: str, options: Mapping[str, Any], size: ModelSize, tokens: int, documents: int) -> tuple[int, str]:
    """Bytes of a worker's state at most, and what they are."""
    if function == "soft_information":
        return _soft(options, size, tokens, documents)
    summary = options.get("keep") == "summary" or function in ("layer_similarity", "layer_geometry")
    places = _places(function, options, size)
    if summary:
        return 0, f"sums at {counted(places, 'place')}, which do not grow with the texts"
    state = round(tokens * _row(function, options, places, tokens / documents))
    advice = "; keep: summary keeps sums alone" if "keep" in inspect.signature(ANALYSES[function]).parameters else ""
    return state, f"every position at {counted(places, 'place')}, about {_sized(state)}{advice}"


def _row(function: str, options: Mapping[str, Any], places: int, length: float) -> float:
    """Bytes of a position that is kept, of a document of so many tokens."""

    def several(option: str) -> int:
        given = _given(function, options, option)
        return len(given) if isinstance(given, list | tuple) else 1

    where = 24  # document, position and token
    match function:
        case "lens_entropy":
            more: int = _given(function, options, "top_k") + bool(_given(function, options, "surprisal"))
            return where + places * (4 * several("orders") + 12 * more)
        case "layer_divergence":
            return where + 8 + places * (13 + 4 * several("metrics"))
        case "head_entropy":
            alone = 4 * several("orders")
            return where + places * (alone if _given(function, options, "of") == "readout" else alone + 10)
        case "token_surprisal":
            top_k: int | None = _given(function, options, "top_k")
            return where + 33 + 16 * (5 if top_k is None else top_k)
        case "token_reliance":
            return where + 1 + 8 * places * several("metrics")
        case "gradient_reliance":
            return where + 1 + 8 * length  # a value for each source
        case "entropy_calibration":
            return where + 33  # as of surprisals without tokens
        case _:
            return where + 1 + places * {"confidence": 24, "unigram_distance": 8}[function]


def _given(function: str, options: Mapping[str, Any], option: str) -> Any:
    """An option as it was given, or as it is where it was not."""
    return options.get(option, inspect.signature(ANALYSES[function]).parameters[option].default)


def _places(function: str, options: Mapping[str, Any], size: ModelSize) -> int:
    layers = options.get("layers")
    n_layers = size.layers if layers is None else len(layers) if isinstance(layers, list | tuple) else 1
    if function == "head_entropy":
        return n_layers * size.heads
    if function in ("token_surprisal", "gradient_reliance", "entropy_calibration") or (
        function == "confidence" and options.get("sites") is None
    ):
        return 1
    if function == "token_reliance":
        return len(options["on"]) if isinstance(options["on"], Mapping) else 1
    sites = options.get("sites", ("embed", "resid_post"))
    listed = [sites] if isinstance(sites, str) else sites
    return sum(1 if site == "embed" or "." in str(site) else n_layers for site in listed)


def _soft(options: Mapping[str, Any], size: ModelSize, tokens: int, documents: int) -> tuple[int, str]:
    labels = options.get("labels", ("token", "next_token"))
    bins, folds = options.get("n_bins", 100), options.get("folds", 20)
    seeds = options.get("seed", 0)
    columns = (sum(bins) if isinstance(bins, list | tuple) else bins) * (len(seeds) if isinstance(seeds, list | tuple) else 1)
    places = _places("soft_information", options, size) + (size.layers * size.heads if options.get("heads") else 0)
    rows = len(labels) * tokens + folds
    state, keep = 8 * rows * columns * places, options.get("keep", "sums")
    disk = disk_bytes(tokens, tokens + documents, columns * places)
    if keep == "assignments" or (keep == "auto" and disk < state):
        return disk, f"assignments at {counted(places, 'place')}, {_sized(disk)} that stay on the disk"
    sums = f"sums by label at {counted(places, 'place')}, at most {_sized(state)}"
    return state, f"{sums}: each class in each fold where it occurs"


def _sized(n_bytes: float) -> str:
    """Bytes, as one says them.

    >>> _sized(1500), _sized(3 * 2**30)
    ('1.5 kB', '3.22 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"
