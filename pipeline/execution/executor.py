"""Where tasks run: the plain loop, which defines the meaning that every other executor keeps.

`index` and `identify` are written against these few verbs and never know which executor they were given;
`pipeline.execution.dask_executor` has the one that spreads tasks over Dask workers.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


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
