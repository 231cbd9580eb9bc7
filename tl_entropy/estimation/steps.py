"""What every training here has in common: its rate at each step, and a state on the disk from which it goes on.

A state is one safetensors file with the weights and the optimisers' moments, written under another name first. Batches follow
from seed and step alone, so that a training that was interrupted goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from tl_entropy.errors import FileError
from tl_entropy.results.files import digest, opened, replacing, tensors_in


def rate_at(step: int, steps: int, *, warm_up: int = 200, down: float = 0.4) -> float:
    """Of its peak: it rises over ``warm_up`` steps, stays, and falls in a straight line to zero over the last share ``down``.

    >>> [rate_at(step, 10, warm_up=2, down=0.5) for step in (0, 1, 5, 9)]
    [0.5, 1.0, 1.0, 0.2]
    """
    return min(1.0, (step + 1) / warm_up, (steps - step) / (down * steps))


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights by name, those that have several names once, on the CPU."""
    seen: set[int] = set()
    found = {}
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen or not value.numel():
            seen.add(value.data_ptr())
            found[name] = value.detach().cpu().contiguous()
    return found


def save_state(folder: Path, step: int, model: nn.Module, parts: Sequence[torch.optim.Optimizer]) -> None:
    """Weights and optimiser moments after ``step`` steps in one safetensors file, written under another name first."""
    tensors = {f"model.{name}": value for name, value in own_tensors(model).items()}
    for i, optimizer in enumerate(parts):
        for j, entry in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{k}": torch.as_tensor(v) for k, v in entry.items()}
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with replacing(folder / "state.safetensors", sum(tensor.nbytes for tensor in tensors.values())) as waiting:
        save_file(tensors, waiting, metadata={"step": str(step), "digest": digest(str(step), tensors)})


def load_state(folder: Path, model: nn.Module, parts: Sequence[torch.optim.Optimizer]) -> int:
    """Take up a saved training; the step to go on with, 0 where nothing was saved.

    Raises:
        FileError: what was saved is damaged; the model is then as it was.
    """
    path = folder / "state.safetensors"
    if not path.exists():
        return 0
    try:
        with opened(path) as file:
            said = file.metadata() or {}
            tensors = tensors_in(file)
        step = int(said["step"])
        if said["digest"] != digest(said["step"], tensors):
            raise ValueError("its digest is not that of its contents")
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise FileError(f"out: {path} cannot be read as the state of a training ({error}); it is damaged: delete it") from error
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, strict=False)
    for i, optimizer in enumerate(parts):
        whole = optimizer.state_dict()
        for key, value in tensors.items():
            kind, number, *rest = key.split(".")
            if kind == "optimizer" and int(number) == i:
                whole["state"].setdefault(int(rest[0]), {})[rest[1]] = value
        optimizer.load_state_dict(whole)
    return step
