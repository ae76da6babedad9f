"""Where tasks run: the `Executor` protocol, and the plain loop that defines its meaning.

`index` and `identify` use these few methods and do not know which executor they were given.
`pipeline.execution.dask_executor` has the one that runs tasks on Dask workers.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Done(Generic[Item, Result]):
    """A task that returned."""

    item: Item
    result: Result


@dataclass(frozen=True, slots=True)
class Died(Generic[Item]):
    """A task whose process died each time that the executor tried it."""

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
        Seconds of audio that were decoded.
    failures
        Files that gave nothing.
    """

    done: int
    total: int
    share: float
    audio_s: float
    failures: int


Outcomes: TypeAlias = Generator[Done[Item, Result] | Died[Item], None, None]


MapTasks: TypeAlias = Callable[[Callable[[Item], Result], Sequence[Item]], list[Result]]
"""Runs a task for each item, and gives all results in the order of the items."""


class Executor(Protocol):
    """What runs tasks: picklable functions of one picklable item each, that may run twice."""

    @property
    def workers(self) -> int:
        """How many tasks can run side by side now."""
        ...

    def require_visible(self, paths: Sequence[str]) -> None:
        """Give tasks from now on only to processes that can see these files and folders, local or URLs."""
        ...

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """All results, in the order of the items, ahead of whatever `as_completed` has waiting."""
        ...

    @property
    def map_beside(self) -> Callable[[], MapTasks[Any, Any]] | None:
        """What a running task calls, first of all, for a map over further tasks; it may be pickled.

        Tasks at the same place of a map run on the same workers each time, while these are there, which so need not
        have in memory what the others read. ``None`` where all tasks run on one machine: they share its memory.
        """
        ...

    def as_completed(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Outcomes[Item, Result]:
        """Outcomes as they come; an item is taken from ``items`` only when a worker can soon run it.

        An exception of a task is raised here. Closing the iterator cancels what has not finished.
        """
        ...


class SerialExecutor:
    """The plain loop: one task after the other, in this process."""

    workers = 1
    map_beside = None

    def require_visible(self, paths: Sequence[str]) -> None:
        """Do nothing: tasks run in the process that was given the paths."""

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
    on_outcome: Callable[[Done[Item, Result] | Died[Item]], None] = lambda outcome: None,
) -> Iterator[Done[Item, Result] | Died[Item]]:
    """Outcomes of all batches in the order given, so that what is written does not depend on which was faster.

    Parameters
    ----------
    halve
        Cuts a batch whose process died in two, so that in the end only the file that kills has failed. A batch that
        it cannot cut is returned as it is, and fails.
    on_outcome
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
        # When a process dies, all of its tasks are suspected, also those that only waited. So a batch that cannot be
        # halved is tried once more, alone, before it fails.
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
                on_outcome(outcome)
                while head < len(plan) and id(plan[head]) in outcomes:
                    yield outcomes.pop(id(plan[head]))
                    head += 1
