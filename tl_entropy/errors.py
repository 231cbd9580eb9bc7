"""The errors of tl_entropy: one small family, each member also the built-in error that a caller would expect.

Every message names the argument, what was expected, what came, and what to do.
"""

from __future__ import annotations

import inspect
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from typing import Any

import numpy as np

_SURROGATE = re.compile("[\ud800-\udfff]")


class TLEntropyError(Exception):
    """Anything that tl_entropy refuses to do.

    ``partial`` holds the result of all that was counted before the refusal, where there is one.

    >>> import tl_entropy as tle
    >>> try:
    ...     tle.ngram(0)
    ... except tle.TLEntropyError as error:
    ...     print(type(error).__name__)
    InputError
    """

    partial: Any = None


class InputError(TLEntropyError, ValueError):
    """A value that cannot be measured: out of range, empty, not finite, or of the wrong shape.

    >>> import tl_entropy as tle
    >>> issubclass(tle.InputError, ValueError)
    True
    """


class InputTypeError(TLEntropyError, TypeError):
    """An argument of a kind that is not understood.

    >>> import tl_entropy as tle
    >>> issubclass(tle.InputTypeError, TypeError)
    True
    """


class ModelError(TLEntropyError, ValueError):
    """A model that cannot be read: a hook that is missing or silent, or logits that cannot be reproduced.

    >>> import tl_entropy as tle
    >>> issubclass(tle.ModelError, ValueError)
    True
    """


class NonFiniteError(TLEntropyError, ValueError):
    """A NaN or an infinity inside the model; the message names the hook, the document and the position.

    >>> import torch
    >>> import tl_entropy as tle
    >>> try:
    ...     tle.functional.shannon_entropy(torch.tensor([float("nan"), 0.0]))
    ... except tle.NonFiniteError as error:
    ...     print(isinstance(error, ValueError))
    True
    """


class FileError(TLEntropyError, ValueError):
    """A file that is not what it should be: damaged, of another kind, or of a newer schema.

    >>> import tl_entropy as tle
    >>> try:
    ...     tle.load("no such file")
    ... except tle.FileError as error:
    ...     print(error)
    path: there is no file no such file
    """


class SaveError(TLEntropyError, OSError):
    """A file or folder that cannot be written: no room, no permission, or something else in its place.

    It is an ``OSError``, too.

    >>> import tl_entropy as tle
    >>> from tempfile import NamedTemporaryFile
    >>> result = tle.lens_entropy(tle.demo_model(), "import os", progress=False)
    >>> try:
    ...     place = result.save(NamedTemporaryFile().name + "/../" + "x" * 300)
    ... except tle.SaveError as error:
    ...     print("File name too long" in str(error))
    True
    """


class Elsewhere(BaseException):
    """What ends a pass here although nothing is wrong: the rest of it is with other processes, or with a later one."""


class ProcessError(TLEntropyError, RuntimeError):
    """Another of the processes that share a measurement has stopped, or does something else."""


_OURS = "tl_entropy_partial"
AT_HAND = "what was measured before this error is its attribute 'partial'"


@contextmanager
def keeping(partial: Callable[[BaseException], Any], note: str = AT_HAND) -> Iterator[None]:
    """Whatever ends a pass inside, Ctrl-C included, leave what was gathered as its ``partial``, and raise it on as it is.

    An error from elsewhere, such as a user's generator, gets a note that says so. One that has a ``partial`` of its own, as
    ``http.client.IncompleteRead`` has, keeps that, and has what was gathered as its ``tl_entropy_partial``.

    Args:
        partial: what was gathered, from the error; None, or an InputError, for nothing, or too little for a result.
        note: what to say of it.

    >>> try:
    ...     with keeping(lambda error: "half of it"):
    ...         raise OSError("the disk is gone")
    ... except OSError as error:
    ...     print(error, "|", error.partial, "|", error.__notes__[0])
    the disk is gone | half of it | tl_entropy: what was measured before this error is its attribute 'partial'
    """
    try:
        yield
    except Elsewhere:  # which is no end of a pass, but of whoever reads
        raise
    except BaseException as error:
        _keep(error, partial, f"tl_entropy: {note}")
        raise


def _keep(error: BaseException, partial: Callable[[BaseException], Any], note: str) -> None:
    try:
        found = partial(error)
    except InputError:
        return
    except Exception as second:  # the error that ended the pass is the one to tell, such as that memory ran out
        error.add_note(f"tl_entropy: what was measured before this error cannot be had ({type(second).__name__}: {second})")
        return
    if found is None:
        return
    if isinstance(error, TLEntropyError):
        error.partial = found
        return
    own = getattr(error, "partial", None) is not getattr(error, _OURS, None)
    name = _OURS if own else "partial"
    note = note.replace("'partial'", repr(name))
    with suppress(AttributeError):  # of errors that refuse any change, and are to come through nevertheless
        for attribute in {name, _OURS}:
            setattr(error, attribute, found)
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)


def partial_of(error: BaseException) -> Any:
    """What ``keeping`` has left with an error; None for nothing.

    >>> partial_of(OSError("the disk is gone")) is None
    True
    """
    return error.partial if isinstance(error, TLEntropyError) else getattr(error, _OURS, None)


def printable(text: str) -> str:
    r"""A text as tables, files, pages and figures can hold it: what UTF-8 has no bytes for is escaped.

    Such are names of files that are not UTF-8, and halves of surrogate pairs.

    >>> printable("caf\udce9.txt"), printable("\ud800"), printable("café")
    ('caf\\xe9.txt', '\\ud800', 'café')
    """
    return _SURROGATE.sub(lambda half: _escaped(ord(half[0])), text)


def warn(message: str) -> None:
    """Warn of what changed a result; the line that is shown is the one outside of this package that asked for it."""
    frame, depth, ours = inspect.currentframe(), 0, 0
    while frame is not None:
        depth += 1
        ours = depth if str(frame.f_globals.get("__name__")).partition(".")[0] == "tl_entropy" else ours
        frame = frame.f_back
    warnings.warn(message, UserWarning, stacklevel=ours + 1)


def counted(n: int, noun: str, form: str = "") -> str:
    """How many of something there are, in the singular or the plural.

    >>> counted(1, "document"), counted(0, "site"), counted(45129, "token", ",")
    ('1 document', '0 sites', '45,129 tokens')
    """
    return f"{n:{form}} {noun}" if n == 1 else f"{n:{form}} {noun}s"


def _escaped(code: int) -> str:
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"  # the former stands for a byte


def check_choice(argument: str, value: object, choices: Iterable[object]) -> None:
    """Raise InputError unless ``value`` is one of ``choices``.

    >>> check_choice("unit", "hartleys", ("nats", "bits"))
    Traceback (most recent call last):
    tl_entropy.errors.InputError: unit must be one of 'nats', 'bits'; got 'hartleys'
    """
    options = list(choices)
    if not any(_same(value, option) for option in options):
        raise InputError(f"{argument} must be one of {', '.join(map(repr, options))}; got {value!r}")


def _same(value: object, option: object) -> bool:
    """Whether they are equal, where 1 is not True."""
    found = value == option
    return isinstance(found, bool | np.bool_) and bool(found) and isinstance(value, bool) == isinstance(option, bool)


FLAGS = ("bool", "bool | None")
"""Annotations of arguments that are flags."""


def check_flag(argument: str, value: object, annotation: str = "bool") -> None:
    """Raise InputTypeError unless ``value`` is a truth value of Python or NumPy, or None where the annotation allows that.

    >>> check_flag("progress", 1)
    Traceback (most recent call last):
    tl_entropy.errors.InputTypeError: progress must be True or False; got 1
    """
    if not isinstance(value, bool | np.bool_) and (value is not None or annotation == "bool"):
        raise InputTypeError(f"{argument} must be True or False; got {value!r}")


def check_int(argument: str, value: object, low: int | None = None, high: float | None = None) -> int:
    """Return ``value``, an int of Python or NumPy within ``low`` and ``high`` (both included), as an int, else raise an error.

    Without ``high`` it has to fit into 64 bits; with infinity it may be of any size.

    >>> check_int("window", 0, 1, 1024)
    Traceback (most recent call last):
    tl_entropy.errors.InputError: window must be an int from 1 to 1024; got 0
    """
    span = "" if low is None else f" of at least {low}" if high in (None, math.inf) else f" from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputTypeError(f"{argument} must be an int{span}; got {value!r}")
    number = operator.index(value)
    if high is None and abs(number) >= 2**63:
        raise InputError(f"{argument} must be an int{span}; got {number}, which 64 bits do not hold")
    if (low is not None and number < low) or (high is not None and number > high):
        raise InputError(f"{argument} must be an int{span}; got {number}")
    return number


def check_number(argument: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """Return ``value``, a finite number of Python or NumPy within ``low`` and ``high`` (both included), as a float, else raise.

    >>> check_number("width", 0.5, 1, 100)
    Traceback (most recent call last):
    tl_entropy.errors.InputError: width must be a finite number from 1 to 100; got 0.5
    """
    span = "" if low == -math.inf else f" of at least {low:g}" if high == math.inf else f" from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputTypeError(f"{argument} must be a finite number{span}; got {value!r}")
    number = _as_float(value)
    if not math.isfinite(number) or not low <= number <= high:
        raise InputError(f"{argument} must be a finite number{span}; got {number}")
    return number


def _as_float(value: Real) -> float:
    """As a float, infinity where none is as large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def check_positive(argument: str, value: object) -> float:
    """Return ``value``, a finite number of Python or NumPy above 0, as a float, else raise an error.

    >>> check_positive("bandwidth", 0)
    Traceback (most recent call last):
    tl_entropy.errors.InputError: bandwidth must be a positive number; got 0
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputTypeError(f"{argument} must be a positive number; got {value!r}")
    if not 0 < (number := _as_float(value)) < math.inf:
        raise InputError(f"{argument} must be a positive number; got {value!r}")
    return number


def is_iterable(given: object) -> bool:
    """Whether it holds several things, as an array or tensor without an axis does not, whatever its class says.

    >>> is_iterable([3]), is_iterable(np.array([3])), is_iterable(np.array(3))
    (True, True, False)
    """
    try:
        iter(given)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True


def listed(argument: str, given: Any, what: str) -> list[Any]:
    """What an iterable holds; InputTypeError for what is none, or a text.

    >>> listed("scales", 3, "ints")
    Traceback (most recent call last):
    tl_entropy.errors.InputTypeError: scales must be several ints; got 3
    """
    try:
        if not isinstance(given, str | bytes):
            return list(given)
    except TypeError:  # of a number, or of an array or a tensor without an axis
        pass
    raise InputTypeError(f"{argument} must be several {what}; got {given!r}")


def check_orders(argument: str, orders: object, *, different: bool = False) -> tuple[float, ...]:
    """Return Rényi orders, one number or several of Python, NumPy or torch, as a tuple of floats from 0 to infinity.

    Raises:
        InputError: an order that is negative or NaN, or none; or one twice where they have to be ``different``.
        InputTypeError: something else than numbers.

    >>> check_orders("orders", 2), check_orders("orders", [0.5, 1])
    ((2.0,), (0.5, 1.0))
    """
    found = _orders(orders, f"{argument} must be one or several numbers from 0 to infinity; got {orders!r}")
    if not found or (different and len(set(found)) < len(found)):
        raise InputError(f"{argument} must be one or more different numbers from 0 to infinity; got {orders!r}")
    return found


def check_order(argument: str, order: object) -> float:
    """Return one Rényi order as a float from 0 to infinity, as ``check_orders``; several are an InputTypeError.

    >>> check_order("order", 2)
    2.0
    """
    message = f"{argument} must be one number from 0 to infinity; got {order!r}"
    if isinstance(getattr(order, "tolist", lambda: order)(), Iterable):
        raise InputTypeError(f"{message}: call once for each")
    return _orders(order, message)[0]


def _orders(orders: object, message: str) -> tuple[float, ...]:
    given: Any = orders.tolist() if hasattr(orders, "tolist") else orders
    found: list[float] = []
    for value in given if isinstance(given, Iterable) and not isinstance(given, str | bytes) else (given,):
        number: Any = value.item() if hasattr(value, "item") else value
        if isinstance(number, bool) or not isinstance(number, Real):
            raise InputTypeError(message)
        try:
            found.append(float(number))
        except OverflowError:
            raise InputError(f"{message}, which no float is; infinity is math.inf") from None
        if not found[-1] >= 0:
            raise InputError(message)
    return tuple(found)
