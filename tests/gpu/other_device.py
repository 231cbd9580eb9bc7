"""A device that is none: tensors on ``other:0`` hold a CPU tensor, compute on it, and refuse what an accelerator refuses.

It shows where a function mixes devices, or takes a tensor's numbers without fetching them, on a machine without accelerator. It
shows nothing of an accelerator's rounding, memory and speed.
"""

from __future__ import annotations

import functools

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tl_entropy.capture import condition

NAME = "other"
MOVES = {"aten::_to_copy", "aten::copy_", "aten::_copy_from", "aten::set_.source_Storage"}
"""What takes tensors of two devices."""
INDEXING = {"aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""What takes indices from the CPU."""


class OtherTensor(torch.Tensor):
    """A tensor that says it is on ``other:0``; ``held`` is on the CPU."""

    __module__ = "torch"  # no library's own kind of weight

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OtherTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device(NAME, 0), requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held.detach()
        return made

    def __repr__(self, **_: object) -> str:
        return f"{self.held!r} on {NAME}"

    def numpy(self, **_: object) -> object:
        raise TypeError(f"can't convert a tensor on {NAME}:0 to numpy; use Tensor.cpu() to copy it to host memory")

    def __array__(self, *_: object) -> object:
        return self.numpy()

    def tolist(self) -> object:
        return self.held.tolist()

    def __getitem__(self, index: object) -> torch.Tensor:
        parts = index if isinstance(index, tuple) else (index,)
        return super().__getitem__(tuple(torch.tensor(part) if isinstance(part, list) else part for part in parts))

    def __setitem__(self, index: object, value: object) -> None:
        several = any(isinstance(part, torch.Tensor | list) for part in (index if isinstance(index, tuple) else (index,)))
        if several and isinstance(value, torch.Tensor) and not isinstance(value, OtherTensor) and value.dim():
            raise RuntimeError(f"Expected tensors of one device, but a part of one on {NAME}:0 was set to one on cpu")
        self.held[_held(index)] = _held(value)

    def new_tensor(self, data: object, *, dtype: torch.dtype | None = None) -> OtherTensor:
        return OtherTensor(torch.tensor(data, dtype=dtype or self.dtype))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, dict(kwargs or {}))


def _mapped(change, value):
    """The same with what ``change`` makes of its tensors, alone or in lists; by torch's trees calls took twice the time."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(_mapped(change, part) for part in value)
    return {key: _mapped(change, part) for key, part in value.items()} if type(value) is dict else value


def _held(value):
    """The same with what tensors hold."""
    return _mapped(lambda part: part.held if isinstance(part, OtherTensor) else part, value)


def _same_memory(one, other):
    return one.data_ptr() == other.data_ptr() and one.numel() == other.numel() and one.is_contiguous() and other.is_contiguous()


def _run(function, args, kwargs):
    name = function.name()
    ours, foreign = [], []

    def sorted_and_held(tensor):
        if isinstance(tensor, OtherTensor):
            ours.append(tensor)
            return tensor.held
        foreign.append(tensor)
        return tensor

    held, options = _mapped(sorted_and_held, args), _mapped(sorted_and_held, kwargs)
    device = kwargs.get("device")
    if device is not None and torch.device(device).type == NAME:
        options["device"] = torch.device("cpu")
    checked = foreign if name not in INDEXING else [x for x in foreign if any(x is arg for arg in args)]
    if ours and name not in MOVES and any(x.dim() for x in checked):
        raise RuntimeError(f"Expected tensors of one device, but {name} got one on {NAME}:0 and one on cpu")

    if name == "aten::copy_" and _same_memory(*held[:2]):  # torch sees no views in these: matmul(out=) copies its product home
        return args[0]
    out = function(*held, **options)
    if torch.Tag.inplace_view in function.tags and ours:  # vector @ matrix squeezes its product in place
        with no_dispatch():
            function(*args, **kwargs)
    if device is not None and torch.device(device).type != NAME:  # fetched
        return out
    if name in MOVES and not isinstance(args[0], OtherTensor) and device is None:  # copied into one on the CPU
        return args[0]
    back = {id(tensor.held): tensor for tensor in ours}
    return _mapped(lambda x: back[id(x)] if id(x) in back else OtherTensor(x), out)


_LIBRARY = torch.library.Library("_", "IMPL")


def register() -> torch.device:
    """Make the device known to torch, and its weights to the package as torch's own; the device."""
    condition._OF_TORCH = (*condition._OF_TORCH, OtherTensor)
    _setup_privateuseone_for_python_backend(rename=NAME)
    _LIBRARY.fallback(lambda function, *args, **kwargs: _run(function, args, kwargs), "PrivateUse1")
    for name in ("tensor", "as_tensor", "arange", "eye"):  # these make a tensor where no fallback is asked, or resize one
        setattr(torch, name, _made_first(getattr(torch, name)))
    return torch.device(NAME, 0)


def _made_first(function):
    @functools.wraps(function)
    def make(data, *args, device=None, **kwargs):
        if device is None or torch.device(device).type != NAME or isinstance(data, torch.Tensor):
            return function(data, *args, device=device, **kwargs)
        return function(data, *args, device="cpu", **kwargs).to(device)

    return make
