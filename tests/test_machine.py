"""A machine that fails: disks that are full or cannot be written, too few descriptors, too little memory, a wrong
clock.

The disks are real ones, of the kernel's tmpfs, so these tests need root and are skipped elsewhere.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import psutil
import pytest

from jobs import cli
from jobs.cli import run
from pipeline import Settings, Store, identification, identify, index, indexing
from pipeline.audio import decoding
from pipeline.errors import StoreError
from pipeline.execution import dask_executor, executor
from pipeline.fingerprinting import extract
from pipeline.fingerprinting.extract import Fingerprint
from pipeline.indexing import index_batch
from pipeline.simulation import encoding, music
from pipeline.store.storage import MORE_FILES
from tests import store_jobs
from tests.conftest import FormulaLibrary

ROOT = Path(__file__).parents[1]
ONE_SENTENCE = re.compile(r"(StoreError|OSError): [^\n]+: (No space left on device|Read-only file system)[^\n]*\n")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 50 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=50m", "tmpfs", str(place)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("mounting a file system takes root, and mount")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def leave_room(disk: Path, free: int) -> None:
    """Fill a disk but for so many bytes (whole pages)."""
    status = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - free)))


def make_room(disk: Path) -> None:
    (disk / "filler").unlink()


@pytest.mark.parametrize("free_kb", [8, 120, 400])
def test_an_index_job_ends_with_a_sentence_when_the_disk_is_full_and_completes_with_more_room(
    free_kb: int, disk: Path, library: FormulaLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(disk / "store")
    if free_kb > 8:  # else the store itself finds no space
        assert run(["index", library.paths[0], "--store", url, "--quiet"]) == 0
    leave_room(disk, free_kb << 10)
    assert run(["index", str(library.folder), "--store", url, "--quiet"]) == 1
    assert ONE_SENTENCE.fullmatch(capsys.readouterr().err)
    if free_kb > 8:
        assert run(["check", "--store", url, "--quiet"]) == 0
    make_room(disk)
    assert run(["index", str(library.folder), "--store", url, "--quiet"]) == 0
    assert run(["check", "--store", url, "--quiet"]) == 0
    assert Store.open(url).snapshot().n_songs == len(library.paths)


@pytest.mark.parametrize("job", ["index", "remove", "compact", "compact at once"])
def test_a_disk_that_fills_at_any_page_of_a_job_leaves_a_whole_store(job: str, disk: Path) -> None:
    url = str(disk / "store")
    store_jobs.start(url)
    before, after = store_jobs.look(url), store_jobs.JOBS[job].expected()
    for pages in range(0, 400, 4 if job == "index" else 2):
        leave_room(disk, pages << 12)
        try:
            store_jobs.JOBS[job].run(url)
        except StoreError as error:
            assert "No space left" in str(error)  # noqa: PT017
            assert store_jobs.look(url) in (before, after)
            make_room(disk)
        else:
            break
    else:
        pytest.fail("the job never came to its end")
    make_room(disk)
    assert pages > 2
    assert store_jobs.look(url) == after


def test_a_read_only_store_answers_and_refuses_in_a_sentence(
    disk: Path, library: FormulaLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(disk / "store")
    assert run(["index", *library.paths[:2], "--store", url, "--quiet"]) == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for command in (["identify", library.paths[0]], ["songs"], ["stats"], ["check"], ["duplicates"]):
        assert run([*command, "--store", url]) == 0
    assert Path(library.paths[0]).name[:10] in capsys.readouterr().out
    for command in (["index", library.paths[3]], ["remove", "1"]):
        assert run([*command, "--store", url, "--quiet"]) == 1
        assert ONE_SENTENCE.fullmatch(capsys.readouterr().err)
    assert Store.open(url).snapshot().n_songs == 2


def limited(limit: str, *command: str) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-c", f'ulimit {limit}; exec "$@"', "-", sys.executable, "-m", "jobs", *command]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_with_few_descriptors_an_index_job_keeps_what_it_added_and_the_next_one_goes_on(
    library: FormulaLibrary, tmp_path: Path
) -> None:
    """From too few for the store, over too few for ffmpeg's pipes, to enough; which are which differs by machine."""
    url = str(tmp_path / "store")
    added = 0
    for descriptors in (12, 14, 16, 17, 18, 20, 22, 64):
        ran = limited(f"-n {descriptors}", "index", str(library.folder), "--store", url, "--workers", "1")
        assert "Traceback" not in ran.stderr
        if ran.returncode == 0:
            figures = re.search(r"(\d+) songs added.* (\d+) already there.* (\d+) failed", ran.stderr)
            assert figures is not None
            new, present, failed = map(int, figures.groups())
            assert present >= added
            assert new + present + failed == len(library.paths)
            added = new + present
        else:
            assert MORE_FILES in ran.stderr.splitlines()[-1]
    assert added == len(library.paths)
    assert Store.open(url).check() == []


def test_a_song_that_finds_no_memory_is_a_row_and_the_rest_go_on(
    library: FormulaLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = indexing.fingerprint

    def hungry(path: str, *arguments: object, **options: object) -> object:
        if path == library.paths[1]:
            raise MemoryError
        return real(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(indexing, "fingerprint", hungry)
    store = Store.create(str(tmp_path / "store"))
    report = index([*library.paths[:3]], store)
    assert [(failure.path, report.added) for failure in report.failures] == [(library.paths[1], 2)]
    assert "memory" in report.failures[0].reason


@pytest.mark.parametrize("years", [-3, 3])
def test_a_clock_that_was_set_back_or_forward_loses_nothing(
    years: int, tmp_path: Path, library: FormulaLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[[], float] = time.time
    store = Store.create(str(tmp_path / "store"))
    index(library.paths[:2], store)
    monkeypatch.setattr(time, "time", lambda: real() + years * 365.25 * 86400)
    index(library.paths[:4], store)
    store.remove([1])
    for path in Path(store.url).rglob("*.parquet"):  # as written before the clock was set
        os.utime(path, (real() - years * 3.2e7, real() - years * 3.2e7))
    store.compact(grace_hours=0)
    assert store.check() == []
    monkeypatch.undo()
    assert index(library.paths[:4], store).added == 1
    store.compact(grace_hours=1)
    assert store.check() == []
    assert store.snapshot().n_songs == 4


def test_a_file_that_was_written_in_the_future_is_known_again(tmp_path: Path) -> None:
    encoding.write(tmp_path / "song.flac", music.song(1, 10.0))
    os.utime(tmp_path / "song.flac", (4e9, 4e9))
    store = Store.create(str(tmp_path / "store"))
    assert index([str(tmp_path / "song.flac")], store).added == 1
    assert index([str(tmp_path / "song.flac")], store).present == 1


@pytest.mark.parametrize("descriptors", [8, 12])
def test_with_too_few_descriptors_for_the_store_one_sentence_says_how_to_have_more(
    descriptors: int, library: FormulaLibrary, tmp_path: Path
) -> None:
    ran = limited(f"-n {descriptors}", "index", library.paths[0], "--store", str(tmp_path / "store"))
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]  # Rust's own words on its panic stand above
    assert re.fullmatch(r"StoreError: .*Too many open files.*; .*`ulimit -n 1024`.*", last)
    assert "Traceback" not in ran.stderr


MEMORY_LIMIT = 1 << 30  # bytes; a worker that waits takes a quarter of it
HUNGRY = "takes all memory"
HUNG = "a read that never returns"


@pytest.fixture
def small_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[dask_executor.DaskExecutor]:
    """One worker, on what it takes for a machine of 1 GB; its nanny pauses it at 80 % and ends it at 95 %."""
    monkeypatch.setattr(distributed.system, "MEMORY_LIMIT", MEMORY_LIMIT)
    once = {"distributed.scheduler.allowed-failures": 0}
    monkeypatch.setattr(dask_executor, "LOCAL_CONFIG", dask_executor.LOCAL_CONFIG | once)
    with dask_executor.local(1) as worker:
        yield worker


def eat(path: str, settings: Settings, limit_s: float | None = None, stream: int | None = None) -> Fingerprint:
    """A decoder that takes what there is for the song of that name, and ends when nobody stops it."""
    eaten = []
    if HUNGRY in path:
        for _ in range(64):
            eaten.append(np.ones(1 << 22))
            time.sleep(0.02)
        time.sleep(60)
    return extract.fingerprint(path, settings, limit_s, stream=stream)


def index_with_a_hungry_decoder(batch: indexing.IndexBatch) -> indexing.BatchReport:
    indexing.fingerprint = eat  # type: ignore[attr-defined]
    return index_batch(batch)


def test_a_file_that_takes_all_memory_costs_its_worker_one_row_and_no_other_song(
    small_worker: dask_executor.DaskExecutor, library: FormulaLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hungry = tmp_path / f"{HUNGRY}.wav"
    shutil.copy(library.paths[0], hungry)
    store = Store.create(str(tmp_path / "store"))
    monkeypatch.setattr(indexing, "index_batch", index_with_a_hungry_decoder)
    report = index([str(hungry), *library.paths[1:4]], store, small_worker)
    assert [failure.path for failure in report.failures] == [str(hungry)]
    assert "died each time that it ran this; out of memory" in report.failures[0].reason
    assert report.added == 3
    assert store.check() == []


def fill_until_paused(number: int) -> int:
    """Hold more than 80 % of the memory until the worker has noticed, and somewhat longer."""
    worker = distributed.get_worker()
    held = []
    while psutil.Process().memory_info().rss < 0.85 * MEMORY_LIMIT:
        held.append(np.ones(1 << 21))
    while worker.status is not distributed.core.Status.paused:
        time.sleep(0.05)
    time.sleep(1.0)
    return number


def test_a_worker_that_is_paused_is_named_and_goes_on(
    small_worker: dask_executor.DaskExecutor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_executor, "POLL_S", 0.1)
    caplog.set_level(logging.WARNING, "pipeline")
    assert small_worker.map(fill_until_paused, range(2)) == [0, 1]
    assert len(caplog.messages) == 1
    assert re.match("1 of 1 workers are paused, their memory nearly full: 0; give them more", caplog.messages[0])


STUB = b"RIFF"


def soon_for_the_stub(size_bytes: int, limit_s: float | None) -> float:
    """Do not wait for the file that hangs; the others have time, whatever else the machine does."""
    return 0.5 if size_bytes == len(STUB) else 100.0


def read_from_a_server_that_is_gone(
    path: str, settings: Settings, limit_s: float | None = None, stream: int | None = None
) -> Fingerprint:
    """The song of that name hangs in a system call, as on a network file system that has lost its server."""
    if HUNG in path:
        os.read(os.pipe()[0], 1)
    return extract.fingerprint(path, settings, limit_s, stream=stream)


def index_from_a_server_that_is_gone(batch: indexing.IndexBatch) -> indexing.BatchReport:
    indexing.timeout_s = soon_for_the_stub  # type: ignore[attr-defined]
    indexing.fingerprint = read_from_a_server_that_is_gone  # type: ignore[attr-defined]
    return index_batch(batch)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_read_that_never_returns_costs_its_file_and_no_other(
    workers: int, library: FormulaLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = tmp_path / f"{HUNG}.wav"
    hung.write_bytes(STUB)
    store = Store.create(str(tmp_path / "store"))
    for name in ("timeout_s", "fingerprint"):
        monkeypatch.setattr(indexing, name, getattr(indexing, name))  # set back at the end
    monkeypatch.setattr(indexing, "index_batch", index_from_a_server_that_is_gone)
    with dask_executor.local(workers) if workers else nullcontext(executor.SerialExecutor()) as place:
        report = index([str(hung), *library.paths[1:4]], store, place)
    assert [failure.path for failure in report.failures] == [str(hung)]
    assert "hangs" in report.failures[0].reason
    assert report.added == 3


def test_a_clip_that_never_comes_is_a_row_and_the_rest_go_on(
    library: FormulaLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(str(tmp_path / "store"))
    index(library.paths[:1], store)
    hung = tmp_path / f"{HUNG}.wav"
    hung.write_bytes(STUB)
    decode = decoding.decode

    def hang(path: str, *arguments: Any, **options: Any) -> Any:
        return os.read(os.pipe()[0], 1) if HUNG in path else decode(path, *arguments, **options)

    monkeypatch.setattr(identification, "timeout_s", soon_for_the_stub)
    monkeypatch.setattr(decoding, "decode", hang)
    answers = identify([library.paths[0], str(hung)], store).to_pylist()
    results = {row["clip"]: (row["status"], row["message"] or "") for row in answers}
    assert results[library.paths[0]] == ("matched", "")
    assert results[str(hung)][0] == "failed"
    assert "hangs" in results[str(hung)][1]


def test_a_command_ends_with_its_code_while_a_process_of_its_own_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(code: int) -> None:
        raise SystemExit(f"at once, with {code}")

    monkeypatch.setattr(cli, "run", lambda arguments: 7)
    monkeypatch.setattr(multiprocessing, "active_children", lambda: ["one"])
    monkeypatch.setattr(os, "_exit", stop)
    with pytest.raises(SystemExit, match="at once, with 7"):
        cli.main()
