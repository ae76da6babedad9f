"""Calls with a time limit, also where they hang in a system call or in C."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any

from pipeline.execution.executor import Result

# Decoders check their own limit; they get so much more to raise their own error, which says more.
GRACE_S = 30.0
# No file that can be read takes longer: this is a day of speech in a file of 65 MB at 8 x real time.
TIMEOUT_S = 3600.0
SLOWEST_BYTES_PER_S = 10_000
# After Ctrl-C a thread has so long to close its files and processes.
CLEANUP_S = 5.0


def timeout_s(size_bytes: int, limit_s: float | None) -> float:
    """Seconds after which a file of this size has failed, with the user's limit for one file or without."""
    return TIMEOUT_S + size_bytes / SLOWEST_BYTES_PER_S if limit_s is None else limit_s + GRACE_S


class _CallThread:
    """A thread that runs one call after the other, and ends when this object is deleted."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=_run_calls, args=(self._calls,), daemon=True)
        self._thread.start()

    def __del__(self) -> None:
        self._calls.put(None)

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        self._calls.put((call, future))
        return future

    def interrupt(self) -> None:
        """Raise `SystemExit` in the call, once it runs Python."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(SystemExit)
        )


def _run_calls(calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]) -> None:
    while (submitted := calls.get()) is not None:
        call, future = submitted
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        finally:
            del submitted, call, future  # an error refers to this frame: no reference cycle, so that memory is freed


# Each caller's thread is used again: a new one for each call would get another of malloc's arenas, and fill them all.
_idle = threading.local()


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """What ``call`` returns or raises, if it does so in time.

    It runs in another thread. A read from a file server that is lost, or a loop in C, cannot be interrupted, but this
    one need not wait for it. The other thread ends when it ever returns to Python.

    Raises
    ------
    TimeoutError
        When the time is over.
    """
    thread: _CallThread = _idle.__dict__.pop("thread", None) or _CallThread()
    future = thread.submit(call)
    try:
        if not wait([future], min(seconds, threading.TIMEOUT_MAX)).done:
            thread.interrupt()
            raise TimeoutError(f"left after {seconds:,.0f} s without an answer; its file system or its decoder hangs")
        _idle.thread = thread
        return future.result()
    except KeyboardInterrupt:
        thread.interrupt()
        wait([future], CLEANUP_S)
        raise
    finally:
        del future
