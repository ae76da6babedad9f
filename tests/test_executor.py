"""Executors: the plain loop defines what is meant, the Dask one keeps it when processes die."""

import os
import time
from collections.abc import Iterator

import pytest

from pipeline import cluster
from pipeline.cluster import Cluster
from pipeline.executor import Died, Done, Loop, in_order


def square(number: int) -> int:
    return number * number


def slow_when_zero(number: int) -> int:
    time.sleep(0.3 if number == 0 else 0.0)
    return number


def fail(number: int) -> int:
    raise ValueError(f"no {number}")


def total(numbers: tuple[int, ...]) -> int:
    if 13 in numbers:
        os._exit(1)
    return sum(numbers)


def halve(numbers: tuple[int, ...]) -> list[tuple[int, ...]]:
    middle = len(numbers) // 2
    return [part for part in (numbers[:middle], numbers[middle:]) if part]


@pytest.fixture(scope="module")
def workers() -> Iterator[Cluster]:
    with cluster.local(2) as opened:
        yield opened


def test_the_cluster_maps_as_the_loop_does(workers):
    assert workers.map(square, range(50)) == Loop().map(square, range(50)) == [n * n for n in range(50)]


def test_the_cluster_completes_what_the_loop_completes(workers):
    by_cluster = sorted((done.item, done.result) for done in workers.as_completed(square, range(50)))
    assert by_cluster == [(done.item, done.result) for done in Loop().as_completed(square, range(50))]


def test_outcomes_keep_the_order_of_the_plan_when_a_later_task_is_faster(workers):
    seen = []
    outcomes = list(in_order(workers, slow_when_zero, range(6), lambda item: [item], seen.append))
    assert [outcome.item for outcome in outcomes] == list(range(6))
    assert seen[0].item != 0


@pytest.mark.parametrize("name", ["loop", "cluster"])
def test_an_exception_of_a_task_reaches_the_caller(name, workers):
    executor = Loop() if name == "loop" else workers
    with pytest.raises(ValueError, match="no 1"):
        list(executor.as_completed(fail, [1]))


def test_items_are_drawn_only_as_room_for_them_comes_free(workers):
    drawn = []

    def items() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    running = workers.as_completed(square, items())
    next(running)
    assert len(drawn) <= 2 * cluster.IN_FLIGHT_PER_WORKER + 1
    running.close()


def test_a_task_that_kills_its_process_is_cut_down_to_the_item_that_kills(workers):
    batches = [(1, 2, 3, 4), (11, 12, 13, 14), (5, 6)]
    outcomes = list(in_order(workers, total, batches, halve))
    assert [outcome.item for outcome in outcomes if isinstance(outcome, Died)] == [(13,)]
    # What shared a process with the one that kills may have been cut as well; nothing is lost, doubled or out of order.
    assert [n for outcome in outcomes for n in outcome.item] == [n for batch in batches for n in batch]
    done = [outcome for outcome in outcomes if isinstance(outcome, Done)]
    assert all(outcome.result == sum(outcome.item) for outcome in done)
