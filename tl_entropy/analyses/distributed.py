"""One measurement in several processes that talk to each other, by torch.distributed: as torchrun, mpirun or srun started them.

Each process reads its share of the documents, and all of them then have what all have read: states are sent round, over gloo on
the CPU whatever the models are on, and merged in the order of the ranks, so that every process returns the same result to the
last bit. The first process alone shows bars, warns, and writes results.

A corpus whose length is known is cut into shares of neighbours; of one whose length nobody knows, such as a streaming data set,
every process walks past all documents and reads its own by their numbers, so that none is lost or read twice, whatever the
number of its shards. All processes hash all documents as they were given, with their numbers: before the pass where the length
is known, and as they walk past them else.

Refused: processes that measure something else, or are given other documents than the first, or in another order (a list or a
data set shuffled by a seed of each process's own). Where one process fails or dies, the others stop with an error that says so,
whose ``partial`` is what they read.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tl_entropy.analyses.saving import joined, settings_of, split
from tl_entropy.analyses.sharing import Pass, look_for, same_inputs, sharing_here
from tl_entropy.analyses.streaming import StreamingMeasure
from tl_entropy.capture import progress
from tl_entropy.capture.parts import Documents, shares
from tl_entropy.capture.report import StreamReport
from tl_entropy.errors import ProcessError
from tl_entropy.results.files import WRITERS
from tl_entropy.state import decoded, encoded

Value = TypeVar("Value")

BLOCK = 8
"""Documents that one process reads in a row, where nobody knows how many there are."""

JOINING = timedelta(minutes=30)
"""How long processes wait for each other before a pass."""

WAITING = timedelta(days=7)
"""How long at its end."""

LOOKS = 2.0
"""Seconds between looks at whether another process has failed."""

PATIENCE = timedelta(seconds=10)
"""How long a process waits for the first to write a file that both have the same of; then it does so itself."""

AT_ONCE = 2**28
"""Bytes that are sent at once."""


class _StoppedError(ProcessError):
    """This process stops, since another one has failed."""


class Processes:
    """A ``Sharing`` of processes that talk to each other.

    Args:
        rank: the number of this one.
        size: how many there are.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._group = dist.new_group(backend="gloo", timeout=WAITING)
        self._store: Any = dist.distributed_c10d._get_default_store()
        self._passes, self._looked = 0, 0.0
        self._saves: Counter[str] = Counter()
        progress.SHOWN[0] = rank == 0

    def read(self, accumulators: Sequence[StreamingMeasure[Any]], one_pass: Pass) -> StreamReport:
        """Read this process's share, and have what all have read.

        Raises:
            ProcessError: another process has failed, died, or measures something else.
            InputError: the inputs are not the same in all processes.
            Whatever else ends the pass here.
        """
        with self._quiet():
            whole = one_pass.documents
            self._agree({
                "measurement": [type(one).__name__ for one in accumulators], "model": one_pass.adapter.fingerprint,
                "settings": [split(settings_of(one))[0] for one in accumulators], "documents": whole,
            })  # fmt: skip
            if whole is not None:
                self._check_same_inputs(one_pass.given_digest())
            share = self._share(one_pass)
            report = self._together(lambda: one_pass(accumulators, documents=share, after=lambda _: self._look()))
            if whole is None:
                self._check_same_inputs([report.given.walked, report.glimpse])
            self._merge(accumulators)
            found = accumulators[0].report
            if found is None:
                raise ProcessError("the processes have no report of what they read")
            one_pass.conclude(found)
            return found

    def once(self, name: str, make: Callable[[], Value]) -> Value:
        """What ``make`` gives in the first process, for all."""
        with self._quiet():
            self._agree({"measurement": name})
            made: Any = self._together(lambda: make() if self.rank == 0 else None)
            sent = self._sent(encoded(made) if self.rank == 0 else None, 0)
            value: Value = made if self.rank == 0 else decoded(sent)
            return value

    def parts(self, name: str, make: Callable[[int, int], Value]) -> list[Value]:
        """What ``make`` gives in each process, for all."""
        with self._quiet():
            self._agree({"measurement": name})
            own = self._together(lambda: make(self.rank, self.size))
            sent = [self._sent(encoded(own) if rank == self.rank else None, rank) for rank in range(self.size)]
            return [own if rank == self.rank else decoded(one) for rank, one in enumerate(sent)]

    @contextmanager
    def written_once(self, target: Path) -> Iterator[bool]:
        """Whether this process writes a file: the first does; another where the first does not within ``PATIENCE``."""
        name = os.path.realpath(target)
        self._saves[name] += 1
        key, there = f"tl_entropy/saved/{self._saves[name]}/{name}", False
        if self.rank:
            with suppress(RuntimeError):  # it has not come, or is gone
                self._store.wait([key], PATIENCE)
                there = True
        yield not there
        if not self.rank:
            with suppress(RuntimeError):  # the others are gone
                self._store.set(key, "")

    def _share(self, one_pass: Pass) -> Documents:
        """The documents that are this process's."""
        whole, block = one_pass.documents, max(1, one_pass.together)
        if whole is None:
            block *= -(-BLOCK // block)
            return [range(self.rank * block + i, sys.maxsize, self.size * block) for i in range(block)]
        if block == 1:
            return shares(whole, self.size)[self.rank]
        blocks = shares(((0, -(-max((stop for _, stop in whole), default=0) // block)),), self.size)[self.rank]
        return [range(one.start * block, one.stop * block) for one in blocks]

    def _merge(self, accumulators: Sequence[StreamingMeasure[Any]]) -> None:
        """Every accumulator gets what all processes have read, in the order of their ranks."""
        own = [one._state() for one in accumulators]
        failures: list[Exception] = []
        try:
            for accumulator, state in zip(accumulators, own, strict=True):
                for rank in range(self.size):
                    came = state if (sent := self._sent(state if rank == self.rank else None, rank)) is None else sent
                    if not failures:  # else it still has to be sent on, since the others wait for that
                        with _collected(failures):
                            _take_in(accumulator, came, first=rank == 0)
            if failures:
                raise failures[0]
        except BaseException:
            for accumulator, state in zip(accumulators, own, strict=True):
                accumulator.load_state_dict(state)
            raise

    def _sent(self, value: Any, rank: int) -> Any:
        """What process ``rank`` sends to all; None for itself."""
        with self._talking():
            text, tensors = split(value) if rank == self.rank else ("", {})
            kinds = {name: [str(one.dtype).removeprefix("torch."), list(one.shape)] for name, one in tensors.items()}
            head = self._text_of(json.dumps([text, kinds]), rank)
            if rank != self.rank:
                text, kinds = json.loads(head)
                tensors = {name: torch.empty(shape, dtype=getattr(torch, kind)) for name, (kind, shape) in kinds.items()}
            for name in kinds:
                for piece in tensors[name].reshape(-1).view(torch.uint8).split(AT_ONCE):
                    dist.broadcast(piece, rank, group=self._group)
        return None if rank == self.rank else joined(text, tensors)

    def _text_of(self, text: str, rank: int) -> str:
        """The text of process ``rank``."""
        written = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        length = torch.tensor([len(written)])
        dist.broadcast(length, rank, group=self._group)
        written = written if rank == self.rank else torch.empty(int(length), dtype=torch.uint8)
        for piece in written.split(AT_ONCE):
            dist.broadcast(piece, rank, group=self._group)
        return written.numpy().tobytes().decode()

    def _told(self, text: str) -> list[str]:
        """What every process says."""
        with self._talking():
            return [json.loads(self._text_of(json.dumps(text), rank)) for rank in range(self.size)]

    def _agree(self, what: Mapping[str, Any]) -> None:
        """Wait for the other processes, and raise unless they do the same."""
        try:
            dist.monitored_barrier(group=self._group, timeout=JOINING, wait_all_ranks=True)
        except RuntimeError as error:
            raise ProcessError(
                f"not all of the {self.size} processes have come to this measurement ({error}); where one measures by itself, "
                "do it inside tl_entropy.alone()"
            ) from error
        self._passes += 1
        self._looked = time.monotonic()
        first, *others = (json.loads(text) for text in self._told(json.dumps(what)))
        for rank, other in enumerate(others, start=1):
            for name in {**first, **other}:
                if first.get(name) != other.get(name):
                    raise ProcessError(
                        f"process {rank} has not the {name} of process 0: {other.get(name)} and {first.get(name)}; all "
                        "processes have to measure the same, in the same order, of the same inputs"
                    )

    def _check_same_inputs(self, digest: Any) -> None:
        """Raise InputError unless all processes have the same documents in the same order."""
        same_inputs(self._told(json.dumps(digest)))

    def _together(self, run: Callable[[], Value]) -> Value:
        """What ``run`` gives here, once all have ended theirs; where one fails, all stop and meet here."""
        failure: BaseException | None = None
        found: list[Value] = []
        try:
            found.append(run())
        except BaseException as error:  # which is raised below, when the others know
            failure = error
            with suppress(RuntimeError):  # the store is gone, and so the others will see
                self._store.set(self._failed, "")
        said = ""
        if failure is not None and not isinstance(failure, _StoppedError):
            said = f"process {self.rank} has stopped ({type(failure).__name__}: {failure})"
        try:
            told = self._told(said)
        except ProcessError:
            if failure is None or isinstance(failure, _StoppedError):
                raise
            raise failure from None
        if said and failure is not None:
            raise failure
        if any(told):
            raise ProcessError(f"{next(filter(None, told))}; what was read here is this error's 'partial'") from None
        return found[0]

    @property
    def _failed(self) -> str:
        return f"tl_entropy/failed/{self._passes}"

    def _look(self) -> None:
        """Now and then, between documents, whether another process has failed."""
        if time.monotonic() - self._looked < LOOKS:
            return
        self._looked = time.monotonic()
        with self._talking():
            failed = self._store.check([self._failed])
        if failed:
            raise _StoppedError("another process has failed")

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """A connection that breaks is a process that has died."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, ProcessError):
                raise
            raise ProcessError(
                f"another process has died ({str(error).splitlines()[0]}); what was read here is this error's 'partial'"
            ) from error

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """The first process alone warns."""
        if self.rank == 0:
            yield
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield


def _take_in(accumulator: StreamingMeasure[Any], state: Mapping[str, Any], *, first: bool) -> None:
    if first:
        accumulator.load_state_dict(state)
    else:
        accumulator.merge(accumulator.of_same(state))


@contextmanager
def _collected(failures: list[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # which is raised once all has been sent
        failures.append(error)


def found() -> Processes | None:
    """The processes that this one is one of, if it is; they talk from the first time on that they are looked for."""
    if _known:
        return _known[0]
    if not dist.is_available():
        return None
    if not dist.is_initialized():
        where = _from_environment(os.environ)
        if where is None:
            return None
        address, rank, size = where
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size, timeout=JOINING)
        atexit.register(_end)
    if dist.get_world_size() > 1:
        _known.append(Processes(dist.get_rank(), dist.get_world_size()))
    return _known[0] if _known else None


_known: list[Processes] = []
look_for(found)


def _written_once(target: Path) -> AbstractContextManager[bool]:
    """As the processes have it that this one is one of; inside ``alone`` each writes its own."""
    here = sharing_here()
    return here.written_once(target) if isinstance(here, Processes) else nullcontext(True)


WRITERS.append(_written_once)


def _end() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


_RANK_AND_SIZE = (
    ("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"),
)  # fmt: skip
"""What torchrun, Open MPI, and MPICH or Intel MPI call them."""


def _from_environment(environment: Mapping[str, str]) -> tuple[str, int, int] | None:
    """(where to meet, rank, number) of what torchrun, accelerate, mpirun or srun has started; None for a process alone.

    What mpirun starts, by itself or for accelerate, is told where to meet by MASTER_ADDR and MASTER_PORT. srun says neither
    an address nor a port: the node that it was started on, and a port that follows from the job's number.

    >>> there = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    >>> _from_environment({"RANK": "1", "WORLD_SIZE": "2", **there})
    ('env://', 1, 2)
    >>> _from_environment({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", **there})
    ('env://', 1, 2)
    >>> step = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7", "SLURM_JOB_ID": "41"}
    >>> _from_environment(step)
    ('tcp://10.0.0.7:20041', 3, 4)
    >>> _from_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"})  # a batch script outside srun
    """
    told = {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys()
    names = next((names for names in _RANK_AND_SIZE if environment.keys() >= set(names)), None)
    if told and names:
        address, (rank, size) = "env://", (environment[name] for name in names)
    elif {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LAUNCH_NODE_IPADDR", "SLURM_JOB_ID"} <= environment.keys():
        port = environment.get("MASTER_PORT", str(20000 + int(environment["SLURM_JOB_ID"]) % 20000))
        host = environment.get("MASTER_ADDR", environment["SLURM_LAUNCH_NODE_IPADDR"])
        address, rank, size = f"tcp://{host}:{port}", environment["SLURM_PROCID"], environment["SLURM_STEP_NUM_TASKS"]
    else:
        return None
    return (address, int(rank), int(size)) if int(size) > 1 else None
