"""Where a model's weights are put, and as what numbers: devices that are there, and dtypes that weights can have."""

from __future__ import annotations

import torch

from tl_entropy.errors import InputError, InputTypeError, check_choice

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def existing_device(device: str | torch.device | None) -> torch.device:
    """A device on which tensors can be made; None is the CUDA device where there is one, else the CPU.

    Raises:
        InputError: a device that is not on this machine, or that holds no numbers.
        InputTypeError: neither a name nor a device.

    >>> existing_device("cpu")
    device(type='cpu')
    >>> existing_device("gpu")
    Traceback (most recent call last):
    tl_entropy.errors.InputError: device must be one that PyTorch finds on this machine (cpu...); got 'gpu': ...
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(device, str | torch.device):
        raise InputTypeError(f"device must be a name such as 'cpu' or 'cuda:0', a torch.device or None; got {device!r}")
    try:
        place = torch.device(device)
        float(torch.zeros(1, device=place))  # what can't be read holds no numbers, as the device "meta"
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # what PyTorch raises depends on the device
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"device must be one that PyTorch finds on this machine ({', '.join(_found())}); got {str(device)!r}: {reason}"
        ) from error
    return place


def check_dtype(dtype: torch.dtype) -> None:
    """Raise InputTypeError or InputError unless weights can have this dtype.

    >>> check_dtype(torch.int8)
    Traceback (most recent call last):
    tl_entropy.errors.InputError: dtype must be one of torch.float32, torch.float64, torch.bfloat16, ...; got torch.int8
    """
    if not isinstance(dtype, torch.dtype):
        raise InputTypeError(f"dtype must be a torch.dtype, such as torch.float32; got {dtype!r}")
    check_choice("dtype", dtype, _DTYPES)


def _found() -> list[str]:
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]
