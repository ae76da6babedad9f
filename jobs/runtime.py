"""What long commands share: messages, a progress bar, and the executor."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jobs.output.text import count, printable
from pipeline.errors import ParameterError
from pipeline.execution.executor import Executor, Progress, SerialExecutor

log = logging.getLogger("songprint")

# A progress line in a log file is useful now and then, not for every batch.
PROGRESS_EVERY_S = 10.0


class JsonLines(logging.Formatter):
    """One JSON object a line, with the figures of a message in fields of their own.

    By hand: python-json-logger would be a dependency for these lines.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Time in UTC, level, message, then the fields given as ``extra={"fields": {…}}``."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        row = {"time": when, "level": record.levelname.lower(), "message": record.getMessage()}
        row |= getattr(record, "fields", {})
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row)


class PlainLines(logging.Formatter):
    """The message alone, on one line; characters in file names do not steer the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, and below it the traceback if there is one."""
        line = printable(record.getMessage())
        if not record.exc_info:
            return line
        return "\n".join([line, *map(printable, self.formatException(record.exc_info).splitlines())])


def messages(quiet: bool, verbose: bool, log_json: bool) -> None:
    """Send the records of `logging` to standard error, as text or as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if log_json else PlainLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    for name in ("songprint", "pipeline"):
        logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def executor(workers: int, scheduler: str | None, report: Path | None, *, small: bool) -> Iterator[Executor]:
    """Open the executor that the options choose.

    Parameters
    ----------
    workers
        Local processes, 0 for one per core.
    scheduler
        Address of a Dask scheduler, which is then used instead.
    small
        The work takes less time than starting processes does: run it in this process, unless a scheduler or a report
        is wanted.
    """
    if scheduler and workers:
        raise ParameterError("--workers and --scheduler exclude each other: the scheduler's workers are there already")
    if small and scheduler is None and report is None:
        yield SerialExecutor()
        return
    from pipeline.execution import dask_executor  # Dask takes half a second to import

    # Dask logs at length what becomes a failure row or one sentence of ours anyway. Its loggers set their own levels.
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.INFO if log.isEnabledFor(logging.DEBUG) else logging.CRITICAL + 1)

    path = str(report) if report else None
    opened = dask_executor.connect(scheduler, path) if scheduler else dask_executor.local(workers or cores(), path)
    with opened as running:
        # A user with a cluster wants to watch it; four processes on a laptop are not worth a line.
        log.log(
            logging.INFO if scheduler else logging.DEBUG,
            "%s, dashboard at %s", count(running.workers, "worker"), running.dashboard or "no address",
            extra={"fields": {"workers": running.workers, "dashboard": running.dashboard}},
        )  # fmt: skip
        yield running


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def progress_bar(what: str, quiet: bool, log_json: bool) -> Iterator[Callable[[Progress], None]]:
    """Show the progress of a run: a bar on a terminal, a line now and then in a JSON log, else nothing.

    Yields
    ------
    callable
        To be called with each `Progress`.
    """
    began = time.monotonic()
    if quiet or not (log_json or sys.stderr.isatty()):
        yield lambda progress: None
        return
    if log_json:
        logged = began

        def log_progress(progress: Progress) -> None:
            nonlocal logged
            if time.monotonic() - logged >= PROGRESS_EVERY_S:
                logged = time.monotonic()
                log.info("progress", extra={"fields": _figures(progress, what, logged - began)})

        yield log_progress
        return

    from pipeline.progress import bar

    with bar(what) as draw:
        yield draw


def speed(audio_s: float, busy_s: float, wall_s: float) -> dict[str, float]:
    """Figures of a run's speed, for its summary.

    Returns
    -------
    dict
        ``x_realtime`` of the whole run, ``x_realtime_per_worker`` of one worker while it is busy, and
        ``workers_busy``, how many were on average: far fewer than there are means that they wait, often for files.
    """
    return {
        "x_realtime": round(audio_s / max(wall_s, 1e-9), 1),
        "x_realtime_per_worker": round(audio_s / max(busy_s, 1e-9), 1),
        "workers_busy": round(busy_s / max(wall_s, 1e-9), 2),
    }


def pace(audio_s: float, busy_s: float, wall_s: float) -> str:
    """The figures of `speed` as part of a sentence, after a space; nothing of a run that read no audio.

    Examples
    --------
    >>> pace(7680.0, 19.2, 5.4)
    ' (2.13 h of audio in 5.4 s: 1422x real time, 400x a worker, 3.6 workers busy)'
    >>> pace(0.0, 0.0, 0.3)
    ''
    """
    if not audio_s:
        return ""
    rates = "{x_realtime:.0f}x real time, {x_realtime_per_worker:.0f}x a worker, {workers_busy:.1f} workers busy"
    figures = rates.format(**speed(audio_s, busy_s, wall_s))
    return f" ({audio_s / 3600:.2f} h of audio in {wall_s:.1f} s: {figures})"


def _figures(progress: Progress, what: str, wall_s: float) -> dict[str, Any]:
    return {
        "job": what,
        "done": progress.done,
        "total": progress.total,
        "share": round(progress.share, 4),
        "audio_h": round(progress.audio_s / 3600, 3),
        "failures": progress.failures,
        "wall_s": round(wall_s, 1),
    }
