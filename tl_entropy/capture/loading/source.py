"""Where a model is, and the Hugging Face model that is read from there: with its adapter merged,
and its own logits noted down before TransformerLens takes it in.

Weights of a GGUF file are unpacked to plain numbers. An adapter (PEFT's: LoRA and its like) lies beside the weights of its
model, or alone, naming its model.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tl_entropy.capture.loading.adapters import base_of, described, merged, with_adapter
from tl_entropy.capture.proofs.reference import Reference, reference_of
from tl_entropy.errors import InputError

_OF_TOKENIZERS = ("*tokenizer*", "*vocab*", "*.model", "*.tiktoken")
"""How files are called of which a folder with a tokenizer has at least one."""

_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)
"""How llama.cpp calls the files of a model that it has split, none of which is one by itself."""
_UNPACKING = "transformers.modeling_gguf_pytorch_utils"


@dataclass
class Source:
    """A Hugging Face model that is to be read.

    TransformerLens takes it for a class of transformers, of which it asks ``from_pretrained``.

    Attributes:
        name: what to call the model.
        place: its folder, or its name on the hub.
        gguf: the name of the GGUF file in that folder; None where it has Hugging Face's layout.
        adapter: folder or name of an adapter that belongs to it; None for none.
        device: where to put it.
        dtype: of its weights.
        trust_remote_code: whether code that it brings may be run.
        check: whether to note down its logits.
        reference: what it gave for a short text; None where that was not asked, or it needs more than tokens.
        notes: where its weights come from, for the provenance.
        random: weights that were not found when it was read, and drawn at random.
        below: folders in its folder that hold adapters, of which none is read.
    """

    name: str
    place: str
    gguf: str | None
    adapter: str | None
    device: torch.device
    dtype: torch.dtype
    trust_remote_code: bool
    check: bool
    reference: Reference | None = None
    notes: tuple[str, ...] = ()
    random: str = ""
    below: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: str | Path, **options: Any) -> Source:
        """What a name, a folder or a file stands for; InputError where it stands for nothing."""
        path = Path(given).expanduser()
        if path.is_file():
            if not _is_gguf(path):
                raise InputError(f"model: {path} is a file, and no GGUF file (.gguf); give the folder in which the model lies")
            _check_whole([path])
            return cls(path.stem, str(path.parent), path.name, None, **options)
        if not path.is_dir() and (isinstance(given, Path) or _no_name(given) or _is_gguf(path)):
            raise InputError(f"model: there is no {'file' if _is_gguf(path) else 'folder'} {given}")
        place = str(path) if path.is_dir() else str(given)
        name = path.resolve().name if path.is_dir() else place
        if (base := base_of(place)) is not None:
            return cls(name, base, None, place, **options)
        below = sorted(str(file.parent) for file in path.glob("*/adapter_config.json"))
        if path.is_dir() and not (path / "config.json").is_file():
            files = sorted(file.name for file in path.iterdir() if _named_gguf(file))
            _check_whole(path / file for file in files)
            if len(files) != 1:
                raise InputError(
                    f"model: {path} has no config.json, as a model's folder in Hugging Face's layout has, and "
                    + (f"several GGUF files; give one of them: {', '.join(files)}" if files else "no GGUF file")
                    + (f"; adapters lie below it; give one of them: {', '.join(below)}" if below else "")
                )
            return cls(Path(files[0]).stem, place, files[0], None, **options)
        return cls(name, place, None, None, below=tuple(below), **options)

    @property
    def on_disk(self) -> bool:
        """Whether the model lies in a folder here."""
        return Path(self.place).is_dir()

    def read(self, made: Any = None) -> Any:
        """The model out of its folder, of a class of transformers; None for the class that TransformerLens has for it."""
        from transformers import AutoConfig, AutoModelForCausalLM

        # Eager attention, so that attention patterns come past their hooks on every architecture.
        options = {**self._options, **self._unpacked, "dtype": self.dtype, "attn_implementation": "eager"}
        if made is None and not self.gguf:  # which takes seconds to read, and holds models of text alone
            options["config"] = AutoConfig.from_pretrained(self.place, **self._options)
            made = _reading_class(options["config"])
        return self._read(made or AutoModelForCausalLM, self.place, options)

    def from_pretrained(self, name: str, **options: Any) -> Any:
        """The model by its name or folder, with the options that TransformerLens has for it."""
        return self._read(_reading_class(options["config"]), name, options)

    def tokenizer(self) -> Any | None:
        """The tokenizer that lies beside the adapter, the weights, or in the file; None where there is none on this machine."""
        from transformers import AutoTokenizer

        for place in filter(None, (self.adapter, self.place)):
            kinds = _OF_TOKENIZERS if self.gguf is None else ()
            if self._file_has_a_tokenizer or any(path.is_file() for kind in kinds for path in Path(place).glob(kind)):
                tokenizer = AutoTokenizer.from_pretrained(place, **self._options)
                # TransformerLens reads it a second time, from where it came.
                tokenizer.init_kwargs |= {"gguf_file": self.gguf} if self.gguf else {}
                tokenizer.init_kwargs |= {"trust_remote_code": True} if self.trust_remote_code else {}
                return tokenizer
        return None

    @property
    def _file_has_a_tokenizer(self) -> bool:
        """Whether it is a GGUF file with the words of one, which stand before its weights."""
        if self.gguf is None:
            return False
        with (Path(self.place) / self.gguf).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            return whole.find(b"tokenizer.ggml.tokens") >= 0

    @property
    def _options(self) -> dict[str, Any]:
        file = {"gguf_file": self.gguf} if self.gguf else {}
        return {"local_files_only": self.on_disk, "trust_remote_code": self.trust_remote_code, **file}

    @property
    def _unpacked(self) -> dict[str, Any]:
        """For weights as plain numbers: newer transformers keep those of a GGUF file packed, and fetch code for it."""
        import transformers

        config = getattr(transformers, "GgufConfig", None) if self.gguf else None
        return {} if config is None else {"quantization_config": config(dequantize=True)}

    def _read(self, made: Any, name: str, options: dict[str, Any]) -> Any:
        if self.adapter == name:  # which transformers would read by itself, and not all of it
            options = options | {"adapter_kwargs": {"subfolder": "none"}}
        with _no_progress_bar(gguf=self.gguf is not None):
            model, report = made.from_pretrained(name, output_loading_info=True, **options)
        self.random = _some(report["missing_keys"])
        if unread := _some(report["unexpected_keys"]):
            self.notes += (f"weights that the model has no place for were not read: {unread}",)
        model = model.eval()
        if model.device != torch.empty(0, device=self.device).device:  # some quantised models may not be moved
            model = model.to(self.device)
        if self.gguf:
            _unmark(model)
            self.notes += (f"GGUF file {self.gguf}, unpacked",)
        if self.adapter is None:
            self.reference = reference_of(model) if self.check else None
            return model
        tuned = with_adapter(model, self.adapter)
        self.reference = reference_of(tuned.get_base_model()) if self.check else None
        self.notes += (f"{described(tuned, self.name)}, merged",)
        return merged(tuned).eval()


def _some(names: Iterable[str]) -> str:
    first = sorted(names)
    return f"{', '.join(first[:3])}{f' and {len(first) - 3} more' if len(first) > 3 else ''}"


def _no_name(given: str) -> bool:
    """Whether it can only be a path: names on the hub are ``name`` or ``owner/name``."""
    return given.startswith((".", "/", "~")) or given.endswith("/") or given.count("/") > 1


def _named_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf"


def _check_whole(files: Iterable[Path]) -> None:
    for file in files:
        if (parts := _SPLIT.search(file.name)) and int(parts[1]) > 1:
            raise InputError(
                f"model: {file} is one of the {int(parts[1])} files of a GGUF model that was split; join them and give the one "
                "that comes out: llama-gguf-split --merge FIRST-FILE.gguf WHOLE.gguf"
            )


def _is_gguf(path: Path) -> bool:
    """Whether a path is called like such a file, or is one by what it begins with, as in a cache of the hub."""
    if _named_gguf(path) or not path.is_file():
        return _named_gguf(path)
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def architecture_of(config: Any) -> str:
    """What TransformerLens calls the architecture of a Hugging Face configuration."""
    from transformer_lens.model_bridge.sources.transformers import determine_architecture_from_hf_config

    found: str = determine_architecture_from_hf_config(config)
    return found


def _reading_class(config: Any) -> Any:
    """The class of transformers with which TransformerLens reads a model of this configuration."""
    from transformer_lens.model_bridge.sources.transformers import get_hf_model_class_for_architecture

    return get_hf_model_class_for_architecture(architecture_of(config))


def _unmark(model: Any) -> None:
    """Take off the mark of a quantised model, which stays although the weights are plain numbers."""
    for config in (model.config, model.config.get_text_config()):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if name in vars(model):
            delattr(model, name)


@contextmanager
def _no_progress_bar(*, gguf: bool) -> Iterator[None]:
    """A folder is read in a moment: no bar for that, and the user's setting as it was afterwards."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    # What unpacks GGUF files does not ask for that setting.
    unpacking: Any = import_module(_UNPACKING) if gguf and find_spec(_UNPACKING) else None
    bar = getattr(unpacking, "tqdm", None)
    if bar is not None:
        unpacking.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        if bar is not None:
            unpacking.tqdm = bar
        if shown:
            logging.enable_progress_bar()
