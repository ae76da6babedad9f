"""Tasks on Dask workers: the only module that imports Dask, and it does no arithmetic.

`DaskExecutor` has the methods of `pipeline.execution.executor.SerialExecutor`. When a worker dies, Dask runs its tasks
again on another. A task that ran at several deaths comes back as `Died`. A worker that cannot do this job (another
version of songprint, files that it cannot see) reports so at its first task, which goes to another worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import itertools
import logging
import os
import platform
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import dask
import distributed
from distributed import Client, LocalCluster
from distributed.protocol import pickle
from distributed.scheduler import KilledWorker

from pipeline.errors import ClusterError, ParameterError
from pipeline.execution.executor import Died, Done, MapTasks, Outcomes
from pipeline.execution.process import block_pandas_import, interrupts_handled_here, keep_memory
from pipeline.execution.timeouts import within
from pipeline.paths import filesystem, is_url
from pipeline.version import version_with_digest

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

# One task runs and one waits on the worker: it never idles, and few tasks are lost with a scheduler.
IN_FLIGHT_PER_WORKER = 2
CONNECT_S = 6
WORKERS_S = 20
# A busy scheduler answers in milliseconds; one that is silent for so long is taken for lost.
SCHEDULER_TIMEOUT_S = 20
# A file server that needs longer to find a file hangs.
VISIBILITY_TIMEOUT_S = 120
# How often to check for workers that joined or paused while no task ends, and how often to warn.
POLL_S = 5
WARN_EVERY_S = 60
LOCAL_CONFIG = {
    # `in_order` tries a task again alone before it fails, so two deaths are enough to suspect it.
    "distributed.scheduler.allowed-failures": 1,
    # Dask gives a worker up that is away 15 s after its process died, also if that died again meanwhile. On a busy
    # machine none was left so, and the job waited for ever.
    "distributed.deploy.lost-worker-timeout": "1 day",
}
# Dask's profiler samples every worker's stack 100 times a second and keeps the samples for 1,000 s: 2 to 5 MB for each
# minute of work. Only its performance report shows them.
NO_PROFILE = {"distributed.worker.profile.enabled": False}
_ADDRESS = re.compile(r"(?:[a-z]+://)?(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5})")
MAX_PORT = 65535
DIED = "the worker process died each time that it ran this; out of memory, or a crash in a decoder?"


class DaskExecutor:
    """Executor over the workers of a Dask scheduler."""

    def __init__(self, client: Client, own: bool = False) -> None:
        self._client = client
        self._own = own  # the workers run this process's tasks and nothing else
        self._required_paths: tuple[str, ...] = ()
        self._unfit: set[str] = set()
        self._warned = float("-inf")

    @property
    def workers(self) -> int:
        """Threads of all workers that are there now."""
        return max(1, sum(int(worker["nthreads"]) for worker in self._known_workers().values()))

    @property
    def client(self) -> Client:
        """Dask's client, for other work on the same workers."""
        return self._client

    @property
    def dashboard(self) -> str:
        """Address of Dask's page, empty when it serves none."""
        return str(self._client.dashboard_link or "")

    def require_visible(self, paths: Sequence[str]) -> None:
        """Give tasks from now on only to workers that can see these files and folders, local or URLs."""
        self._required_paths = tuple(paths)
        self._unfit.clear()

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """All results, in the order of the items, ahead of whatever `as_completed` has waiting."""
        return self._map(task, items)

    @property
    def map_beside(self) -> Callable[[], MapTasks[Any, Any]] | None:
        """A map over further tasks for a running one; ``None`` for workers on this machine."""
        return None if self._own else functools.partial(_map_beside, self._required_paths)

    def _map(self, task: Callable[[Item], Result], items: Iterable[Item], *, by_place: bool = False) -> list[Result]:
        """As `map`; ``by_place``: the same workers for the tasks at the same place each time, while they are there."""
        numbered = [(task, place, item) for place, item in enumerate(items)]
        places = len(numbered) if by_place else 0
        results: dict[int, Result] = {}
        for outcome in self._outcomes(_numbered, numbered, priority=1, places=places):
            if isinstance(outcome, Died):
                raise TaskDied(f"{getattr(task, '__name__', task)}: {outcome.reason}")
            place, result = outcome.result
            results[place] = result
        return [results[place] for place in range(len(results))]

    def as_completed(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Outcomes[Item, Result]:
        """Outcomes as they come; an item is taken only when a worker can soon run it."""
        return self._outcomes(task, items, priority=0)

    def _outcomes(
        self, task: Callable[[Item], Result], items: Iterable[Item], priority: int, places: int = 0
    ) -> Outcomes[Item, Result]:
        waiting = iter(items)
        refused: deque[Item] = deque()
        running: dict[Any, Item] = {}
        try:
            while True:
                with _scheduler_errors_translated():
                    free = IN_FLIGHT_PER_WORKER * self.workers - len(running)
                again = [refused.popleft() for _ in range(min(free, len(refused)))]
                new = list(itertools.islice(waiting, max(free - len(again), 0)))
                with _scheduler_errors_translated():
                    for item in [*again, *new]:
                        running[self._submit(task, item, priority, places)] = item
                    finished = self._finished(running)
                if not running:
                    return
                for future in finished:
                    item = running.pop(future)
                    try:
                        result: Result = _result(future)
                    except KilledWorker as error:
                        worker = error.last_worker
                        log.warning(
                            "worker %s (%s) died, and so did those before it that ran the same task",
                            worker.name, worker.address,
                            extra={"fields": {"worker": str(worker.name), "address": worker.address, "reason": DIED}},
                        )  # fmt: skip
                        yield Died(item, DIED)
                    except TaskDied:  # one that it ran beside itself
                        yield Died(item, DIED)
                    except UnfitWorker as error:
                        self._exclude(error)
                        refused.append(item)
                    else:
                        yield Done(item, result)
        finally:
            if running:
                with contextlib.suppress(Exception):
                    self._client.cancel(list(running), force=True)

    def _submit(self, task: Callable[[Item], Result], item: Item, priority: int, places: int) -> Any:
        where: dict[str, Any] = {}
        if self._unfit or places:
            workers = sorted(self._known_workers().keys() - self._unfit)
            if places and workers:
                place: int = item[1]  # type: ignore[index]
                workers = workers[place % len(workers) :: places]
            where = {"workers": workers, "allow_other_workers": True}
        payload = pickle.dumps((task, item))
        job = (version_with_digest(), self._required_paths, self._own, payload)
        return self._client.submit(_run, *job, pure=False, priority=priority, **where)

    def _finished(self, running: Mapping[Any, Item]) -> Sequence[Any]:
        """Futures that are done; none when it is time to check whether workers have joined."""
        if not running:
            return ()
        try:
            with self._client.as_current():
                finished = distributed.wait(list(running), timeout=POLL_S, return_when="FIRST_COMPLETED")
                return list(finished.done)
        except TimeoutError:
            self._warn_if_stuck()
            return ()

    def _exclude(self, error: UnfitWorker) -> None:
        """Give no more tasks to a worker that cannot do them."""
        known = error.address in self._unfit
        self._unfit.add(error.address)
        if not self._known_workers().keys() - self._unfit:
            raise ClusterError(f"no worker can do this job: {error}")
        if not known:
            log.warning(
                "%s; its tasks go to the others", error,
                extra={"fields": {"worker": error.name, "address": error.address, "reason": error.reason}},
            )  # fmt: skip

    def _warn_if_stuck(self) -> None:
        """Warn when no worker is left, or some are paused."""
        workers = self._known_workers()
        paused = [worker["name"] for worker in workers.values() if worker["status"] == "paused"]
        if (workers and not paused) or time.monotonic() - self._warned < WARN_EVERY_S:
            return
        self._warned = time.monotonic()
        if not workers:
            log.warning("%s has no workers any more; the job waits for one to join", self._client.scheduler.address)
        else:
            log.warning(
                "%d of %d workers are paused, their memory nearly full: %s; give them more",
                len(paused), len(workers), ", ".join(map(str, paused)),
            )  # fmt: skip

    def _known_workers(self) -> Mapping[str, Mapping[str, Any]]:
        """What the scheduler knows of each worker, by address."""
        if self._client.status != "running":  # it would reconnect to a scheduler that does not know the job
            raise distributed.CancelledError
        workers: Mapping[str, Mapping[str, Any]] = self._client.sync(
            self._client.scheduler.identity, callback_timeout=SCHEDULER_TIMEOUT_S
        )["workers"]
        return workers


def _result(future: Any) -> Any:
    with _scheduler_errors_translated():
        error = future.exception()
        if error is None:
            result = pickle.loads(future.result())
            future.release()
            return result
        if isinstance(error, distributed.CancelledError):
            raise error
    if isinstance(error, ImportError):
        raise ClusterError(
            f"a worker cannot load songprint ({error}); install {version_with_digest()} on all"
        ) from error
    raise error


class TaskDied(ClusterError):
    """The process of a task died each time that it was tried."""


class UnfitWorker(Exception):
    """A worker cannot do this job, and why; another may."""

    def __init__(self, address: str, name: str, reason: str) -> None:
        super().__init__(address, name, reason)
        self.address = address
        self.name = name
        self.reason = reason
        self._text = f"worker {name} ({address}) {reason}"

    def __str__(self) -> str:
        return self._text


@contextlib.contextmanager
def local(workers: int, report: str | None = None) -> Iterator[DaskExecutor]:
    """Open a cluster of ``workers`` processes of one thread each on this machine.

    Parameters
    ----------
    workers
        Processes, at least 1.
    report
        Where Dask's performance report goes, an HTML file; ``None`` for none.
    """
    profile = NO_PROFILE if report is None else {}
    with contextlib.ExitStack() as stack:
        with dask.config.set(LOCAL_CONFIG | profile), interrupts_handled_here():
            processes = _start_workers(workers)
            stack.enter_context(_closing(processes))  # an interrupt comes at the end of this block
        stack.enter_context(dask.config.set(LOCAL_CONFIG))
        client = stack.enter_context(Client(processes))
        stack.enter_context(_performance_report(report, client))
        try:
            yield DaskExecutor(client, own=True)
        except BaseException:
            _kill(processes)
            raise


def _start_workers(workers: int) -> LocalCluster:
    try:
        # Not ":0", which is every interface: anyone on the network could watch.
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.INFO if log.isEnabledFor(logging.DEBUG) else logging.CRITICAL,
        )
    except RuntimeError as error:
        raise ClusterError(
            f"the worker processes did not start ({error}); a script must open its cluster below "
            "`if __name__ == '__main__':`, since each of them imports it"
        ) from error


def _kill(processes: LocalCluster) -> None:
    """End the workers at once: Dask would give each running task 4 s to end, for nothing."""
    for nanny in processes.workers.values():
        nanny.close_gracefully()  # else it starts the worker again
        if nanny.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(nanny.pid, getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has one way to end a process


@contextlib.contextmanager
def _closing(processes: LocalCluster) -> Iterator[None]:
    """Start the workers, and end them; warn when one cannot be ended."""
    processes.__enter__()
    try:
        yield
    except BaseException:
        _kill(processes)
        raise
    finally:
        try:
            processes.close()
        except TimeoutError:
            log.warning("a worker process cannot be ended; does the file system hang that it reads from?")


@contextlib.contextmanager
def connect(address: str, report: str | None = None) -> Iterator[DaskExecutor]:
    """Use the scheduler at ``address``, for instance ``tcp://10.0.0.5:8786``, and the workers that it has.

    Raises
    ------
    ClusterError
        If nothing answers there, no worker has joined, or scheduler, workers and this process differ in their versions.
    ParameterError
        If it is no address, or names a host that is not known.
    """
    _require_address(address)
    try:
        asyncio.run(_greet(address))
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        reason = str(error) or f"silent for {CONNECT_S} s"
        raise ClusterError(
            f"{address}: no Dask scheduler answers ({reason}); start one with `dask scheduler`"
        ) from error
    with client:
        executor = from_client(client)
        with _performance_report(report, client):
            yield executor


def from_client(client: object) -> DaskExecutor:
    """An executor over the workers of a client that is open already, and stays open.

    Raises
    ------
    ParameterError
        If it is no client, or an asynchronous one.
    ClusterError
        If no worker has joined, or scheduler, workers and this process differ in their versions.
    """
    if not isinstance(client, Client) or client.asynchronous:
        kind = "an asynchronous client" if isinstance(client, Client) else f"a {type(client).__name__}"
        raise ParameterError(
            f"executor: {kind}; give a distributed.Client, what pipeline.local_cluster(n) opens, or None"
        )
    address = client.scheduler.address
    try:
        client.wait_for_workers(1, timeout=WORKERS_S)
    except TimeoutError as error:
        raise ClusterError(
            f"{address}: the scheduler has no workers; start some with `dask worker {address}`"
        ) from error
    _check_versions(client)
    return DaskExecutor(client)


def _require_address(address: str) -> None:
    """Refuse at once what no Dask scheduler can have."""
    found = _ADDRESS.fullmatch(address)
    if found is None or not 1 <= int(found["port"]) <= MAX_PORT:
        raise ParameterError(f"{address}: not the address of a Dask scheduler; it looks like tcp://10.0.0.5:8786")
    try:
        socket.getaddrinfo(found["host"].strip("[]"), int(found["port"]))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParameterError(f"{address}: the host {found['host']} is not known: {reason}") from None


async def _greet(address: str) -> None:
    """Connect and hang up: `Client` would wait for ever where something else listens, and never answers."""
    security = distributed.Security().get_connection_args("client")
    comm = await asyncio.wait_for(distributed.comm.connect(address, timeout=CONNECT_S, **security), CONNECT_S)
    await comm.close()


def _performance_report(path: str | None, client: Client) -> contextlib.AbstractContextManager[Any]:
    """Dask's report of what is done inside; bokeh, which draws it, is missed before the work rather than after it."""
    if path is not None and not client.run_on_scheduler(_has_bokeh):
        raise ClusterError(
            "the scheduler has no package bokeh, which draws a performance report: pip install 'songprint[dashboard]'"
        )
    return contextlib.nullcontext() if path is None else _write_report(path, client)


def _has_bokeh() -> bool:
    return importlib.util.find_spec("bokeh") is not None


@contextlib.contextmanager
def _write_report(path: str, client: Client) -> Iterator[None]:
    with client.as_current(), distributed.performance_report(filename=path, mode="inline"):
        yield


@contextlib.contextmanager
def _scheduler_errors_translated() -> Iterator[None]:
    """Turn the errors of a lost scheduler into one of ours; what was committed is in the store.

    Only calls of Dask belong inside: every `OSError` is taken for one of the connection. Which one Dask raises depends
    on the moment: a closed or a refused connection, or a timeout.
    """
    try:
        yield
    except (OSError, distributed.CancelledError, distributed.core.RPCClosed) as error:
        raise ClusterError(
            "the Dask scheduler went away during the job; what was finished is in the store: "
            "run the same command again with a scheduler that is there"
        ) from error


# What must be the same everywhere.


def _versions() -> dict[str, str]:
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "distributed": distributed.__version__, "songprint": version_with_digest()}


def _check_versions(client: Client) -> None:
    """Compare this process with the scheduler and its workers; later workers are checked at their first task."""
    ours = _versions()
    found = client.run(_versions, on_error="return")
    workers = client.sync(client.scheduler.identity)["workers"]  # a worker may join or leave meanwhile
    names = {address: workers[address]["name"] for address in found if address in workers}
    theirs = {f"worker {names.get(address, '?')} ({address})": found[address] for address in found}
    try:  # Dask's scheduler unpickles tasks as well
        theirs["the scheduler"] = client.run_on_scheduler(_versions)
    except Exception as error:
        theirs["the scheduler"] = error
    for who, versions in theirs.items():
        if isinstance(versions, Exception):
            raise ClusterError(f"{who} cannot load songprint ({versions}); install {ours['songprint']} there")
        for package, version in ours.items():
            if versions[package] != version:
                raise ClusterError(
                    f"{who} has {package} {versions[package]}, this process {version}; install the same on both sides"
                )


# On a worker.


def _run(version: str, required_paths: tuple[str, ...], own: bool, payload: bytes) -> bytes:
    """Run a task on a worker, after a check that this process can do it.

    The task comes as bytes, so that another version of songprint can refuse it before it unpickles it.
    """
    if version_with_digest() != version:
        raise _unfit(f"has songprint {version_with_digest()}, the job needs {version}")
    for path in required_paths:
        try:
            visible = within(VISIBILITY_TIMEOUT_S, functools.partial(_is_visible, path))
        except TimeoutError:
            raise _unfit(f"waited {VISIBILITY_TIMEOUT_S} s for {path}; its file system hangs") from None
        if not visible:
            raise _unfit(f"cannot see {path}; mount it there under the same path")
    keep_memory()
    if own:
        block_pandas_import()
    task, item = pickle.loads(payload)
    result: bytes = pickle.dumps(task(item))
    return result


_client_lock = threading.Lock()


def _map_beside(required_paths: tuple[str, ...]) -> MapTasks[Any, Any]:
    """What `DaskExecutor.map_beside` stands for, called on a worker.

    The task's thread no longer counts as one of the worker's from now on, else tasks that wait for others would keep
    those from running.
    """
    distributed.secede()
    with _client_lock:  # else a second task may get the worker's client before it is connected
        client = distributed.get_client()
    executor = DaskExecutor(client)
    executor.require_visible(required_paths)
    return functools.partial(executor._map, by_place=True)


def _numbered(call: tuple[Callable[[Item], Result], int, Item]) -> tuple[int, Result]:
    task, place, item = call
    return place, task(item)


def _unfit(reason: str) -> UnfitWorker:
    worker = distributed.get_worker()
    return UnfitWorker(worker.address, str(worker.name), reason)


def _is_visible(path: str) -> bool:
    """Whether a file exists, or a folder that is not empty: where a mount is missing, an empty folder is left."""
    try:
        if is_url(path):
            files, name = filesystem(path)
            return bool(files.exists(name))
        if os.path.isfile(path):
            return True
        with os.scandir(path) as found:
            return any(found)
    except OSError:
        return False
