"""What torch keeps for a whole process or thread: numbers of this package do not depend on it.

A caller may have changed torch's default dtype or device, be inside autocast or inference mode, or let products be rounded, for
reasons of his own. There is one rule for all of it, and this is its one place: every public function and method (``steady``,
``Steady``) computes as torch comes, and leaves everything as it was.

| state of torch | inside |
|---|---|
| default dtype | float32 |
| default device | the CPU; what has a device, as a model and its activations, stays there |
| autocast | off: a model computes in the dtype of its weights, which is what a result's provenance says |
| inference mode | off, with gradients off if they were: what comes back is an ordinary tensor |
| precision of products of float32 (``torch.set_float32_matmul_precision`` and the switches of backends) | float32 |
| of convolutions and recurrent layers; of sums in products of half precision | what torch comes with |
| deterministic algorithms, threads | as set: they change no number beyond its rounding |
| fake tensors (``FakeTensorMode``) | refused: they hold no numbers |

Autocast around a model makes another model of it, whose sums of the residual stream are in float32 and whose products are not;
whoever means to measure a model in bfloat16 loads it in bfloat16.

What is the user's own and only called from here, such as a model with its hooks, an intervention, a lens, a function that gives
labels, a data set or an accumulator, finds the default dtype and device that its author set (``yours``).
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial, wraps
from operator import attrgetter
from types import FunctionType
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar, cast, overload

import torch

from tl_entropy.errors import FLAGS, InputTypeError, ModelError, TLEntropyError, check_flag

P = ParamSpec("P")
R = TypeVar("R")

_ALSO = frozenset({"__init__", "__post_init__", "__call__", "__repr__", "_repr_html_"})
"""Methods that are called from outside although their names begin with an underscore."""


_NO_NUMBERS = "has a shape and holds no numbers, so nothing can be measured"


class _Here(threading.local):
    """Of this thread: whether it is inside, by which call, and the default dtype and device that it came with."""

    inside = False
    call: object = None
    device = torch.device("cpu")
    dtype = torch.float32


_here = _Here()


@contextmanager
def plain() -> Iterator[None]:
    """The state in which everything is computed, inside."""
    if _here.inside:
        yield
        return
    if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
        raise ModelError(f"PyTorch is in FakeTensorMode, in which a tensor {_NO_NUMBERS}; call this outside of it")
    dtype, device = torch.get_default_dtype(), torch.tensor(()).device
    with ExitStack() as stack:
        stack.enter_context(_switches.plain())
        stack.enter_context(_default(torch.float32, torch.device("cpu")))
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.is_inference_mode_enabled():
            gradients = torch.is_grad_enabled()
            stack.enter_context(torch.inference_mode(False))  # which turns them on
            stack.enter_context(torch.set_grad_enabled(gradients))
        before = _here.call, _here.dtype, _here.device
        try:
            _here.inside, _here.call, _here.dtype, _here.device = True, object(), dtype, device
            yield
        except Exception as error:
            if type(error).__module__ == "torch._subclasses.fake_tensor":
                raise ModelError(f"a fake tensor {_NO_NUMBERS}") from error
            if not isinstance(error, TLEntropyError) and torch._C._functorch.maybe_current_level() is not None:
                raise ModelError(
                    "what torch.vmap or torch.func transforms holds tensors that are hidden from it, so this cannot be "
                    f"computed there; call it outside ({type(error).__name__})"
                ) from error
            raise
        finally:
            _here.inside, (_here.call, _here.dtype, _here.device) = False, before


def this_call() -> object:
    """What stands for the outermost call that this thread is in, of the functions of this package; None outside of any."""
    return _here.call if _here.inside else None


@contextmanager
def yours(device: torch.device | None = None) -> Iterator[None]:
    """The default dtype and device that the caller of the package has set, for what is the caller's own.

    A caller's default device other than the CPU stands for that of the models: where ``device`` is given, it is that one.
    """
    if not _here.inside:
        yield
        return
    with _default(_here.dtype, _here.device if device is None or _here.device.type == "cpu" else device):
        _here.inside = False
        try:
            yield
        finally:
            _here.inside = True


def each(items: Iterable[R], state: Callable[[], AbstractContextManager[None]] = yours) -> Iterator[R]:
    """The items, each of them made in a ``state``: an iterable of the caller's own in that of ``yours``."""
    with state():
        iterator = iter(items)
    while True:
        with state():
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def steady(function: Callable[P, R]) -> Callable[P, R]:
    """The function, made to run in the ``plain`` state; its caller is one frame further up, for warnings.

    Keywords that are flags by their annotation are checked to be truth values, and tensors to hold their numbers, one by one.
    Of a generator, each item is made in that state, and its reader's is left alone between them.

    >>> @steady
    ... def half():
    ...     return torch.tensor(0.5).dtype, torch.ones(1).device.type
    >>> torch.set_default_dtype(torch.float64)
    >>> with torch.device("meta"):
    ...     half()
    (torch.float32, 'cpu')
    >>> torch.set_default_dtype(torch.float32)
    """
    if inspect.isgeneratorfunction(function):  # its reader's state is another one from item to item

        @wraps(function)
        def items(*args: P.args, **kwargs: P.kwargs) -> Any:
            return each(function(*args, **kwargs), plain)

        return cast("Callable[P, R]", items)

    flags = _flags(function)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if _here.inside:
            return function(*args, **kwargs)
        for name in flags.keys() & kwargs.keys():
            check_flag(name, kwargs[name], flags[name])
        given: tuple[tuple[int | str, Any], ...] = (*enumerate(args), *kwargs.items())
        for place, value in given:
            if isinstance(value, torch.Tensor):
                _check_holds_numbers(function, place, value)
        with plain():
            return function(*args, **kwargs)

    return run


def _check_holds_numbers(function: Callable[..., Any], place: int | str, tensor: torch.Tensor) -> None:
    if not tensor.is_meta and tensor.layout is torch.strided:
        return
    name = place if isinstance(place, str) else list(inspect.signature(function).parameters)[place]
    if tensor.is_meta:
        raise InputTypeError(f"{name} must hold numbers; got a tensor on the device 'meta', which holds none")
    raise InputTypeError(f"{name} must be dense; got a tensor of layout {tensor.layout}; give {name}.to_dense()")


def _flags(function: Callable[..., Any]) -> dict[str, str]:
    """The keywords of a function that are flags, with their annotations."""
    if not isinstance(function, FunctionType):
        return {}
    keywords = (p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY)
    return {p.name: p.annotation for p in keywords if p.annotation in FLAGS}


class cached_property(functools.cached_property[R]):
    """An attribute that is computed when it is first read, without the lock of Python 3.11's own.

    That one is held while it is computed, for all objects of a class at once: what waits for a model's turn inside, and is read
    by whoever has that turn, in another thread, would wait for ever.
    """

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> R: ...
    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> Self | R:
        if instance is None:
            return self
        known, name = vars(instance), str(self.attrname)
        if name not in known:
            known[name] = self.func(instance)
        found: R = known[name]
        return found


class Steady:
    """Base of classes whose public methods and properties all are ``steady``."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, member in list(vars(cls).items()):
            if name in _ALSO or not name.startswith("_"):
                _make_steady(cls, name, member)


def _make_steady(cls: type, name: str, member: Any) -> None:
    if isinstance(member, FunctionType):
        setattr(cls, name, steady(member))
    elif isinstance(member, classmethod | staticmethod):
        setattr(cls, name, type(member)(steady(member.__func__)))
    elif isinstance(member, property):
        setattr(cls, name, member.getter(steady(member.fget)))  # type: ignore[arg-type]
    elif isinstance(member, functools.cached_property):
        member.func = steady(member.func)


@contextmanager
def _default(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    before = torch.get_default_dtype()
    with ExitStack() as stack:
        if dtype != before:
            torch.set_default_dtype(dtype)
            stack.callback(torch.set_default_dtype, before)
        if device != torch.tensor(()).device:
            stack.enter_context(device)  # a device is a context, in which it is the default
        yield


def _kinds_with_autocast() -> tuple[str, ...]:
    found = []
    for kind in ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla"):
        try:
            torch.is_autocast_enabled(kind)
        except RuntimeError:  # this torch has no autocast there
            continue
        found.append(kind)
    return tuple(found)


_AUTOCAST = _kinds_with_autocast()


class _Switch(NamedTuple):
    """One setting of the whole process, and the values that are as good as the one that torch comes with."""

    read: Callable[[], Any]
    write: Callable[[Any], None]
    plain: tuple[Any, ...]


class _Switches:
    """Settings of the whole process: the first thread that comes in sets them, and the last one that leaves puts them back."""

    def __init__(self, switches: list[_Switch]) -> None:
        self._switches, self._lock = switches, threading.Lock()
        self._inside, self._before = 0, list[tuple[_Switch, Any]]()

    @contextmanager
    def plain(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                for switch in self._switches:
                    value = switch.read()
                    if value not in switch.plain:
                        self._before.append((switch, value))
                        switch.write(switch.plain[0])
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                while self._inside == 0 and self._before:
                    switch, value = self._before.pop()
                    switch.write(value)


def _switch(path: str, *plain: Any) -> _Switch:
    """The setting at ``path`` below ``torch.backends``."""
    above, _, name = path.rpartition(".")
    owner = attrgetter(above)(torch.backends) if above else torch.backends
    return _Switch(partial(getattr, owner, name), partial(setattr, owner, name), plain)


def _found_switches() -> list[_Switch]:
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):
        # Those above hand theirs on to those below. The older settings must not even be read by who has set these.
        found = [_switch(f"{above}fp32_precision", "none") for above in ("", "cudnn.")]
        found += [_switch(f"{kind}.fp32_precision", "ieee", "none") for kind in ("cuda.matmul", "mkldnn.matmul", "mkldnn.conv")]
        found += [_switch(f"cudnn.{kind}.fp32_precision", "tf32") for kind in ("conv", "rnn")]
    else:
        found = [_Switch(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, ("highest",))]
        found += [_switch("cudnn.allow_tf32", True)]
    halves = {"fp16_reduced_precision_reduction": True, "bf16_reduced_precision_reduction": True, "fp16_accumulation": False}
    return found + [_switch(f"cuda.matmul.allow_{n}", plain) for n, plain in halves.items() if hasattr(matmul, f"allow_{n}")]


_switches = _Switches(_found_switches())
