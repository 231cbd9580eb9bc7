"""Models by name or from a folder, as whichever kind the installed TransformerLens has.

The only file that imports ``transformer_lens``. A folder in Hugging Face's layout is read without touching the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from tl_entropy.errors import InputError, ModelError, check_choice
from tl_entropy.torch_state import steady

Kind = Literal["bridge", "hooked"]


def available_kinds() -> tuple[Kind, ...]:
    """The kinds of model that the installed TransformerLens has, the preferred one first."""
    found: list[Kind] = []
    try:
        from transformer_lens.model_bridge import TransformerBridge  # noqa: F401

        found.append("bridge")
    except ImportError:
        pass
    try:
        from transformer_lens import HookedTransformer  # noqa: F401

        found.append("hooked")
    except ImportError:
        pass
    return tuple(found)


@steady
def load_model(
    name_or_folder: str | Path, *, kind: Kind | None = None, device: str | None = None, dtype: torch.dtype = torch.float32
) -> Any:
    """A TransformerLens model in evaluation mode.

    Args:
        name_or_folder: a model's name on the Hugging Face hub, or a local folder with its config, weights and tokenizer.
        kind: "bridge" (TransformerBridge, 3.x and 4.x) or "hooked" (HookedTransformer, 2.x and 3.x); None takes the first of
            these that is installed.
        device: where to put it; None is the CUDA device where there is one, else the CPU.
        dtype: of its weights.

    Raises:
        InputError: a kind that the installed TransformerLens does not have, or a folder without a model.
        ModelError: an architecture that this kind can't load from a folder.
    """
    kinds = available_kinds()
    if kind is not None:
        check_choice("kind", kind, kinds)
    chosen = kind or kinds[0]
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder = Path(name_or_folder)
    if not folder.is_dir():
        if isinstance(name_or_folder, Path) or str(name_or_folder).startswith((".", "/", "~")):
            raise InputError(f"model: there is no folder {name_or_folder}")
        return _from_hub(str(name_or_folder), chosen, place, dtype)
    if not (folder / "config.json").is_file():
        raise InputError(f"model: {folder} has no config.json; a model's folder in Hugging Face's layout is needed")
    return _from_folder(folder, chosen, place, dtype)


def _from_hub(name: str, kind: Kind, device: str, dtype: torch.dtype) -> Any:
    if kind == "bridge":
        from transformer_lens.model_bridge import TransformerBridge

        return TransformerBridge.boot_transformers(name, device=device, dtype=dtype).eval()
    from transformer_lens import HookedTransformer

    return HookedTransformer.from_pretrained(name, device=device, dtype=dtype).eval()


def _from_folder(folder: Path, kind: Kind, device: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with _no_progress_bar():
        # Eager attention, so that attention patterns come past their hooks on every architecture.
        source = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=dtype, attn_implementation="eager"
        ).eval()
    name = folder.resolve().name
    if kind == "bridge":
        from transformer_lens.model_bridge import TransformerBridge

        return TransformerBridge.boot_transformers(
            name, hf_model=source, tokenizer=tokenizer, device=device, dtype=dtype
        ).eval()
    return _hooked_gpt2(source, tokenizer, name, device, dtype)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """A folder is read in a moment: no bar for that, and the user's setting as it was afterwards."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _hooked_gpt2(source: Any, tokenizer: Any, name: str, device: str, dtype: torch.dtype) -> Any:
    """A HookedTransformer of GPT-2's architecture; TransformerLens itself reads no local folders into this class."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    config = source.config
    if config.model_type != "gpt2":
        raise ModelError(
            "model: a HookedTransformer can be made from a folder for GPT-2's architecture only, not for "
            f"{config.model_type!r}; use kind='bridge', or build the HookedTransformer yourself and pass it"
        )
    cfg = HookedTransformerConfig(
        n_layers=config.n_layer, d_model=config.n_embd, n_ctx=config.n_positions, d_head=config.n_embd // config.n_head,
        n_heads=config.n_head, d_mlp=config.n_inner or 4 * config.n_embd, d_vocab=config.vocab_size,
        act_fn=config.activation_function, eps=config.layer_norm_epsilon, normalization_type="LN",
        model_name=name, original_architecture="GPT2LMHeadModel",
        device=device, dtype=dtype, default_prepend_bos=True,
    )  # fmt: skip
    model = HookedTransformer(cfg, tokenizer=tokenizer, move_to_device=False)
    model.load_and_process_state_dict(
        convert_gpt2_weights(source, cfg),
        fold_ln=True,
        center_writing_weights=True,
        center_unembed=True,
        fold_value_biases=True,
    )
    return model.to(device, print_details=False).eval()
