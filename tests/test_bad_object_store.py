"""Jobs on an object store that misbehaves: retries are bounded, errors are one sentence, nothing is lost.

The normal suite does a sample. With FAULTS=all each request of each job goes wrong once, and each job meets a store
that goes down at a request and stays down.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.errors import SongprintError
from pipeline.simulation import encoding, music
from pipeline.store import Store, storage
from tests.store_jobs import JOBS, expected_contents, index, look, needed_files, remove, start_two

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

import s3fs

from tests.object_store import BUCKET, REFUSALS, Proxy, kinds_of, misbehaving, serve

EVERY = os.environ.get("FAULTS") == "all"
URL = f"s3://{BUCKET}/store"
# Requests that may follow one that goes wrong, beyond those of a job: each is tried again some times.
TRIES = 60


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with serve() as server, misbehaving(server) as made:
        yield made


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients try a request twice, in place of ten and of 25 times, and do not wait long."""
    options = storage.DELTA_OPTIONS["s3"]
    fast = {"max_retries": "1", "backoff_config.init_backoff": "10ms", "backoff_config.max_backoff": "20ms"}
    monkeypatch.setitem(storage.DELTA_OPTIONS, "s3", lambda files: {**options(files), **fast})
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()


def start_sung(url: str) -> None:
    """A store of two songs that can be identified."""
    folder = Path(url).parent / "music"
    folder.mkdir()
    for seed in range(2):
        encoding.write(folder / f"{seed}.flac", music.song(seed, 10.0))
    pipeline.index([str(folder)], Store.create(url))


def identify(url: str) -> Any:
    """What a clip is found to be."""
    clip = music.song(1, 10.0)[-4 * music.SAMPLE_RATE :]
    rows = pipeline.identify_samples(clip, music.SAMPLE_RATE, Store.open(url)).to_pylist()
    assert [row["status"] for row in rows] == ["matched"]
    return rows


class Job:
    """A job on a store in the bucket, which begins with a copy of a local one.

    Attributes
    ----------
    before, after
        What is to be seen when the job begins, and when nothing went wrong.
    requests
        Those that it makes when nothing goes wrong.
    """

    def __init__(self, name: str, folder: Path, proxy: Proxy) -> None:
        self.run: Callable[[str], Any] = identify if name == "identify" else JOBS[name].run
        self.look: Callable[[str], Any] = identify if name == "identify" else look
        self._folder = folder
        begin = start_sung if name == "identify" else start_short
        begin(str(folder / "store"))
        self.fresh()
        self.before = self.look(URL)
        with proxy.misbehaving(""):
            self.run(URL)
            self.requests = list(proxy.requests)
        self.after = self.look(URL)

    def fresh(self) -> None:
        """Put what the job begins with into the bucket."""
        files = s3fs.S3FileSystem(use_listings_cache=False)
        if files.exists(BUCKET) and files.find(BUCKET):
            files.rm(files.find(BUCKET))
        for name in ("store", "store-other"):
            for path in (self._folder / name).rglob("*"):
                if path.is_file():
                    files.pipe_file(f"{BUCKET}/{path.relative_to(self._folder).as_posix()}", path.read_bytes())


def start_short(url: str) -> None:
    """As `start_two`, with logs of few entries, so that there are few requests."""
    start_two(url)
    for store in (Store.open(url), Store.open(f"{url}-other")):
        store.compact(grace_hours=0)
    index(Store.open(url), [9])
    remove(Store.open(url), {5})


def attempt(run: Callable[[str], Any]) -> SongprintError | None:
    """Run a job; the error that it ends with, in one line."""
    failed = None
    try:
        run(URL)
    except SongprintError as error:
        failed = error
    assert "\n" not in str(failed)
    return failed


def objects() -> set[str]:
    """The stored objects without the logs."""
    found = s3fs.S3FileSystem(use_listings_cache=False).find(f"{BUCKET}/store/")
    return {name.removeprefix(f"{BUCKET}/store/") for name in found if "/_delta_log/" not in name}


def finish(job: Job) -> None:
    """Run a job again; then all is as if nothing had happened."""
    job.run(URL)
    Store.open(URL).compact(grace_hours=0)
    assert objects() == needed_files(Store.open(URL))
    assert job.look(URL) == job.after


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["index", "identify", "remove", "compact at once", "merge"] if EVERY else ["remove"])
def test_a_request_that_goes_wrong_once_costs_nothing(
    name: str, proxy: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(name, tmp_path, proxy)
    requests = job.requests
    cases = [(at, kind) for at, one in enumerate(requests, 1) for kind in kinds_of(one) if one.method != "GET"]
    cases += [(at, kinds_of(one)[at % len(kinds_of(one))]) for at, one in enumerate(requests, 1) if one.method == "GET"]
    if not EVERY:  # the commit of the songs is made, and the reply is lost
        last = max(at for at, one in enumerate(requests, 1) if one.conditional)
        cases = [(last, "drop after")]
    errors = 0
    for at, kind in cases:
        job.fresh()
        where = f"{kind} at request {at} of {len(requests)}: {requests[at - 1]}"
        with proxy.misbehaving(kind, at, 1):
            error = attempt(job.run)
            count = len(proxy.requests)
        assert count < 2 * len(requests) + TRIES, where
        found = job.look(URL)
        assert found in (job.before, job.after), f"{where}: half of a job is to be seen"
        assert error is not None or found == job.after, f"{where}: it says that it is done"
        finish(job)
        errors += error is not None
    if EVERY:
        with capsys.disabled():
            print(f"\n{name}: {len(requests)} requests, {len(cases)} faults, {errors} errors, nothing lost")  # noqa: T201


@pytest.mark.skipif(not EVERY, reason="many requests: make test-faults")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["503", "drop", "cut"])
@pytest.mark.parametrize("name", ["index", "identify", "remove", "compact at once", "merge"])
def test_a_store_that_stays_down_ends_a_job_with_one_sentence(
    name: str, kind: str, proxy: Proxy, tmp_path: Path
) -> None:
    job = Job(name, tmp_path, proxy)
    for at in np.linspace(1, len(job.requests) - 1, 6, dtype=int).tolist():
        job.fresh()
        with proxy.misbehaving(kind, at):
            error = attempt(job.run)
            count = len(proxy.requests)
        assert error is not None, f"down from request {at} on"
        assert count < at + TRIES
        assert job.look(URL) in (job.before, job.after)
        finish(job)


@pytest.mark.parametrize("kind", REFUSALS if EVERY else ["412"])
def test_a_store_that_refuses_conditional_puts_is_left_as_it_was(kind: str, proxy: Proxy, tmp_path: Path) -> None:
    job = Job("remove", tmp_path, proxy)
    job.fresh()
    with proxy.misbehaving(kind):
        error = attempt(job.run)
        count = len(proxy.requests)
    assert "cannot be written" in str(error)
    assert count < 200
    assert job.look(URL) == job.before
    assert job.after == expected_contents({1, 2, 3, 6, 7, 8, 9} - {2, 8})
    if EVERY:
        finish(job)


def test_listings_that_lag_lose_nothing(proxy: Proxy, tmp_path: Path) -> None:
    """Nobody sees the newest log entries in a listing, and a compaction deletes what is not needed at once."""
    Job("index", tmp_path, proxy).fresh()
    expected = {2, 3, 6, 7, 8, 9, 20} | ({4, 21} if EVERY else {1})
    proxy.lag = 2
    try:
        index(Store.open(URL), [20])
        if EVERY:
            Store.open(URL).compact(grace_hours=0)
            index(Store.open(URL), [21])
            remove(Store.open(URL), {1})
            Store.open(URL).compact(grace_hours=0)
            Store.open(URL).absorb(Store.open(f"{URL}-other"))
            Store.open(URL).compact(grace_hours=0)
    finally:
        proxy.lag = 0
    assert look(URL) == expected_contents(expected)
