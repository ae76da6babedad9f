"""Executors: the plain loop defines what is meant, the Dask one keeps it when processes die."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import dask
import pyarrow as pa
import pytest

from pipeline.errors import ClusterError
from pipeline.execution import dask_executor
from pipeline.execution.dask_executor import DaskExecutor
from pipeline.execution.executor import Died, Done, SerialExecutor, in_order
from pipeline.execution.timeouts import timeout_s, within


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
def workers() -> Iterator[DaskExecutor]:
    with dask_executor.local(2) as opened:
        yield opened


def test_the_cluster_maps_as_the_loop_does(workers):
    assert workers.map(square, range(50)) == SerialExecutor().map(square, range(50)) == [n * n for n in range(50)]


def test_the_cluster_completes_what_the_loop_completes(workers):
    by_cluster = sorted((done.item, done.result) for done in workers.as_completed(square, range(50)))
    assert by_cluster == [(done.item, done.result) for done in SerialExecutor().as_completed(square, range(50))]


def test_outcomes_keep_the_order_of_the_plan_when_a_later_task_is_faster(workers):
    seen = []
    outcomes = list(in_order(workers, slow_when_zero, range(6), lambda item: [item], seen.append))
    assert [outcome.item for outcome in outcomes] == list(range(6))
    assert seen[0].item != 0


@pytest.mark.parametrize("name", ["loop", "cluster"])
def test_an_exception_of_a_task_reaches_the_caller(name, workers):
    executor = SerialExecutor() if name == "loop" else workers
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
    assert len(drawn) <= 2 * dask_executor.IN_FLIGHT_PER_WORKER + 1
    running.close()


def test_a_task_that_kills_its_process_is_cut_down_to_the_item_that_kills(workers):
    batches = [(1, 2, 3, 4), (11, 12, 13, 14), (5, 6)]
    outcomes = list(in_order(workers, total, batches, halve))
    assert [outcome.item for outcome in outcomes if isinstance(outcome, Died)] == [(13,)]
    # What shared a process with the one that kills may have been cut as well; nothing is lost, doubled or out of order.
    assert [n for outcome in outcomes for n in outcome.item] == [n for batch in batches for n in batch]
    done = [outcome for outcome in outcomes if isinstance(outcome, Done)]
    assert all(outcome.result == sum(outcome.item) for outcome in done)


def test_a_worker_that_is_slow_to_start_again_is_not_given_up():
    at_once = {"distributed.deploy.lost-worker-timeout": "0s"}  # Dask's 15 s are not enough on a busy machine
    with dask.config.set(at_once), dask_executor.local(1) as worker:
        (outcome,) = worker.as_completed(total, [(13,)])
        assert isinstance(outcome, Died)
        assert worker.map(square, [3]) == [9]


def fail_with(error: Exception) -> None:
    raise error


def test_a_call_in_time_gives_what_it_returns_and_raises_what_it_raises():
    assert within(60, lambda: square(3)) == 9
    with pytest.raises(ValueError, match="no 1"):
        within(60, lambda: fail(1))
    with pytest.raises(TimeoutError, match="of its own"):
        within(60, lambda: fail_with(TimeoutError("of its own")))


def test_a_file_is_waited_for_somewhat_longer_than_its_limit_and_without_one_by_its_size():
    assert timeout_s(10**9, 60.0) == 90.0
    assert timeout_s(0, None) == 3600.0
    assert timeout_s(10**9, None) == 3600.0 + 100_000.0


def test_a_read_that_never_returns_is_left_behind_and_ends_when_it_comes_back():
    empty, full = os.pipe()
    inside: list[threading.Thread] = []
    after: list[bytes] = []

    def read() -> None:
        inside.append(threading.current_thread())
        after.append(os.read(empty, 1))
        after.append(b"goes on")

    with pytest.raises(TimeoutError, match="hangs"):
        within(0.2, read)
    assert inside[0].is_alive()
    os.write(full, b"!")
    inside[0].join(60)
    assert not inside[0].is_alive()
    assert b"goes on" not in after
    os.close(empty)
    os.close(full)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_call_that_is_waited_for():
    inside: list[threading.Thread] = []

    def interrupted() -> None:
        inside.append(threading.current_thread())
        time.sleep(0.5)  # until it is waited for
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        within(60, interrupted)
    inside[0].join(60)
    assert not inside[0].is_alive()


def test_calls_in_time_share_a_thread_which_ends_with_the_caller():
    inside: list[threading.Thread] = []

    def call_three_times() -> None:
        inside.extend(within(60, threading.current_thread) for _ in range(3))

    caller = threading.Thread(target=call_three_times)
    caller.start()
    caller.join(60)
    assert inside[0] is inside[1] is inside[2] is not caller
    inside[0].join(60)
    assert not inside[0].is_alive()


def wait_for_a_file_server(path: str) -> bool:
    os.read(os.pipe()[0], 1)
    return True


def lose_the_file_server(number: int) -> int:
    dask_executor._is_visible = wait_for_a_file_server
    dask_executor.VISIBILITY_TIMEOUT_S = 0.2
    return number


def test_a_worker_whose_file_system_hangs_is_named_with_the_path():
    with dask_executor.local(1) as worker:
        worker.require_visible(["/"])
        worker.map(lose_the_file_server, [1])
        with pytest.raises(ClusterError, match=r"no worker can do this job: worker .* for /; its file system hangs"):
            worker.map(square, [1])


WITHOUT_PANDAS = """
import sys
from pipeline.execution.process import block_pandas_import
block_pandas_import()
import pyarrow
table = pyarrow.table({"a": [1.0, None]})
assert "pandas" not in sys.modules
import pandas
assert pyarrow.array(pandas.Series([1.0, None])).null_count == 0
assert table.to_pandas()["a"].isna().tolist() == [False, True]
assert pyarrow.Table.from_pandas(table.to_pandas()).equals(table)
assert pyarrow.array(pandas.Series([1.0, None])).null_count == 1
"""


def test_pandas_is_not_imported_until_it_is_used():
    subprocess.run([sys.executable, "-c", WITHOUT_PANDAS], check=True)


def has_pandas(number: int) -> bool:
    pa.array([number])
    return "pandas" in sys.modules


def test_a_worker_of_this_process_does_not_import_pandas():
    with dask_executor.local(1) as worker:
        assert worker.map(has_pandas, [1]) == [False]


def test_a_worker_that_cannot_be_ended_does_not_take_the_results_along(monkeypatch, caplog):
    end = dask_executor.LocalCluster.close

    def time_out(self: dask_executor.LocalCluster) -> None:
        end(self)
        raise TimeoutError

    monkeypatch.setattr(dask_executor.LocalCluster, "close", time_out)
    with dask_executor.local(1) as worker:
        squares = worker.map(square, [3])
    assert squares == [9]
    assert "cannot be ended" in caplog.text


def test_a_performance_report_is_written_and_without_bokeh_missed_before_the_work(tmp_path, monkeypatch):
    with dask_executor.local(1, str(tmp_path / "report.html")) as opened:
        assert opened.map(square, [3]) == [9]
    written = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "bokeh" in written
    assert not re.search(r"<script[^>]*\ssrc=", written)  # it works offline
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ClusterError, match=r"pip install 'songprint\[dashboard\]'"), dask_executor.local(1, "x.html"):
        raise AssertionError
