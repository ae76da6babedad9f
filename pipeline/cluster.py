"""Tasks on Dask workers: the only room that imports Dask, and it only wires.

`Cluster` has the verbs of `pipeline.executor.Loop`. A worker that dies takes nothing along but the tasks it ran: Dask
runs them again elsewhere, and gives up on a task that was there at several deaths; that one comes back as `Died`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import dask
import distributed
from distributed import Client, LocalCluster
from distributed.scheduler import KilledWorker

from pipeline.errors import ClusterError
from pipeline.executor import Died, Done, Outcomes

Item = TypeVar("Item")
Result = TypeVar("Result")

# One task runs, one waits with its inputs there: a worker never idles, and little is lost with a scheduler.
IN_FLIGHT_PER_WORKER = 2
CONNECT_S = 20

LOCAL = {
    # A task is tried again alone before it is blamed, so two deaths are enough to doubt it.
    "distributed.scheduler.allowed-failures": 1,
    # Without the MALLOC_TRIM_THRESHOLD_ that Dask adds: it makes malloc return each array's memory to the kernel at
    # once, and fetching it again was 40 % of an index run.
    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
}


class Cluster:
    """Executor over the workers of a Dask scheduler."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def workers(self) -> int:
        """Threads of all workers that are there now."""
        return max(1, int(sum(self._client.nthreads().values())))

    @property
    def dashboard(self) -> str:
        """Address of Dask's page, empty when it serves none."""
        return str(self._client.dashboard_link or "")

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """All results, in the order of the items, ahead of whatever `as_completed` has waiting."""
        with _lost_scheduler_is_an_error():
            futures = [self._client.submit(task, item, pure=False, priority=1) for item in items]
            results: list[Result] = self._client.gather(futures)
            return results

    def as_completed(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Outcomes[Item, Result]:
        """Outcomes as they come; items are drawn only as room for them comes free."""
        queue = iter(items)
        running: dict[Any, Item] = {}
        completed = distributed.as_completed(loop=self._client.loop)

        def fill() -> None:
            room = IN_FLIGHT_PER_WORKER * self.workers - len(running)
            for _, item in zip(range(room), queue, strict=False):
                future = self._client.submit(task, item, pure=False)
                running[future] = item
                completed.add(future)

        try:
            with _lost_scheduler_is_an_error():
                fill()
                for future in completed:
                    item = running.pop(future)
                    try:
                        outcome: Done[Item, Result] | Died[Item] = Done(item, future.result())
                    except KilledWorker:
                        outcome = Died(item, "the worker process died each time that it ran this")
                    future.release()
                    fill()
                    yield outcome
        finally:
            if running:
                with contextlib.suppress(Exception):
                    self._client.cancel(list(running), force=True)


@contextlib.contextmanager
def local(workers: int, report: str | None = None) -> Iterator[Cluster]:
    """Open a cluster of ``workers`` processes of one thread each on this machine.

    Parameters
    ----------
    workers
        Processes, at least 1.
    report
        Where Dask's performance report goes, an HTML file; ``None`` for none.
    """
    with (
        dask.config.set(LOCAL),
        # Not ":0", which listens on every interface: anyone on the network could watch.
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as processes,
        Client(processes) as client,
        _report(report),
    ):
        yield Cluster(client)


@contextlib.contextmanager
def connect(address: str, report: str | None = None) -> Iterator[Cluster]:
    """Use the scheduler at ``address``, for instance ``tcp://10.0.0.5:8786``, and the workers that it has.

    Raises
    ------
    ClusterError
        If nothing answers there, or no worker has joined.
    """
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"{address}: no Dask scheduler answers ({error}); start one with `dask scheduler`"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError as error:
            raise ClusterError(
                f"{address}: the scheduler has no workers; start some with `dask worker {address}`"
            ) from error
        with _report(report, client):
            yield Cluster(client)


def _report(path: str | None, client: Client | None = None) -> contextlib.AbstractContextManager[Any]:
    if path is None:
        return contextlib.nullcontext()
    return distributed.performance_report(filename=path) if client is None else _report_of(path, client)


@contextlib.contextmanager
def _report_of(path: str, client: Client) -> Iterator[None]:
    with client.as_current(), distributed.performance_report(filename=path):
        yield


@contextlib.contextmanager
def _lost_scheduler_is_an_error() -> Iterator[None]:
    """Say in one sentence that the scheduler went away; what was committed is in the store."""
    try:
        yield
    except (distributed.CancelledError, distributed.comm.CommClosedError, distributed.core.RPCClosed) as error:
        raise ClusterError(
            "the Dask scheduler went away during the job; what was finished is in the store: "
            "run the same command again with a scheduler that is there"
        ) from error
