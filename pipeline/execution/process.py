"""Settings of a worker process: memory, imports, signals."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from multiprocessing import resource_tracker


def block_pandas_import() -> None:
    """Keep pyarrow from importing pandas, in a process that only songprint uses: it saves 0.3 s of CPU.

    pyarrow imports pandas at the first array that it makes, to see whether it was given a column of pandas. A later
    `to_pandas` still works: pandas is imported then.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(_NoPandas)


def avoid_slow_sort() -> None:
    """On AMD's Zen 4, let numpy sort as on processors without AVX-512, if it is not imported yet; child processes too.

    There a sort of int32 takes 6 ns a number instead of 40, since the instruction that numpy's AVX-512 sort is made of
    is slow in this processor. Counting the hits of a clip in a large store is mostly a sort.
    """
    if "numpy" in sys.modules or SETTING in os.environ:
        return
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            cpu = file.read(4096)
        zen_4 = "AuthenticAMD" in cpu and re.search(r"cpu family\s*: 25\b", cpu) and " avx512f" in cpu
        # older versions have other names for the features
        if zen_4 and tuple(map(int, importlib.metadata.version("numpy").split(".")[:2])) >= (2, 4):
            os.environ[SETTING] = "X86_V4 AVX512_ICL"
    except (OSError, ValueError, importlib.metadata.PackageNotFoundError):  # not Linux, or a numpy of one's own
        return


# Read by numpy when it is imported.
SETTING = "NPY_DISABLE_CPU_FEATURES"


class _NoPandas(MetaPathFinder):
    """Finds no pandas, wherever it is."""

    @staticmethod
    def find_spec(fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


# glibc's names of what mallopt sets.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


@contextlib.contextmanager
def interrupts_handled_here() -> Iterator[None]:
    """Let processes that are started inside ignore Ctrl-C; this process stops them.

    A terminal sends SIGINT to all processes of a job. Threads and processes inherit a blocked signal, so this also
    holds for workers that are started again later. A SIGINT or SIGTERM that arrives meanwhile is handled afterwards:
    else processes that are half started would be left behind.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # started later, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _signals_deferred():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Handle SIGINT and SIGTERM at the end; blocking them in this thread does not keep another one from taking them."""
    if threading.current_thread() is not threading.main_thread():  # only there Python handles signals
        yield
        return
    arrived: list[int] = []
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    for one, handler in handlers.items():
        if callable(handler):  # neither ignored nor the kernel's default, which ends this process at once
            signal.signal(one, lambda number, frame: arrived.append(number))
    try:
        yield
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
        for number in arrived[:1]:
            signal.raise_signal(number)


@functools.cache
def keep_memory() -> None:
    """Let malloc keep the memory of arrays for the next ones.

    Dask's nanny sets MALLOC_TRIM_THRESHOLD_, which makes malloc return each array to the kernel at once; fetching it
    again was 40 % of an index run.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 64 << 20)
