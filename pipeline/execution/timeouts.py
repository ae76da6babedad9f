"""A call with a time limit, whatever it does meanwhile."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any

from pipeline.execution.executor import Result

# What looks at its own time is given so much more to say that it is over.
GRACE_S = 30.0
# Nothing that works takes so long: a day of speech in a file of 65 MB is asked for at 8 x real time at least.
PATIENCE_S = 3600.0
SLOWEST_BYTES_PER_S = 10_000
# For a thread to tidy up after Ctrl-C.
TIDY_S = 5.0


def patience_s(size_bytes: int, limit_s: float | None) -> float:
    """Seconds after which a file of this size is not waited for any more, whether it has a limit of its own or not."""
    return PATIENCE_S + size_bytes / SLOWEST_BYTES_PER_S if limit_s is None else limit_s + GRACE_S


class _Hand:
    """A thread that does one call after the other, until nobody knows it any more."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._calls,), daemon=True)
        self._thread.start()

    def __del__(self) -> None:
        self._calls.put(None)

    def give(self, call: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        self._calls.put((call, future))
        return future

    def interrupt(self) -> None:
        """Raise `SystemExit` in the call, once it runs Python."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(SystemExit)
        )


def _work(calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]) -> None:
    while (given := calls.get()) is not None:
        call, future = given
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        finally:
            del given, call, future  # an error knows this frame, which must not know the error


# A new thread for each call would come by another of malloc's arenas each time, and fill them all.
_own = threading.local()


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """What ``call`` returns or raises, if it does so in time.

    It runs in another thread: a read from a file server that is gone, or a loop in C, cannot be interrupted, but need
    not be waited for. The thread is left behind then, and ends when it ever comes back to Python.

    Raises
    ------
    TimeoutError
        When the time is over.
    """
    hand: _Hand = _own.__dict__.pop("hand", None) or _Hand()
    future = hand.give(call)
    try:
        if not wait([future], min(seconds, threading.TIMEOUT_MAX)).done:
            hand.interrupt()
            raise TimeoutError(f"left after {seconds:,.0f} s without an answer; its file system or its decoder hangs")
        _own.hand = hand
        return future.result()
    except KeyboardInterrupt:
        hand.interrupt()
        wait([future], TIDY_S)
        raise
    finally:
        del future
