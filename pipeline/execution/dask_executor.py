"""Tasks on Dask workers: the only module that imports Dask, and it only wires.

`Cluster` has the verbs of `pipeline.execution.executor.Loop`. A worker that dies loses only the tasks it ran: Dask
runs them again elsewhere, and gives up on a task that was there at several deaths; that one comes back as `Died`. A
worker that cannot work for this job (another version, no sight of the files) says so at its first task, which goes to
another one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import itertools
import logging
import os
import platform
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import dask
import distributed
from distributed import Client, LocalCluster
from distributed.protocol import pickle
from distributed.scheduler import KilledWorker

from pipeline.errors import ClusterError
from pipeline.execution.executor import Died, Done, Outcomes
from pipeline.execution.process import block_pandas_import, interrupts_handled_here, keep_memory
from pipeline.execution.timeouts import within
from pipeline.paths import filesystem, is_url

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

# One task runs, one waits with its inputs there: a worker never idles, and little is lost with a scheduler.
IN_FLIGHT_PER_WORKER = 2
CONNECT_S = 20
# A scheduler that is busy answers in milliseconds; one that says nothing for so long is gone.
LOST_S = 20
# A file server that takes longer to say whether a file is there hangs.
LOOK_S = 120
# How often to look for workers that joined or paused while no task ends, and how often to complain.
LOOK_EVERY_S = 5
COMPLAIN_EVERY_S = 60
# A task is tried again alone before it is blamed, so two deaths are enough to doubt it.
LOCAL = {"distributed.scheduler.allowed-failures": 1}
# Dask looks at every worker's stack 100 times a second and keeps what it saw for 1,000 s: 2 to 5 MB for each minute of
# work. Only its report shows that.
NO_PROFILE = {"distributed.worker.profile.enabled": False}
DIED = "the worker process died each time that it ran this; out of memory, or a crash in a decoder?"


class Cluster:
    """Executor over the workers of a Dask scheduler."""

    def __init__(self, client: Client, own: bool = False) -> None:
        self._client = client
        self._own = own  # its workers do nothing but this process's tasks
        self._must_see: tuple[str, ...] = ()
        self._unfit: set[str] = set()
        self._complained = float("-inf")

    @property
    def workers(self) -> int:
        """Threads of all workers that are there now."""
        return max(1, sum(int(worker["nthreads"]) for worker in self._there().values()))

    @property
    def dashboard(self) -> str:
        """Address of Dask's page, empty when it serves none."""
        return str(self._client.dashboard_link or "")

    def must_see(self, paths: Sequence[str]) -> None:
        """Files and folders, local or URLs, that a worker has to see before it gets a task from now on."""
        self._must_see = tuple(paths)
        self._unfit.clear()

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """All results, in the order of the items, ahead of whatever `as_completed` has waiting."""
        results: dict[int, Result] = {}
        for outcome in self._outcomes(_numbered, [(task, place, item) for place, item in enumerate(items)], priority=1):
            if isinstance(outcome, Died):
                raise ClusterError(f"{getattr(task, '__name__', task)}: {outcome.reason}")
            place, result = outcome.result
            results[place] = result
        return [results[place] for place in range(len(results))]

    def as_completed(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Outcomes[Item, Result]:
        """Outcomes as they come; items are drawn only as room for them comes free."""
        return self._outcomes(task, items, priority=0)

    def _outcomes(self, task: Callable[[Item], Result], items: Iterable[Item], priority: int) -> Outcomes[Item, Result]:
        waiting = iter(items)
        refused: deque[Item] = deque()
        running: dict[Any, Item] = {}
        try:
            while True:
                with _lost_scheduler_is_an_error():
                    room = IN_FLIGHT_PER_WORKER * self.workers - len(running)
                    again = [refused.popleft() for _ in range(min(room, len(refused)))]
                    for item in [*again, *itertools.islice(waiting, max(room - len(again), 0))]:
                        running[self._submit(task, item, priority)] = item
                    finished = self._finished(running)
                if not running:
                    return
                for future in finished:
                    item = running.pop(future)
                    try:
                        result: Result = _result(future)
                    except KilledWorker:
                        yield Died(item, DIED)
                    except Unfit as error:
                        self._exclude(error)
                        refused.append(item)
                    else:
                        yield Done(item, result)
        finally:
            if running:
                with contextlib.suppress(Exception):
                    self._client.cancel(list(running), force=True)

    def _submit(self, task: Callable[[Item], Result], item: Item, priority: int) -> Any:
        where: dict[str, Any] = {}
        if self._unfit:
            where = {"workers": sorted(self._there().keys() - self._unfit), "allow_other_workers": True}
        payload = pickle.dumps((task, item))
        job = (songprint(), self._must_see, self._own, payload)
        return self._client.submit(_run, *job, pure=False, priority=priority, **where)

    def _finished(self, running: Mapping[Any, Item]) -> Sequence[Any]:
        """Futures that are done; none when it is time to look whether workers have joined."""
        if not running:
            return ()
        try:
            with self._client.as_current():
                finished = distributed.wait(list(running), timeout=LOOK_EVERY_S, return_when="FIRST_COMPLETED")
                return list(finished.done)
        except TimeoutError:
            self._complain()
            return ()

    def _exclude(self, error: Unfit) -> None:
        """Give no more tasks to a worker that cannot do them."""
        known = error.address in self._unfit
        self._unfit.add(error.address)
        if not self._there().keys() - self._unfit:
            raise ClusterError(f"no worker can do this job: {error}")
        if not known:
            log.warning("%s; its tasks go to the others", error)

    def _complain(self) -> None:
        """Say why nothing moves, if that is plain to see."""
        there = self._there()
        paused = [worker["name"] for worker in there.values() if worker["status"] == "paused"]
        if (there and not paused) or time.monotonic() - self._complained < COMPLAIN_EVERY_S:
            return
        self._complained = time.monotonic()
        if not there:
            log.warning("%s has no workers any more; the job waits for one to join", self._client.scheduler.address)
        else:
            log.warning(
                "%d of %d workers are paused, their memory nearly full: %s; give them more",
                len(paused), len(there), ", ".join(map(str, paused)),
            )  # fmt: skip

    def _there(self) -> Mapping[str, Mapping[str, Any]]:
        """What the scheduler knows of each worker, by address."""
        if self._client.status != "running":  # it tries to connect again, to a scheduler that has forgotten the job
            raise distributed.CancelledError
        workers: Mapping[str, Mapping[str, Any]] = self._client.sync(
            self._client.scheduler.identity, callback_timeout=LOST_S
        )["workers"]
        return workers


def _result(future: Any) -> Any:
    with _lost_scheduler_is_an_error():
        error = future.exception()
        if error is None:
            result = pickle.loads(future.result())
            future.release()
            return result
        if isinstance(error, distributed.CancelledError):
            raise error
    if isinstance(error, ImportError):
        raise ClusterError(f"a worker cannot load songprint ({error}); install {songprint()} on all") from error
    raise error


class Unfit(Exception):
    """A worker says that it cannot do this job, and why; another may."""

    def __init__(self, address: str, name: str, reason: str) -> None:
        super().__init__(address, name, reason)
        self.address = address
        self._text = f"worker {name} ({address}) {reason}"

    def __str__(self) -> str:
        return self._text


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
    profile = NO_PROFILE if report is None else {}
    with dask.config.set(LOCAL | profile), interrupts_handled_here():
        # Not ":0", which listens on every interface: anyone on the network could watch.
        processes = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.INFO if log.isEnabledFor(logging.DEBUG) else logging.CRITICAL,
        )
    with (
        dask.config.set(LOCAL),
        _ended(processes),
        Client(processes) as client,
        _report(report, client),
    ):
        try:
            yield Cluster(client, own=True)
        except BaseException:  # Dask would give each running task 4 s to end; nothing waits for it any more
            for nanny in processes.workers.values():
                nanny.close_gracefully()  # not to be started again
                if nanny.pid:
                    os.kill(nanny.pid, signal.SIGKILL)
            raise


@contextlib.contextmanager
def _ended(processes: LocalCluster) -> Iterator[None]:
    """Start what is still to start, and end it all, as far as it lets itself be ended."""
    processes.__enter__()
    try:
        yield
    finally:
        try:
            processes.close()
        except TimeoutError:
            log.warning("a worker process cannot be ended; does the file system hang that it reads from?")


@contextlib.contextmanager
def connect(address: str, report: str | None = None) -> Iterator[Cluster]:
    """Use the scheduler at ``address``, for instance ``tcp://10.0.0.5:8786``, and the workers that it has.

    Raises
    ------
    ClusterError
        If nothing answers there, no worker has joined, or scheduler, workers and this process differ in their versions.
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
        _same_versions(client)
        with _report(report, client):
            yield Cluster(client)


def _report(path: str | None, client: Client) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if path is None else _report_of(path, client)


@contextlib.contextmanager
def _report_of(path: str, client: Client) -> Iterator[None]:
    with client.as_current(), distributed.performance_report(filename=path):
        yield


@contextlib.contextmanager
def _lost_scheduler_is_an_error() -> Iterator[None]:
    """Say in one sentence that the scheduler went away; what was committed is in the store."""
    try:
        yield
    except (
        distributed.CancelledError,
        distributed.comm.CommClosedError,
        distributed.core.RPCClosed,
        TimeoutError,
    ) as error:
        raise ClusterError(
            "the Dask scheduler went away during the job; what was finished is in the store: "
            "run the same command again with a scheduler that is there"
        ) from error


# What must be the same everywhere.


@functools.cache
def songprint() -> str:
    """The version of songprint that runs here: its number, and a digest of its code."""
    digest = hashlib.blake2b(digest_size=4)
    folder = Path(__file__).parents[1]  # the whole package
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    try:
        number = importlib.metadata.version("songprint")
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        number = "checkout"
    return f"{number} (code {digest.hexdigest()})"


def _versions() -> dict[str, str]:
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "distributed": distributed.__version__, "songprint": songprint()}


def _same_versions(client: Client) -> None:
    """Compare this process with the scheduler and the workers that are there; later ones say it at their first task."""
    ours = _versions()
    workers = client.sync(client.scheduler.identity)["workers"]
    found = client.run(_versions, on_error="return")
    theirs = {f"worker {workers[address]['name']} ({address})": found[address] for address in found}
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


def _run(version: str, must_see: tuple[str, ...], own: bool, payload: bytes) -> bytes:
    """A task on a worker, once it is known that this process can do it.

    What the task is comes pickled in itself: another version may not even understand it.
    """
    if songprint() != version:
        raise _unfit(f"has songprint {songprint()}, the job needs {version}")
    for path in must_see:
        try:
            seen = within(LOOK_S, functools.partial(_sees, path))
        except TimeoutError:
            raise _unfit(f"waited {LOOK_S} s for {path}; its file system hangs") from None
        if not seen:
            raise _unfit(f"cannot see {path}; mount it there under the same path")
    keep_memory()
    if own:
        block_pandas_import()
    task, item = pickle.loads(payload)
    result: bytes = pickle.dumps(task(item))
    return result


def _numbered(call: tuple[Callable[[Item], Result], int, Item]) -> tuple[int, Result]:
    task, place, item = call
    return place, task(item)


def _unfit(reason: str) -> Unfit:
    worker = distributed.get_worker()
    return Unfit(worker.address, str(worker.name), reason)


def _sees(path: str) -> bool:
    """Whether a file is there, or a folder that is not empty, as the place of a lost mount is."""
    try:
        if is_url(path):
            files, name = filesystem(path)
            return bool(files.exists(name))
        return os.path.isfile(path) or any(os.scandir(path))
    except OSError:
        return False
