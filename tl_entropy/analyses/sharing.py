"""Who reads what: the one place where a pass over a corpus may be shared among processes, or go on where another one stopped.

A ``Pass`` knows how a corpus is read, and reads any documents of it into accumulators. Alone, a process reads all of them.
Where a ``Sharing`` is in force, that has the pass read the documents that are this process's, and sees to it that the
accumulators hold what all processes have read: processes that talk to each other, or a folder. So every analysis that goes
through here works in any number of processes, with the same code.

Not shared: a cache, which every process has as a whole. Refused: what depends on where a corpus is cut, as an estimator from
blocks does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, Protocol, TypeVar

from torch import Tensor

from tl_entropy.analyses.streaming import StreamingMeasure
from tl_entropy.batches import Batch
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.caches import split_cache
from tl_entropy.capture.corpus import Corpus, Count, read_corpus
from tl_entropy.capture.documents import Rereadable
from tl_entropy.capture.generate import AT_ONCE
from tl_entropy.capture.options import CorpusOptions, WindowOptions
from tl_entropy.capture.parts import Documents, Intervals, Part
from tl_entropy.capture.report import StreamReport
from tl_entropy.capture.stream import After, read_part
from tl_entropy.errors import InputError
from tl_entropy.sites import Site
from tl_entropy.torch_state import steady

Value = TypeVar("Value")
Item = TypeVar("Item")

_WINDOWS = tuple(WindowOptions.__annotations__)


class Sharing(Protocol):
    """How the documents of a corpus are shared out."""

    def read(self, accumulators: Sequence[StreamingMeasure[Any]], one_pass: Pass) -> StreamReport:
        """Let ``one_pass`` read what is this process's, and leave in ``accumulators`` what all have read; its report."""

    def once(self, name: str, make: Callable[[], Value]) -> Value:
        """What ``make`` gives in one process, the same for all; ``name`` says what it is."""

    def parts(self, name: str, make: Callable[[int, int], Value]) -> list[Value]:
        """What ``make(rank, size)`` gives in each of so many processes that work at once, by their ranks, the same for all."""


_current: ContextVar[Sharing | None] = ContextVar("sharing", default=None)
_found: list[Callable[[], Sharing | None]] = []  # what looks for a sharing where none was set
_at_once: ContextVar[bool] = ContextVar("at_once", default=False)


class Pass:
    """One pass of a model over a corpus, which may be made in parts.

    Args:
        adapter: of the model.
        inputs: as for ``stream``.
        positions: as for ``stream``, as are the others.
        batch_size: windows a batch.
        max_new_tokens: tokens to generate.
        count: what positions speak of.
        progress: show a bar.
        options: those of ``tle.CorpusOptions``.

    Attributes:
        rows: positions that have come by in this process.
    """

    def __init__(
        self,
        adapter: Adapter,
        inputs: Any,
        *,
        positions: Any = None,
        batch_size: int | None = None,
        max_new_tokens: int = 0,
        count: Count = "read",
        progress: bool = True,
        options: CorpusOptions,
    ) -> None:
        self.adapter, self.inputs, self.options, self.progress = adapter, inputs, options, progress
        self._reading: dict[str, Any] = {
            "positions": positions, "batch_size": batch_size, "max_new_tokens": max_new_tokens, "count": count,
        }  # fmt: skip
        self._begun = _Begun()

    def __call__(
        self,
        accumulators: Sequence[StreamingMeasure[Any]],
        *,
        documents: Documents | None = None,
        after: After | None = None,
        progress: bool | None = None,
    ) -> StreamReport:
        """Read some documents into accumulators.

        Args:
            accumulators: what is fed.
            documents: which, by their numbers in the whole; of those that were asked for, where some were. None is all of a
                pass that is not shared, which then refuses to measure nothing, and warns of what is left out; a part leaves
                that to ``conclude``.
            after: called with the report so far whenever no document is half read; the pass ends where it returns True.
            progress: show a bar; None as the pass was asked to.
        """
        options: dict[str, Any] = {**self.options}
        if documents is not None:
            options["documents"] = Part(documents, within=Part(options.get("documents")))
        return read_part(
            self.adapter, self.inputs, [*accumulators, self._begun], part=documents is not None, after=after,
            progress=self.progress if progress is None else progress, **self._reading, **options,
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """Positions that have come by in this process."""
        return self._begun.rows

    @property
    def whole(self) -> bool:
        """Whether it cannot be made in parts."""
        return split_cache(self.inputs)[0] is not None

    @cached_property
    def documents(self) -> Intervals | None:
        """Numbers of the documents to read; None where nobody knows the end."""
        total = self._corpus.n_documents
        return None if total is None else self.part.intervals(total)

    def given_digest(self) -> int | None:
        """A hash of all documents as they were given, and of their order; None where nobody knows the end."""
        return None if self.documents is None else self._corpus.given_digest()

    @property
    def together(self) -> int:
        """Documents that are sampled together: where text is sampled, parts begin at multiples of it."""
        return self._reading["batch_size"] or AT_ONCE if self.options.get("temperature") else 1

    @property
    def part(self) -> Part:
        """The documents that were asked for; all where none were."""
        return Part(self.options.get("documents"))

    def conclude(self, report: StreamReport) -> None:
        """Refuse what was nothing to measure as a whole, and warn of what a user is to know, as a pass alone does.

        Raises:
            InputError: nothing was measured.
        """
        self._corpus.conclude(report.given, report.read)

    @cached_property
    def _corpus(self) -> Corpus:
        """How the inputs are read, of all documents."""
        options: Any = {name: self.options[name] for name in _WINDOWS if name in self.options and name != "documents"}  # type: ignore[literal-required]
        inputs = self.inputs.inputs if isinstance(self.inputs, Rereadable) else self.inputs
        return read_corpus(
            self.adapter, inputs, positions=self._reading["positions"], count=self._reading["count"], **options
        )  # fmt: skip


class _Begun:
    """An accumulator that only counts the positions that came by: whether a pass has begun to measure."""

    sites: tuple[Site, ...] = ()
    takes_non_finite = True
    rows = 0

    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Count the rows of a batch."""
        self.rows += batch.n_rows

    def merge(self, other: _Begun) -> None:
        """Add what another has counted."""
        self.rows += other.rows

    def compute(self) -> int:
        """The number of rows."""
        return self.rows


def read(accumulators: Sequence[StreamingMeasure[Any]], one_pass: Pass) -> StreamReport:
    """Make a pass as the sharing in force has it, or alone.

    Raises:
        InputError: the pass is shared, and one of the accumulators has to see the corpus in its order.
        Whatever else ends the pass, as ``stream`` says.
    """
    sharing = None if one_pass.whole else sharing_here()
    if sharing is not None and (why := next((one.in_order for one in accumulators if one.in_order), "")):
        raise InputError(f"several processes, or a run that goes on, give other numbers than one: {why}")
    return one_pass(accumulators) if sharing is None else sharing.read(accumulators, one_pass)


def once(name: str, make: Callable[[], Value]) -> Value:
    """What ``make`` gives, made in one process and the same in all, where there are several."""
    sharing = sharing_here()
    return make() if sharing is None else sharing.once(name, make)


def parts(name: str, make: Callable[[int, int], Value]) -> list[Value]:
    """What ``make(rank, size)`` gives in each of so many processes, by their ranks, and the same in all; alone, [make(0, 1)].

    For work that is no pass over documents, and is dealt out by number: item i is the process's whose rank is i % size.
    """
    sharing = sharing_here()
    return [make(0, 1)] if sharing is None else sharing.parts(name, make)


@contextmanager
def at_once(do: bool = True) -> Iterator[None]:
    """What is computed inside, all processes compute at once, of the same sums, so that ``dealt`` may deal it out; or not."""
    token = _at_once.set(do)
    try:
        yield
    finally:
        _at_once.reset(token)


def dealt(name: str, items: Sequence[Item], make: Callable[[Sequence[Item]], list[Value]]) -> list[Value]:
    """What ``make`` gives of items, one for each of them; inside ``at_once``, each process makes its share and has the others'.

    Args:
        name: says what it is.
        items: the same in all processes; item i is the process's whose rank is i % size.
        make: called with some of the items; what it gives is what a state can hold, tensors on the CPU.
    """

    def share(rank: int, size: int) -> list[Value]:
        with at_once(False):  # the others have other items
            return make(items[rank::size])

    if not _at_once.get():
        return make(items)
    hands = parts(name, share)
    return [hands[i % len(hands)][i // len(hands)] for i in range(len(items))]


def same_inputs(digests: Sequence[Any]) -> None:
    """Raise InputError unless all processes have the same documents in the same order, by a hash of each one's."""
    if different := [rank for rank, other in enumerate(digests) if other != digests[0]]:
        raise InputError(
            f"inputs: process {different[0]} has other documents than process 0, or has them in another order, so that "
            "some would be lost and others counted twice; give all processes the whole, and shuffle with the same seed in "
            "each, or not at all"
        )


def look_for(found: Callable[[], Sharing | None]) -> None:
    """Ask ``found`` for a sharing where none was set."""
    _found.append(found)


def sharing_here() -> Sharing | None:
    """The sharing in force: one that was set, or found; None for a process alone."""
    if (chosen := _current.get()) is not None:
        return None if isinstance(chosen, _Alone) else chosen
    return next((found for look in _found if (found := look()) is not None), None)


@contextmanager
def shared(sharing: Sharing) -> Iterator[None]:
    """What is measured inside is shared out so."""
    token = _current.set(sharing)
    try:
        yield
    finally:
        _current.reset(token)


class _Alone:
    """No sharing, whatever would be found."""

    def read(self, accumulators: Sequence[StreamingMeasure[Any]], one_pass: Pass) -> StreamReport:
        """All of it."""
        return one_pass(accumulators)

    def once(self, name: str, make: Callable[[], Value]) -> Value:
        """Made here."""
        return make()

    def parts(self, name: str, make: Callable[[int, int], Value]) -> list[Value]:
        """All of them."""
        return [make(0, 1)]


@steady
@contextmanager
def alone() -> Iterator[None]:
    """What is measured inside is measured by this process alone, where others run the same program.

    For what not all processes do, such as a look at a model by the first of several that train it: the others would be waited
    for.

    >>> import tl_entropy as tle
    >>> with tle.alone():
    ...     result = tle.lens_entropy(tle.demo_model(), "import os", progress=False)
    >>> result.n_tokens
    2
    """
    with shared(_Alone()):
        yield
