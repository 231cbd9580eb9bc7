"""Models by name, from a folder or from a file, as whichever kind the installed TransformerLens has.

Only this folder imports ``transformer_lens``. What is on the disk is read without touching the network; nothing is installed,
and code that a model brings is run only where the user says so; nothing is asked. Adapters are merged, GGUF files
unpacked; and the model that comes out gives the logits of the Hugging Face model that went in, or is refused.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import tl_entropy.capture.progress  # noqa: F401  before transformers imports tqdm, which then has nothing to say
from tl_entropy.capture import origin
from tl_entropy.capture.feeding import out_of_memory
from tl_entropy.capture.loading.bridges import bridge_by_name, bridge_of
from tl_entropy.capture.loading.devices import check_dtype, existing_device
from tl_entropy.capture.loading.hooked import hooked_by_name, hooked_gpt2
from tl_entropy.capture.loading.images import without_processor
from tl_entropy.capture.loading.kinds import Kind, available_kinds
from tl_entropy.capture.loading.source import Source
from tl_entropy.capture.proofs.reference import Reference
from tl_entropy.capture.proofs.wrapped import wrapped_logits_proof
from tl_entropy.capture.runner import Runner
from tl_entropy.errors import InputError, InputTypeError, ModelError, TLEntropyError, check_choice, warn
from tl_entropy.results.files import parsed, to_read
from tl_entropy.torch_state import steady

OWN_MODELS = {"EstimationModel": "tl_entropy.estimation.loading:load_estimation"}
"""Classes of TransformerLens models that a folder's config.json may name, and what loads each; as texts, as they are above."""

__all__ = ["OWN_MODELS", "Kind", "available_kinds", "load_model"]


@steady
def load_model(
    name_or_folder: str | Path,
    *,
    kind: Kind | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    check: bool = True,
    trust_remote_code: bool = False,
) -> Any:
    """A TransformerLens model in evaluation mode.

    Args:
        name_or_folder: a model's name on the Hugging Face hub; a local folder with its config, weights and tokenizer (if it has
            none, the model reads token ids), or one that an ``EstimationModel`` was saved to; an adapter's name or folder
            (PEFT's: LoRA and its like), alone or beside the weights of its model, which is merged into them; or a GGUF file,
            whose weights become plain numbers.
        kind: "bridge" (TransformerBridge, 3.x and 4.x) or "hooked" (HookedTransformer, 2.x and 3.x); None takes the first of
            these that is installed.
        device: where to put it; None is the CUDA device where there is one, else the CPU.
        dtype: of its weights: float32, float64, bfloat16 or float16.
        check: whether a short text must have the logits that it has in the Hugging Face model that TransformerLens was given,
            with its adapter (two short passes; a HookedTransformer's by name is read once more for them).
        trust_remote_code: whether code that a model brings may be run.

    Returns:
        The model. The provenance of what is measured on it says where its weights come from.

    Raises:
        InputError: a kind that the installed TransformerLens does not have, a device that is not there, a dtype that weights
            can't have, or a file or folder without a model.
        ModelError: TransformerLens can't be imported, or can't load the model; the model needs code that it brings; an adapter
            is none of its model, cannot be merged, or PEFT is not installed, or gguf where the model is such a file; or the
            logits are not those of Hugging Face's.

    Warns:
        UserWarning: a model that sees was loaded to read alone, since torchvision is not installed; or some weights were not
            found, and were drawn at random.

    >>> import tl_entropy as tle
    >>> from pathlib import Path
    >>> folder = Path(tle.__file__).parent / "demo" / "stdlib-gpt2-3m"
    >>> tle.load_model(folder).cfg.n_layers
    6
    """
    folder = to_read("name_or_folder", name_or_folder)
    if (own := _own_loader(folder)) is not None:
        if kind is not None:
            raise InputError(
                f"kind: {name_or_folder} is a model of this package, neither 'bridge' nor 'hooked'; leave kind out"
            )
        check_dtype(dtype)
        return own(folder, device=existing_device(device), dtype=dtype)
    kinds = available_kinds()
    if kind is not None:
        check_choice("kind", kind, kinds)
    for option, value in (("check", check), ("trust_remote_code", trust_remote_code)):
        if not isinstance(value, bool):
            raise InputTypeError(f"{option} must be True or False; got {value!r}")
    chosen, place = kind or kinds[0], existing_device(device)
    check_dtype(dtype)
    source = Source.of(name_or_folder, device=place, dtype=dtype, check=check, trust_remote_code=trust_remote_code)
    try:
        model = _bridge(source) if chosen == "bridge" else _hooked(source)
    except TLEntropyError:
        raise
    except Exception as error:  # of transformers and TransformerLens, which raise what they like
        if out_of_memory(error):
            raise
        raise _explained(error, source, chosen) from error
    if source.random:
        warn(f"{source.name} has no weights for {source.random}: they were drawn at random")
    if source.below:
        warn(f"adapters that lie below {source.place} were not read; load one by its own folder: {', '.join(source.below)}")
    if said := without_processor(model):
        warn(said)
    if source.reference is not None:
        _check(model, source.reference)
    origin.note(model, *source.notes)
    return model


def _own_loader(folder: Path) -> Any:
    """What loads the model in a folder whose config.json names a class of this package's; None for all others."""
    try:
        named = parsed((folder / "config.json").read_text(encoding="utf-8")).get("architectures")
    except (OSError, ValueError, AttributeError):  # what it is instead is found out where it is read
        return None
    place = next((OWN_MODELS[name] for name in named or () if name in OWN_MODELS), None)
    if place is None:
        return None
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)


def _check(model: Any, reference: Reference) -> None:
    try:
        runner = Runner(model)
    except TLEntropyError:  # nothing can be measured on it, which is said where that is tried
        return
    try:
        wrapped_logits_proof(runner, reference)
    except ModelError as error:
        raise ModelError(f"model: {error}; tle.load_model(..., check=False) loads it all the same") from error


def _bridge(source: Source) -> Any:
    return bridge_of(source, source.read(), source.tokenizer()) if source.on_disk else bridge_by_name(source)


def _hooked(source: Source) -> Any:
    from transformers import AutoModelForCausalLM

    if not source.on_disk and source.adapter is None:
        return hooked_by_name(source)
    return hooked_gpt2(source, source.read(AutoModelForCausalLM), source.tokenizer())


def _explained(error: Exception, source: Source, kind: Kind) -> ModelError:
    """What an error of the libraries below means for who wants to load a model."""
    said, name = " ".join(str(error).split()), source.place if source.adapter is None else source.adapter
    if not source.trust_remote_code and "trust_remote_code" in said:
        return ModelError(
            f"model: {name} brings code of its own, without which it cannot be loaded, and which is not run unasked. Read the "
            ".py files beside its weights, then pass trust_remote_code=True"
        )
    if source.gguf and find_spec("gguf") is None:
        return ModelError(f"model: {name}/{source.gguf} is a GGUF file, which takes the package gguf to read: pip install gguf")
    if source.gguf:
        name = f"{name}/{source.gguf} (a GGUF file, damaged or of a kind that transformers does not read?)"
    wanted = {"bridge": "TransformerBridge", "hooked": "HookedTransformer"}[kind]
    return ModelError(f"model: {name} cannot be loaded as a {wanted}: {type(error).__name__}: {said[:500]}")
