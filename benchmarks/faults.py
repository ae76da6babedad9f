"""Index a library on a cluster whose workers are killed at random, and compare with an undisturbed run.

    python -m benchmarks.faults [MUSIC] [--copies 5] [--workers 4] [--every 4]

The scheduler and the workers, of one thread each, are processes of their own. Every few seconds one worker, picked at
random, gets SIGKILL, and another is started in its place. The library holds several copies of each song, as distinct
recordings: each copy is resampled by another 1 to 5 %. Without MUSIC, songs by formula are used. Exits with 1 if the
stores differ.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import soxr

from benchmarks.machine import describe
from pipeline import Store, catalog, indexing
from pipeline.audio import decoding
from pipeline.execution import dask_executor
from pipeline.simulation import encoding, music
from pipeline.store import Snapshot
from tests.dask_cluster import DaskCluster, dask_cluster

RATE = 22050
FORMULA_SONGS = 40
FORMULA_SONG_S = 60.0


def make_copies(folder: str | None, copies: int, into: Path) -> None:
    """Write several copies of each song, each 1 % faster than the one before."""
    if folder is None:
        songs = ((f"{seed:03d}", music.song(seed, FORMULA_SONG_S)) for seed in range(FORMULA_SONGS))
    else:
        found = enumerate(catalog.walk([folder]))
        songs = ((f"{place:03d}", decoding.read(entry.path, RATE)[0]) for place, entry in found)
    for name, samples in songs:
        for percent in range(1, copies + 1):
            encoding.write(into / f"{name}-{percent}.flac", soxr.resample(samples, 1 + percent / 100, 1.0))


def kill_at_random(cluster: DaskCluster, every_s: float, stop: threading.Event, seed: int = 0) -> list[str]:
    """Kill a worker and start another until ``stop`` is set; return the names of those that were killed."""
    rng = random.Random(seed)
    killed: list[str] = []
    while not stop.wait(every_s):
        victim = rng.choice(sorted(cluster.workers))
        cluster.kill(victim)
        killed.append(victim)
        cluster.start_worker(f"w{len(killed) + 100}")
    return killed


def run(library: Path, url: str, folder: Path, workers: int, every_s: float) -> tuple[indexing.IndexReport, int]:
    """Run one index job on a cluster by hand; with ``every_s`` 0 no worker is killed."""
    stop = threading.Event()
    killed: list[str] = []
    folder.mkdir()
    with dask_cluster(folder, workers) as cluster:
        killer = threading.Thread(target=lambda: killed.extend(kill_at_random(cluster, every_s, stop)))
        with dask_executor.connect(cluster.address) as running:
            while running.workers < workers:
                time.sleep(0.1)
            if every_s:
                killer.start()
            try:
                report = indexing.index([str(library)], Store.open_or_create(url), running)
            finally:
                stop.set()
                if every_s:
                    killer.join()
    return report, len(killed)


def same(one: str, other: str) -> bool:
    """Whether two stores hold the same songs, postings and peaks, in whatever files."""
    first, second = Store.open(one).snapshot(), Store.open(other).snapshot()
    columns = ["song_id", "path", "digest", "landmarks", "duration_s"]
    songs: pa.Table = first.songs(columns)
    if not songs.equals(second.songs(columns)):
        return False
    ids = songs["song_id"].to_pylist()
    peaks, others = first.constellations(ids), second.constellations(ids)
    if not all(
        np.array_equal(getattr(peaks[song], column), getattr(others[song], column))
        for song in ids
        for column in ("frame", "bin", "level")
    ):
        return False
    return bool(postings(first).equals(postings(second)))


def postings(snapshot: Snapshot) -> pa.Table:
    """All postings of a store, sorted by hash, song_id, offset."""
    parts = list(snapshot.sweep())
    names = ("hash", "song_id", "offset")
    return pa.table({name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def main() -> None:
    """Run both jobs and compare their stores."""
    parser = argparse.ArgumentParser(description="Index while workers are killed at random, and compare.")
    parser.add_argument("music", nargs="?", help="folder of music; songs by formula when there is none")
    parser.add_argument("--copies", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--every", type=float, default=4.0, help="seconds between kills")
    parser.add_argument("--made", type=Path, help="folder for the copies; a later run uses them again")
    options = parser.parse_args()
    print(f"## Faults\n\n{describe()}\n")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        library = options.made or place / "music"
        library.mkdir(exist_ok=True)
        if not any(library.iterdir()):
            make_copies(options.music, options.copies, library)
        disturbed, killed = run(library, str(place / "disturbed"), place / "a", options.workers, options.every)
        quiet, _ = run(library, str(place / "quiet"), place / "b", options.workers, 0)
        equal = same(str(place / "disturbed"), str(place / "quiet"))
    for name, report in (("disturbed", disturbed), ("undisturbed", quiet)):
        print(
            f"{name}: {report.added} songs, {report.audio_s / 3600:.1f} h, {len(report.failures)} failed, "
            f"{report.wall_s:.0f} s"
        )
        for failure in report.failures:
            print(f"  {failure.path}: {failure.reason}")
    print(f"{killed} workers killed; the stores are {'equal' if equal else 'NOT equal'}")
    sys.exit(not equal)


if __name__ == "__main__":
    main()
