"""Options for lenses and interventions: what they are called on the command line, and what they become."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tl_entropy.capture.interventions import STEERED
from tl_entropy.cli.options import Source, refuse_without
from tl_entropy.errors import FileError, InputError, check_choice, keeping
from tl_entropy.results.files import opened, tensors_in
from tl_entropy.sites import Site

TunedLens = Annotated[
    Path | None,
    typer.Option(
        "--tuned-lens",
        help="a tuned lens, of tl-entropy or the package tuned-lens, or a Jacobian lens (a file .pt); the logit lens, if not "
        "given",
    ),
]


def lens_of(path: Path | None) -> Any:
    """The lens in a file or folder, a Jacobian lens in a file ``.pt``; None stays None, the logit lens."""
    import tl_entropy as tle

    if path is None:
        return None
    return tle.load_jacobian_lens(path) if path.suffix == ".pt" else tle.load_tuned_lens(path)


@dataclass(frozen=True)
class Changes:
    """What is to be changed in the model while it is measured."""

    heads: tuple[tuple[int, int], ...]
    neurons: tuple[tuple[int, int], ...]
    to_means: bool
    others: tuple[Any, ...]

    @classmethod
    def of(
        cls,
        ablate: Annotated[
            str | None,
            typer.Option(
                help="heads (3.1 is layer 3, head 1; -1.0 is in the last), neurons (post.3.17 is layer 3, neuron 17) or "
                "sub-layers (attn_out.3, mlp_out.-1) to set to 0, separated by commas; the result is the difference that this "
                "makes (of tl-entropy heads, tokens, confidence, unigram and neurons: what the changed model gives)"
            ),
        ] = None,
        to_means: Annotated[
            bool,
            typer.Option(
                "--to-means", help="set heads and neurons of --ablate to their mean over the texts, not to 0; takes a pass"
            ),
        ] = False,
        steer: Annotated[
            Path | None, typer.Option(help="a .npy or .safetensors file of one vector to add to the residual stream; likewise")
        ] = None,
        steer_at: Annotated[str | None, typer.Option(help="where --steer adds it, such as resid_post.3")] = None,
        steer_scale: Annotated[float, typer.Option(help="factor on the vector of --steer")] = 1.0,
    ) -> Changes:
        """The changes that these options ask for."""
        import tl_entropy as tle

        parts = [] if ablate is None else [part.strip() for part in ablate.split(",")]
        units = {part: found for part in parts if (found := re.fullmatch(r"(post\.)?(-?\d+)\.(\d+)", part))}
        heads, neurons = ([(int(u[2]), int(u[3])) for u in units.values() if bool(u[1]) == post] for post in (False, True))
        whole = [part for part in parts if part not in units]
        expected = "--ablate must be heads, such as 3.1, neurons, such as post.3.17, or sub-layers, such as mlp_out.0"
        try:
            others = [tle.ablate(whole)] if whole else []
        except InputError as error:
            raise InputError(f"{expected}; got {ablate!r}") from error
        if to_means and not units:
            raise InputError("--to-means needs heads or neurons to set to their means, such as --ablate 3.1")
        if (steer is None) != (steer_at is None):
            raise InputError("--steer and --steer-at go together: a file with the vector, and a site such as resid_post.3")
        refuse_without("--steer", steer, {"--steer-scale": steer_scale} if steer_scale != 1 else {})
        if steer is not None and steer_at is not None:
            try:
                place = Site.parse(steer_at)
            except InputError as error:
                raise InputError(f"--steer-at must be a site such as resid_post.3; got {steer_at!r}") from error
            check_choice("--steer-at", place.name, STEERED)
            others.append(tle.steer(_vector(steer), site=place, scale=steer_scale))
        return cls(tuple(heads), tuple(neurons), to_means, tuple(others))

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.heads or self.neurons or self.others)

    def interventions(self, source: Source) -> tuple[Any, ...]:
        """The same for a model and its texts."""
        import tl_entropy as tle

        units: list[Any] = []
        if self.heads:
            layers = sorted({layer for layer, _ in self.heads})
            means = tle.head_means(source.model, source.inputs, layers=layers, **source.windows) if self.to_means else None
            units.append(tle.ablate_heads(self.heads, means=means))
        if self.neurons:
            sites = sorted({f"post.{layer}" for layer, _ in self.neurons})
            of = tle.site_means(source.model, source.inputs, sites, **source.windows) if self.to_means else None
            units.append(tle.ablate_neurons(self.neurons, means=of))
        return (*units, *self.others)


def measured(function: Callable[..., Any], source: Source, changes: Changes, generation: dict[str, Any], **options: Any) -> Any:
    """What a function measures of a source, or the difference that changes make to it.

    A difference that is ended in either pass is none; what was measured without the changes is then kept.
    """
    import tl_entropy as tle
    from tl_entropy.capture.adapter import Adapter
    from tl_entropy.capture.edits import Edits

    if changes and (generation["max_new_tokens"] or options.get("keep") == "summary"):
        raise InputError(
            "--ablate and --steer give differences at every position of the same texts; leave --summary and --max-new-tokens "
            "out"
        )
    run = partial(function, source.model, source.inputs, **options, **generation, **source.windows)
    if not changes:
        return run()
    adapter, edits = Adapter(source.model), changes.interventions(source)
    Edits(adapter, edits, (adapter.output[0],))  # refuses before a pass does
    before = run()
    with keeping(lambda _: before):
        _stop_where_ended(before)
        after = run(interventions=edits)
        _stop_where_ended(after)
        return tle.contrast(before, after)


def _stop_where_ended(result: Any) -> None:
    if result.provenance.interrupted:
        raise KeyboardInterrupt


def _vector(path: Path) -> Any:
    """The one vector in a file."""
    import numpy as np
    import torch
    from safetensors import SafetensorError

    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        with opened(path) as file:
            tensors = tensors_in(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise FileError(f"--steer: {path} cannot be read as a .npy or .safetensors file ({error})") from error
    if len(tensors) != 1:
        raise InputError(f"--steer: {path} must hold one tensor; it holds {', '.join(tensors) or 'none'}")
    return next(iter(tensors.values()))
