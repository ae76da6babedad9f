"""Where tasks run: the plain loop, which defines the meaning that every other executor keeps.

`index` and `identify` are written against these few verbs and never know which executor they were given;
`pipeline.cluster` has the one that spreads tasks over Dask workers.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# What looks at its own time is given so much more to say that it is over.
GRACE_S = 30.0
# Nothing that works takes so long: a day of speech in a file of 65 MB is asked for at 8 x real time at least.
PATIENCE_S = 3600.0
SLOWEST_BYTES_PER_S = 10_000
# For a thread to tidy up after Ctrl-C.
TIDY_S = 5.0


@dataclass(frozen=True, slots=True)
class Done(Generic[Item, Result]):
    """A task that returned."""

    item: Item
    result: Result


@dataclass(frozen=True, slots=True)
class Died(Generic[Item]):
    """A task whose process died under it, as often as the executor cared to try."""

    item: Item
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run over files is.

    Parameters
    ----------
    done, total
        Files.
    share
        0 to 1, of the work as it was planned: audio to index, bytes to identify.
    audio_s
        Seconds of audio that were heard.
    failures
        Files that gave nothing.
    """

    done: int
    total: int
    share: float
    audio_s: float
    failures: int


Outcomes: TypeAlias = Generator[Done[Item, Result] | Died[Item], None, None]


class Executor(Protocol):
    """What runs tasks: picklable functions of one picklable item each, that may run twice."""

    @property
    def workers(self) -> int:
        """How many tasks can run side by side now."""
        ...

    def must_see(self, paths: Sequence[str]) -> None:
        """Files and folders, local or URLs, that every process must see before it gets a task from now on."""
        ...

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """All results, in the order of the items, ahead of whatever `as_completed` has waiting."""
        ...

    def as_completed(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Outcomes[Item, Result]:
        """Outcomes as they come; items are drawn only as room for them comes free.

        An exception of a task is raised here. Closing the iterator cancels what has not finished.
        """
        ...


class Loop:
    """The plain loop: one task after the other, in this process."""

    workers = 1

    def must_see(self, paths: Sequence[str]) -> None:
        """Nothing to ask: what named the paths is this process."""

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """All results, in the order of the items."""
        return [task(item) for item in items]

    def as_completed(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Outcomes[Item, Result]:
        """Outcomes in the order of the items; a task that kills its process kills this one."""
        for item in items:
            yield Done(item, task(item))


def in_order(
    executor: Executor,
    task: Callable[[Item], Result],
    batches: Iterable[Item],
    halve: Callable[[Item], Sequence[Item]],
    seen: Callable[[Done[Item, Result] | Died[Item]], None] = lambda outcome: None,
) -> Iterator[Done[Item, Result] | Died[Item]]:
    """Outcomes of all batches in the order given, so that what is written does not depend on who was faster.

    Parameters
    ----------
    halve
        Cuts a batch whose process died in two, so that only the file that kills is lost in the end; a batch that it
        cannot cut comes back whole and is given up.
    seen
        Called with each outcome as it comes, out of order.
    """
    plan = list(batches)
    todo = deque(plan)
    suspects: deque[Item] = deque()
    outcomes: dict[int, Done[Item, Result] | Died[Item]] = {}
    head = 0

    def draw() -> Iterator[Item]:
        while todo and not suspects:
            yield todo.popleft()

    while todo or suspects:
        # A death also speaks against what only waited in the same process: what cannot be halved is tried once more,
        # alone, before it is given up.
        alone = bool(suspects)
        running = executor.as_completed(task, [suspects.popleft()] if alone else draw())
        with contextlib.closing(running):
            for outcome in running:
                if isinstance(outcome, Died) and not alone:
                    halves = halve(outcome.item)
                    if len(halves) < 2:
                        suspects.append(outcome.item)
                        continue
                    place = next(i for i in range(head, len(plan)) if plan[i] is outcome.item)
                    plan[place : place + 1] = halves
                    todo.extendleft(reversed(halves))
                    continue
                outcomes[id(outcome.item)] = outcome
                seen(outcome)
                while head < len(plan) and id(plan[head]) in outcomes:
                    yield outcomes.pop(id(plan[head]))
                    head += 1


def spare_pandas() -> None:
    """Keep pyarrow from importing pandas in a process that is songprint's alone: 0.3 s of CPU, for nothing.

    pyarrow imports pandas at the first array that it makes, to see whether it was given a column of pandas. Who asks
    it for a DataFrame later gets one: then it is imported after all.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(_NoPandas)


class _NoPandas(MetaPathFinder):
    """Finds no pandas, wherever it is."""

    @staticmethod
    def find_spec(fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def patience_s(size_bytes: int, limit_s: float | None) -> float:
    """Seconds after which a file of this size is not waited for any more, whether it has a limit of its own or not."""
    return PATIENCE_S + size_bytes / SLOWEST_BYTES_PER_S if limit_s is None else limit_s + GRACE_S


class _Hand:
    """A thread that does one call after the other, until nobody knows it any more."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._calls,), daemon=True)
        self._thread.start()

    def __del__(self) -> None:
        self._calls.put(None)

    def give(self, call: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        self._calls.put((call, future))
        return future

    def interrupt(self) -> None:
        """Raise `SystemExit` in the call, once it runs Python."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(SystemExit)
        )


def _work(calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]) -> None:
    while (given := calls.get()) is not None:
        call, future = given
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        finally:
            del given, call, future  # an error knows this frame, which must not know the error


# A new thread for each call would come by another of malloc's arenas each time, and fill them all.
_own = threading.local()


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """What ``call`` returns or raises, if it does so in time.

    It runs in another thread: a read from a file server that is gone, or a loop in C, cannot be interrupted, but need
    not be waited for. The thread is left behind then, and ends when it ever comes back to Python.

    Raises
    ------
    TimeoutError
        When the time is over.
    """
    hand: _Hand = _own.__dict__.pop("hand", None) or _Hand()
    future = hand.give(call)
    try:
        if not wait([future], min(seconds, threading.TIMEOUT_MAX)).done:
            hand.interrupt()
            raise TimeoutError(f"left after {seconds:,.0f} s without an answer; its file system or its decoder hangs")
        _own.hand = hand
        return future.result()
    except KeyboardInterrupt:
        hand.interrupt()
        wait([future], TIDY_S)
        raise
    finally:
        del future
