"""What goes wrong on a cluster: no fault may lose a song, or stop the run."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pyarrow.compute as pc
import pytest

import pipeline
from jobs.cli import run
from jobs.output import dataset, tables
from pipeline import Settings, Store, catalog, identification, indexing
from pipeline.errors import ClusterError, ParameterError
from pipeline.execution import dask_executor
from pipeline.execution.executor import Progress
from pipeline.fingerprinting import extract
from pipeline.fingerprinting.extract import Fingerprint
from pipeline.matching.types import Query
from pipeline.shard_search import group_shards
from pipeline.simulation import acoustics, encoding, music
from pipeline.store import Changes
from tests.conftest import FormulaLibrary
from tests.dask_cluster import ROOT, DaskCluster, dask_cluster
from tests.test_end_to_end import contents

SONG_S = 20.0
N_SONGS = 10


@pytest.fixture(scope="module")
def songs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of formula songs; tests must not change it."""
    folder = tmp_path_factory.mktemp("music")
    for seed in range(N_SONGS):
        encoding.write(folder / f"{seed:02d}.wav", music.song(seed, SONG_S))
    return folder


@pytest.fixture(scope="module")
def expected(songs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a store of the music holds when nothing went wrong."""
    store = Store.open_or_create(str(tmp_path_factory.mktemp("expected") / "store"))
    assert pipeline.index([str(songs_folder)], store).added == N_SONGS
    return contents(store)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaskCluster]:
    """A cluster of one's own, to break."""
    with dask_cluster(tmp_path, workers=2) as started:
        yield started


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """A cluster that stays: tests may add workers, and take theirs away again."""
    with dask_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as started:
        yield started


@pytest.fixture(scope="module")
def sharded(songs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of the music in shards of two songs."""
    store = Store.create(str(tmp_path_factory.mktemp("sharded") / "store"), shard_frames=1000)
    assert pipeline.index([str(songs_folder)], store).added == N_SONGS
    assert store.snapshot().shard_numbers == tuple(range(N_SONGS // 2))
    return store


def who(seconds: float) -> str:
    time.sleep(seconds)
    return str(distributed.get_worker().name)


def deadly(path: str, settings: Settings, limit_s: float | None = None, stream: int | None = None) -> Fingerprint:
    """A decoder with a bug that takes the process along."""
    if "deadly" in path:
        os.abort()
    return extract.fingerprint(path, settings, limit_s, stream=stream)


def index_with_a_deadly_decoder(batch: indexing.IndexBatch) -> indexing.BatchReport:
    indexing.fingerprint = deadly  # type: ignore[attr-defined]
    return indexing.index_batch(batch)


def who_beside(map_beside: Any) -> list[str]:
    map_tasks = map_beside()
    names: list[str] = map_tasks(who, [0.0] * 5)
    return names


def identify_with_a_deadly_decoder(batch: identification.ClipBatch) -> identification.BatchRows:
    if any("deadly" in entry.path for entry in batch.entries):
        os.abort()
    return identification.identify_batch(batch)


def test_killed_workers_lose_and_double_no_song(
    cluster: DaskCluster, songs_folder: Path, expected: dict[str, Any], rng: np.random.Generator, tmp_path: Path
) -> None:
    store = Store.open_or_create(str(tmp_path / "store"))
    kills = 0

    def kill_one(progress: Progress) -> None:
        nonlocal kills
        if progress.done and kills < 3:
            victim = str(rng.choice(sorted(cluster.workers)))
            cluster.kill(victim)
            kills += 1
            cluster.start_worker(f"{victim}+")

    with dask_executor.connect(cluster.address) as workers:
        report = indexing.index_entries(catalog.walk([str(songs_folder)]), store, workers, progress=kill_one)
    assert kills == 3
    assert (report.added, report.failures) == (N_SONGS, ())
    assert contents(store) == expected


def test_a_file_that_kills_its_worker_costs_one_failure_row_and_no_other_song(
    songs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    song = str(songs_folder / "00.wav")
    plain = Store.open_or_create(str(tmp_path / "plain"))
    pipeline.index([song], plain)
    shutil.copy(song, tmp_path / "deadly.wav")
    store = Store.open_or_create(str(tmp_path / "store"))
    monkeypatch.setattr(indexing, "index_batch", index_with_a_deadly_decoder)
    caplog.set_level(logging.WARNING, "pipeline")
    with dask_executor.local(2) as workers:
        report = pipeline.index([song, str(tmp_path / "deadly.wav")], store, workers)
    killed = [record.fields for record in caplog.records if hasattr(record, "fields")]
    assert killed
    assert {*killed[0]} == {"worker", "address", "reason"}
    assert [failure.path for failure in report.failures] == [str(tmp_path / "deadly.wav")]
    assert "died" in report.failures[0].reason
    assert contents(store) == contents(plain)


def test_a_lost_scheduler_is_one_sentence_and_the_next_run_goes_on(
    cluster: DaskCluster,
    songs_folder: Path,
    expected: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = str(tmp_path / "store")
    commit, commits = Store.commit_files, []

    def commit_and_lose_the_scheduler(self: Store, *arguments: Any, **options: Any) -> Changes:
        changes = commit(self, *arguments, **options)
        commits.append(changes.added)
        if len(commits) == 1:
            cluster.kill("scheduler")
            # A commit that the loss cuts short has taken ids that nobody gets again.
            monkeypatch.setattr(indexing, "COMMIT_EVERY_S", 1e9)
        return changes

    monkeypatch.setattr(indexing, "COMMIT_EVERY_S", 0.0)
    monkeypatch.setattr(Store, "commit_files", commit_and_lose_the_scheduler)
    command = ["index", str(songs_folder), "--store", url, "--scheduler"]
    assert run([*command, cluster.address]) == 1
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1].startswith("ClusterError: the Dask scheduler went away")
    assert len(printed) == 2, printed  # the other one is the dashboard's address
    done = sum(map(len, commits))  # what had come meanwhile is committed at the end
    assert 0 < done < N_SONGS

    cluster.start_scheduler()
    cluster.start_worker("new")
    assert run([*command, cluster.address]) == 0
    assert f"{N_SONGS - done} songs added" in capsys.readouterr().err
    assert contents(Store.open(url)) == expected


def test_workers_that_join_late_are_used(shared: DaskCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "POLL_S", 0.2)
    with dask_executor.connect(shared.address) as workers:
        names = set()
        for outcome in workers.as_completed(who, [0.1] * 1000):
            names.add(getattr(outcome, "result", ""))
            if "w2" not in shared.workers:
                shared.start_worker("w2")
            if "w2" in names:
                break
    assert "w2" in names


def test_tasks_that_wait_for_tasks_of_their_own_do_not_keep_those_from_running(shared: DaskCluster) -> None:
    with dask_executor.connect(shared.address) as workers:
        names = workers.map(who_beside, [workers.map_beside] * 6)
    assert [len(of_call) for of_call in names] == [5] * 6
    assert {name for of_call in names for name in of_call} <= set(shared.workers)


def test_shards_are_dealt_out_to_as_many_groups_as_there_are_workers() -> None:
    assert group_shards((0, 1, 2, 3, 4), 2) == ((0, 2, 4), (1, 3))
    assert group_shards((0, 1), 16) == ((0,), (1,))
    assert group_shards((0,), 4) == group_shards((0, 1), 1) == ()


def test_workers_that_search_some_shards_each_give_the_rows_of_one_process(
    shared: DaskCluster, sharded: Store, songs_folder: Path, tmp_path: Path
) -> None:
    """Clips, and recordings that are searched stretch by stretch; at other speeds as well."""
    for seed in range(3):
        clip = acoustics.recording(music.song(seed, SONG_S)[-5 * music.SAMPLE_RATE :], 5.0, seed)
        encoding.write(tmp_path / f"clip{seed}.wav", clip)
    paths, query = [str(tmp_path), *(str(songs_folder / f"{seed:02d}.wav") for seed in (0, 3))], Query(speed_range=1)
    alone = pipeline.identify(paths, sharded, query)
    assert alone["status"].to_pylist().count("matched") >= 4
    with dask_executor.connect(shared.address) as workers:
        assert len(group_shards(sharded.snapshot().shard_numbers, workers.workers)) == workers.workers
        assert pipeline.identify(paths, sharded, query, workers).equals(alone)


def test_a_clip_that_kills_its_worker_costs_its_own_row_when_others_wait_for_theirs(
    sharded: Store, songs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [str(songs_folder / f"{seed:02d}.wav") for seed in range(2)]
    shutil.copy(clips[0], tmp_path / "deadly.wav")
    alone = pipeline.identify(clips, sharded)
    monkeypatch.setattr(identification, "identify_batch", identify_with_a_deadly_decoder)
    monkeypatch.setattr(identification, "BATCH_BYTES", 0)  # each clip is a batch
    with dask_executor.local(2) as local:  # as a client's workers they may be on several machines
        rows = pipeline.identify([clips[0], str(tmp_path / "deadly.wav"), clips[1]], sharded, executor=local.client)
    assert dict(zip(rows["clip"].to_pylist(), rows["status"].to_pylist(), strict=True)) == {
        clips[0]: "matched", str(tmp_path / "deadly.wav"): "failed", clips[1]: "matched",
    }  # fmt: skip
    assert rows.filter(pc.equal(rows["status"], "matched")).equals(alone)


@pytest.mark.parametrize(
    ("workers_left", "message"),
    [
        ({}, "has no workers any more; the job waits"),
        ({"tcp://10.0.0.1:1": {"name": "w9", "nthreads": 1, "status": "paused"}}, "1 of 1 workers are paused.*w9"),
    ],
)
def test_a_job_that_waits_says_why(
    shared: DaskCluster,
    workers_left: dict[str, Any],
    message: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dask_executor, "POLL_S", 0.05)
    caplog.set_level(logging.WARNING, "pipeline")
    with dask_executor.connect(shared.address) as workers:
        monkeypatch.setattr(dask_executor.DaskExecutor, "_known_workers", lambda self: workers_left)
        assert len(workers.map(who, [0.5])) == 1
    assert len(caplog.messages) == 1  # not again and again
    assert re.search(message, caplog.messages[0])


def test_a_worker_that_cannot_see_the_files_says_so_with_its_name_and_the_path(
    shared: DaskCluster, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with dask_executor.connect(shared.address) as workers:
        for lost in (tmp_path / "nowhere", tmp_path / "empty"):
            workers.require_visible([str(lost)])
            with pytest.raises(ClusterError, match=rf"worker w\d .* cannot see {lost}; mount it"):
                workers.map(who, [0.0])


def test_a_worker_with_another_songprint_says_so_and_later_ones_get_no_task(
    shared: DaskCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "pipeline", tmp_path / "other" / "pipeline")
    with (tmp_path / "other" / "pipeline" / "matching" / "voting.py").open("a") as file:
        file.write("# changed\n")
    monkeypatch.setattr(dask_executor, "POLL_S", 0.2)
    caplog.set_level(logging.WARNING, "pipeline")
    with dask_executor.connect(shared.address) as workers:
        shared.start_worker("other", tmp_path / "other")
        names = set()
        for outcome in workers.as_completed(who, [0.1] * 1000):
            names.add(getattr(outcome, "result", ""))
            if caplog.messages:
                break
    assert "other" not in names
    assert "worker other" in caplog.messages[0]
    assert "has songprint" in caplog.messages[0]
    with (
        pytest.raises(ClusterError, match=r"worker other .* has songprint .* install the same"),
        dask_executor.connect(shared.address),
    ):
        pass
    shared.kill("other")


def test_a_scheduler_that_is_not_there_is_one_sentence(
    library: FormulaLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dask_executor, "CONNECT_S", 0.5)
    command = ["index", str(library.folder), "--store", str(tmp_path / "store"), "--scheduler", "tcp://127.0.0.1:9"]
    assert run(command) == 1
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1, printed
    assert printed[0].startswith("ClusterError: tcp://127.0.0.1:9: no Dask scheduler answers")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:99999", "tcp://127.0.0.1", "nonsense", "tcp://no.invalid:8786"])
def test_what_is_no_address_of_a_scheduler_is_refused_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.comm, "connect", None)  # nothing is tried
    with pytest.raises(ParameterError, match=f"{address}: (not the address|the host no.invalid is not known)"):
        dask_executor.connect(address).__enter__()


def test_something_else_that_listens_and_never_answers_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"{address}: no Dask scheduler answers"):
            dask_executor.connect(address).__enter__()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_run_in_part_files_goes_on_after_an_interruption(
    songs_folder: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, output = str(tmp_path / "store"), f"{tmp_path / 'matches'}{suffix}/"
    clips = [str(songs_folder / f"{seed:02d}.wav") for seed in range(4)]
    assert run(["index", clips[0], clips[2], "--store", url]) == 0
    monkeypatch.setattr(identification, "BATCH_BYTES", 0)  # each clip is a batch
    write, written = tables.write, []

    def write_two_and_stop(matches: Any, schema: Any, part: str, *how: Any, **options: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(part)
        write(matches, schema, part, *how, **options)

    command = ["identify", *clips, "--store", url, "--output", output]
    with monkeypatch.context() as interrupted:
        interrupted.setattr(tables, "write", write_two_and_stop)
        assert run(command) == 130
    assert run(command) == 0
    assert "2 of 4 clips have an answer" in capsys.readouterr().err
    assert sorted(path.name for path in Path(output).iterdir()) == [
        "_run.json",
        *(f"part-{number:06d}{suffix}" for number in range(1, 5)),
    ]
    assert dataset.open_dataset(output, {}) == set(clips)
    assert run([*command, "--speed-range", "2"]) == 1
    assert "another run (speed_range 0.0, not 2.0)" in capsys.readouterr().err
