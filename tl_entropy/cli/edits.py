"""Options for lenses and interventions: what they are called on the command line, and what they become."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tl_entropy.errors import FileError, InputError
from tl_entropy.sites import Site

TunedLens = Annotated[
    Path | None,
    typer.Option("--tuned-lens", help="a tuned lens, of tl-entropy or the package tuned-lens; the logit lens, if not given"),
]
Ablate = Annotated[
    str | None,
    typer.Option(
        help="heads (3.1 is layer 3, head 1) or sub-layers (attn_out.3, mlp_out.0) to set to 0, separated by commas; the "
        "result is the difference that this makes"
    ),
]
Steer = Annotated[
    Path | None, typer.Option(help="a .npy or .safetensors file of one vector to add to the residual stream; likewise")
]
SteerAt = Annotated[str | None, typer.Option(help="where --steer adds it, such as resid_post.3")]
SteerScale = Annotated[float, typer.Option(help="factor on the vector of --steer")]


def tuned_lens(path: Path | None) -> Any:
    """The lens in a file or folder; None stays None, the logit lens."""
    import tl_entropy as tle

    return None if path is None else tle.load_tuned_lens(path)


def interventions(ablate: str | None, steer: Path | None, at: str | None, scale: float) -> tuple[Any, ...]:
    """What the options ask to change in the model."""
    import tl_entropy as tle

    found: list[Any] = []
    if ablate is not None:
        parts = [part.strip() for part in ablate.split(",")]
        heads = [tuple(map(int, part.split("."))) for part in parts if re.fullmatch(r"\d+\.\d+", part)]
        whole = [part for part in parts if re.fullmatch(r"(attn|mlp)_out\.\d+", part)]
        if len(heads) + len(whole) < len(parts):
            raise InputError(f"--ablate must be heads, such as 3.1, or sub-layers, such as mlp_out.0; got {ablate!r}")
        if heads:
            found.append(tle.ablate_heads([(layer, head) for layer, head in heads]))
        if whole:
            found.append(tle.ablate(whole))
    if (steer is None) != (at is None):
        raise InputError("--steer and --steer-at go together: a file with the vector, and a site such as resid_post.3")
    if steer is not None and at is not None:
        try:
            place = Site.parse(at)
        except InputError as error:
            raise InputError(f"--steer-at must be a site such as resid_post.3; got {at!r}") from error
        found.append(tle.steer(_vector(steer), layer=place.layer, site=place.name, scale=scale))  # type: ignore[arg-type]
    return tuple(found)


def measured(run: Callable[..., Any], changes: tuple[Any, ...], *, summary: bool, max_new_tokens: int) -> Any:
    """The result of a run, or the difference that interventions make to it."""
    import tl_entropy as tle

    if not changes:
        return run()
    if summary or max_new_tokens:
        raise InputError(
            "--ablate and --steer give differences at every position of the same texts; leave --summary and --max-new-tokens "
            "out"
        )
    return tle.contrast(run(), run(interventions=changes))


def _vector(path: Path) -> Any:
    """The one vector in a file."""
    import numpy as np
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        tensors = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise FileError(f"--steer: {path} cannot be read as a .npy or .safetensors file ({error})") from error
    if len(tensors) != 1:
        raise InputError(f"--steer: {path} must hold one tensor; it holds {', '.join(tensors) or 'none'}")
    return next(iter(tensors.values()))
