"""Models that see as well as read are loaded to read, and nothing is installed for what they would need to see.

TransformerLens loads an image processor with such a model; where torchvision is missing, it runs ``pip install torchvision``
in the running environment, which may put another build of torch in the place of the one in use. Here that command is refused.
The model comes without its processor, which texts do not need, and a warning says which torchvision fits.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib.util import find_spec
from typing import Any

import torch

_lock = threading.RLock()  # what is replaced here belongs to the process
_INSTALLER = re.compile(r"(^|[/\\])(pip|uv|conda|mamba|poetry)[\d.]*(\.exe)?$")


@contextmanager
def reading_only() -> Iterator[None]:
    """Inside, no package is installed, and models that see are loaded without the libraries that they need to see."""
    with _lock, ExitStack() as stack:
        stack.enter_context(_replaced(subprocess.Popen, "__init__", _refusing_to_install(subprocess.Popen.__init__)))
        if find_spec("torchvision") is None:
            adapters = importlib.import_module("transformer_lens.model_bridge.architecture_adapter").ArchitectureAdapter
            if hasattr(adapters, "_check_required_libraries"):
                stack.enter_context(_replaced(adapters, "_check_required_libraries", lambda adapter: None))
        yield


def without_processor(model: Any) -> str | None:
    """What to say of a model that was loaded without its image processor for want of torchvision; None of all others."""
    sees = getattr(getattr(model, "cfg", None), "is_multimodal", False)
    if not sees or getattr(model, "processor", None) is not None or find_spec("torchvision") is not None:
        return None
    return (
        f"{model.cfg.model_name} was loaded without its image processor, which texts do not need: torchvision is not installed "
        f"(the one that fits torch {torch.__version__}: {fitting_torchvision(torch.__version__)})"
    )


def fitting_torchvision(version: str) -> str:
    """The command that installs the torchvision of a torch version and its build, and cannot replace torch.

    >>> fitting_torchvision("2.13.0+cpu")
    'pip install torchvision==0.28.0 torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'
    >>> fitting_torchvision("2.7.1")
    'pip install torchvision==0.22.1 torch==2.7.1'
    >>> fitting_torchvision("3.0.0")
    'pip install torchvision torch==3.0.0'
    """
    number, _, build = version.partition("+")
    parts = re.fullmatch(r"2\.(\d+)\.(\d+)", number)
    # torchvision has counted 15 minor versions ahead since torch 2.0.
    fitting = f"torchvision==0.{int(parts[1]) + 15}.{parts[2]}" if parts else "torchvision"
    place = f" --index-url https://download.pytorch.org/whl/{build}" if re.fullmatch(r"cpu|cu\d+|rocm[\d.]+|xpu", build) else ""
    return f"pip install {fitting} torch=={number}{place}"


def _refusing_to_install(start: Any) -> Any:
    @wraps(start)
    def guarded(process: Any, *args: Any, **options: Any) -> None:
        command = args[0] if args else options["args"]
        words = command.split() if isinstance(command, str) else [str(word) for word in command]
        if "install" in words and any(map(_INSTALLER.search, words)):
            raise OSError(f"nothing is installed while a model is loaded: {' '.join(words)}")
        start(process, *args, **options)

    return guarded


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
