"""Tuned lenses from files: those of this package, and those that the package ``tuned-lens`` writes and its authors publish.

This package's is one safetensors file, written by ``lens.save``. The published format is a folder with ``config.json`` and
``params.pt``, a state dict of one ``torch.nn.Linear`` for each layer; it is read as tensors alone, so that nothing in it runs.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch

from tl_entropy.errors import FileError, InputError
from tl_entropy.lenses.tuned import LENS_TYPE, TunedLens
from tl_entropy.results.files import parsed, to_read
from tl_entropy.results.loading import load
from tl_entropy.results.provenance import Provenance
from tl_entropy.torch_state import steady


@steady
def load_tuned_lens(path: str | Path) -> TunedLens:
    """A tuned lens from a file that ``lens.save`` wrote, or from a folder that the package ``tuned-lens`` wrote.

    Args:
        path: the file; or the folder, with ``config.json`` and ``params.pt``. Nothing in either is ever run.

    Returns:
        The lens. A folder's has no losses, and its ``provenance.processing`` is "raw": it was trained on the residual stream
        as Hugging Face's model has it.

    Raises:
        FileError: nothing there, damaged, or something else than a tuned lens.
        InputError: a folder with a lens of another type.

    Source: the format of tuned-lens 0.2.0, whose translators are saved as ``torch.nn.Linear`` layers.

    >>> import tempfile
    >>> import tl_entropy as tle
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_tuned_lens(tle.demo_lens().export(folder))
    TunedLens: 6 layers x d_model 192; stdlib-gpt2-3m, training unknown
    """
    source = to_read("path", path)
    if source.is_dir():
        return _load_published(source)
    lens = load(source)
    if not isinstance(lens, TunedLens):
        raise FileError(f"path: {source} holds a {type(lens).__name__}, not a TunedLens; use load for it")
    return lens


def checked_archive(path: Path) -> Path | io.BytesIO:
    """What is in it, packed anew, once its check sums have been compared, which torch does not look at.

    Raises:
        FileError: they differ, or its directory is damaged.
    """
    whole = io.BytesIO()
    try:
        if not zipfile.is_zipfile(path):  # torch's format before 1.6, which has none
            return path
        with zipfile.ZipFile(path) as given, zipfile.ZipFile(whole, "w") as packed:
            for name in given.namelist():
                packed.writestr(name, given.read(name))
    except Exception as error:  # of a directory that is damaged: several kinds
        raise FileError(f"path: {path} cannot be read as tensors ({error}); it is damaged") from error
    whole.seek(0)
    return whole


def _load_published(folder: Path) -> TunedLens:
    for name in ("config.json", "params.pt"):
        if not (folder / name).is_file():
            raise FileError(f"path: {folder} has no {name}; a folder of the package tuned-lens has config.json and params.pt")
    try:
        config = parsed((folder / "config.json").read_text(encoding="utf-8"))
        layers, width = int(config["num_hidden_layers"]), int(config["d_model"])
        model, kind = str(config["base_model_name_or_path"]), config.get("lens_type", LENS_TYPE)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"path: {folder / 'config.json'} is not the config of a tuned lens ({error!r})") from error
    if kind != LENS_TYPE:
        raise InputError(f"path: {folder} has a lens of type {kind!r}; only {LENS_TYPE!r} can be read")
    params = checked_archive(folder / "params.pt")
    try:
        # The published format is a pickle; read as weights only, nothing in it is run.
        state = torch.load(params, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen kinds, those of pickle among them
        raise FileError(f"path: {folder / 'params.pt'} cannot be read as tensors ({error}); it is damaged") from error
    biased = bool(config.get("bias", True))
    wanted: dict[str, tuple[int, ...]] = {f"{i}.weight": (width, width) for i in range(layers)}
    wanted |= {f"{i}.bias": (width,) for i in range(layers)} if biased else {}
    found = {key: tuple(getattr(value, "shape", ())) for key, value in dict(state).items()} if isinstance(state, dict) else {}
    if found != wanted or not layers:
        wrong = sorted(str(key) for key in found.keys() ^ wanted.keys()) or [k for k in wanted if found[k] != wanted[k]]
        raise FileError(
            f"path: {folder / 'params.pt'} does not hold {layers} translators of width {width}, as its config.json says; see "
            f"{', '.join(wrong[:5]) or 'num_hidden_layers'}"
        )
    weights = torch.stack([state[f"{i}.weight"].float() for i in range(layers)])
    biases = torch.stack([state[f"{i}.bias"].float() for i in range(layers)]) if biased else torch.zeros(layers, width)
    settings = {key: value for key, value in config.items() if value is None or isinstance(value, str | int | float)}
    origin = Provenance(
        model=model, weights="unknown", processing="raw", dtype=str(state["0.weight"].dtype).removeprefix("torch."),
        device="unknown", settings=settings, versions={}, created="unknown",
    )  # fmt: skip
    try:
        return TunedLens(weights, biases, origin)
    except InputError as error:
        raise FileError(f"path: {folder / 'params.pt'}: {error}") from error
