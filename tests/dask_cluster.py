"""A Dask cluster started by hand: scheduler and workers as processes of their own, to be killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
DASK = (sys.executable, "-m", "dask")


class DaskCluster:
    """What the by-hand recipe of docs/CLUSTER.md starts, on free ports of this machine.

    Parameters
    ----------
    folder
        Where logs and the workers' local files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "scheduler.json"
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        """Of the scheduler, as ``--scheduler`` takes it."""
        return str(json.loads(self._file.read_text())["address"])

    def start_scheduler(self, songprint: Path = ROOT) -> None:
        self._file.unlink(missing_ok=True)
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        options += ["--scheduler-file", str(self._file)]
        self.scheduler = self._start("scheduler", *options, songprint=songprint)
        while not (self._file.exists() and self._file.read_text().endswith("}")):
            assert self.scheduler.poll() is None, "the scheduler did not start"
            time.sleep(0.05)

    def start_worker(self, name: str, songprint: Path = ROOT) -> None:
        """A worker of one thread, without a nanny that would start it again, with the songprint of a folder."""
        options = ["--scheduler-file", str(self._file), "--name", name, "--nthreads", "1", "--no-nanny"]
        options += ["--no-dashboard", "--local-directory", str(self.folder)]
        self.workers[name] = self._start("worker", *options, songprint=songprint)

    def kill(self, name: str) -> None:
        """SIGKILL to a worker, or to the scheduler under that name."""
        process = self.scheduler if name == "scheduler" else self.workers.pop(name)
        assert process is not None
        process.kill()
        process.wait()

    def _start(self, *command: str, songprint: Path = ROOT) -> subprocess.Popen[bytes]:
        # Two deaths are enough to doubt a task: it is tried again alone before it is blamed.
        settings = {"PYTHONPATH": str(songprint), "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [*DASK, *command], cwd=self.folder, env=os.environ | settings, stdout=log, stderr=log
            )

    def stop(self) -> None:
        processes = [*self.workers.values(), *([self.scheduler] if self.scheduler else [])]
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()


@contextmanager
def dask_cluster(folder: Path, workers: int) -> Iterator[DaskCluster]:
    """A scheduler and so many workers, called w0, w1, …"""
    cluster = DaskCluster(folder)
    try:
        cluster.start_scheduler()
        for number in range(workers):
            cluster.start_worker(f"w{number}")
        yield cluster
    finally:
        cluster.stop()
