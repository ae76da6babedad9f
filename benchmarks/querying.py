"""What queries cost in stores of 1 to 400 million postings, compared with DuckDB on the same files; what adding costs.

    python -m benchmarks.querying MUSIC [--sizes 1,10,100,400] [--clips 1000] [--keep FOLDER]

MUSIC is a folder of real music. Its songs are in every store, so that clips of them have a match. Synthetic songs whose
hashes are distributed alike (`benchmarks.synthetic`) fill the store. Clips of 5 s are cut from MUSIC at random and
degraded by formula: a room, and noise 10 dB below the music.

Look-up and votes of one clip are timed in pairs with DuckDB (join on the hash, group by position less frame, best 20).
Each pair has another clip. DuckDB uses two threads, songprint one. The files are in the operating system's cache
("warm") or were dropped from it ("cold", on Linux). Whole clips (spectrogram, look-up, votes, verification; no
decoding) are timed in CPU seconds, one by one and all together.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks import targets
from benchmarks.machine import describe, median_and_range, table
from benchmarks.synthetic import HashDistribution, build, store_at
from pipeline.audio import decoding
from pipeline.execution.executor import Executor, SerialExecutor
from pipeline.identification import CLIPS_AT_ONCE
from pipeline.indexing import index
from pipeline.matching.clip import Clip
from pipeline.matching.search import COARSE, find_matches
from pipeline.matching.types import Query
from pipeline.matching.voting import TICKS, QueryHashes, find_candidates
from pipeline.simulation import acoustics
from pipeline.store import Snapshot, StagedSong, Store, stage

THREADS = 2
ADDED_SONGS = 100
ADDED_LENGTH = 7  # four minutes
CLIP_S = 5.0
OVER_NOISE_DB = 10.0

DUCKDB = """
    with hit as (
        select (p.position - q.frame) as delta
        from read_parquet({files}) p join query_hash q on p.hash = q.hash
    )
    select delta, count(*) as votes from hit group by all order by votes desc limit 20
"""


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """A clip whose song is known, by its path."""

    path: str
    samples: NDArray[np.float32]


def excerpts(real: Store, count: int, seed: int = 1) -> list[Excerpt]:
    """Clips of the songs of a store, from random places, as a phone in a noisy room records them."""
    rng = np.random.default_rng(seed)
    songs = real.snapshot().songs(["path", "duration_s"]).to_pylist()
    songs = [song for song in songs if song["duration_s"] > 3 * CLIP_S]
    rate = real.settings.sample_rate
    of_song: dict[str, list[tuple[int, float]]] = {}
    for place in range(count):
        song = songs[rng.integers(len(songs))]
        of_song.setdefault(song["path"], []).append((place, rng.uniform(CLIP_S, song["duration_s"] - 2 * CLIP_S)))
    made: dict[int, Excerpt] = {}
    for path, places in of_song.items():  # each song is decoded once
        whole, _ = decoding.read(path, rate)
        for place, start in places:
            samples = whole[round(start * rate) : round((start + CLIP_S) * rate)]
            made[place] = Excerpt(path, acoustics.recording(samples, OVER_NOISE_DB, place, rate))
    return [made[place] for place in range(count)]


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that a call takes, by a clock."""
    began = clock()
    work()
    return clock() - began


def drop_cache(folder: str) -> None:
    """Drop a folder's files from the operating system's cache."""
    for path in Path(folder).rglob("*.parquet"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def look_up(snapshot: Snapshot, hashes: QueryHashes) -> object:
    """Look up the hashes of one clip and count votes."""
    return find_candidates([hashes], snapshot, COARSE.candidates)[0]


def by_duckdb(store: Store) -> Callable[[QueryHashes], object]:
    """`look_up` by DuckDB, over the same files."""
    import duckdb

    files = [os.path.join(store.url, name) for name in store.snapshot().files("postings")]
    connection = duckdb.connect()
    connection.execute(f"set threads = {THREADS}")

    def search(hashes: QueryHashes) -> object:
        connection.register("query_hash", pa.table({"hash": hashes.hash, "frame": hashes.tick // TICKS}))
        return connection.execute(DUCKDB.format(files=files)).fetchall()

    return search


def right(snapshot: Snapshot, clips: list[Excerpt], query: Query) -> float:
    """Percent of the clips that are named rightly, in batches as in an identify run."""
    songs = snapshot.songs(["song_id", "path"])
    path_of = dict(zip(songs["song_id"].to_pylist(), songs["path"].to_pylist(), strict=True))
    named = 0
    for start in range(0, len(clips), CLIPS_AT_ONCE):
        some = clips[start : start + CLIPS_AT_ONCE]
        found = find_matches([clip.samples for clip in some], snapshot, query)
        named += sum(
            bool(matches) and path_of[matches[0].song_id] == clip.path
            for clip, matches in zip(some, found, strict=True)
        )
    return 100 * named / len(clips)


@dataclasses.dataclass(frozen=True)
class Figures:
    """Costs in a store of one size: milliseconds, for each pair where there are pairs, for each clip in `batch`."""

    postings: int
    bytes_each: float
    cold: float
    warm: list[float]
    duckdb: list[float]
    single: float
    batch: float
    right: float

    @property
    def over_duckdb(self) -> list[float]:
        """Our time over DuckDB's."""
        return [ours / theirs for ours, theirs in zip(self.warm, self.duckdb, strict=True)]

    def row(self) -> list[str]:
        """A line of the table."""
        return [
            f"{self.postings / 1e6:.0f} M",
            f"{self.bytes_each:.2f}",
            f"{self.cold:.0f}",
            median_and_range(self.warm, "{:.0f}"),
            median_and_range(self.duckdb, "{:.0f}"),
            median_and_range([1 / ratio for ratio in self.over_duckdb], "{:.0f}"),
            f"{self.single:.0f}",
            f"{self.batch:.0f}",
            f"{self.right:.0f}",
        ]


def at_size(store: Store, clips: list[Excerpt], pairs: int) -> Figures:
    """Measure one clip, cold and warm, and compare with DuckDB; then whole clips one by one, and all together."""
    queries = [Clip(clip.samples, store.settings).query_hashes(COARSE) for clip in clips[: pairs + 1]]
    drop_cache(store.url)
    cold = seconds(lambda: look_up(store.snapshot(), queries[-1]))
    snapshot = store.snapshot()
    duckdb = by_duckdb(store)
    look_up(snapshot, queries[-1])  # reads the footers
    duckdb(queries[-1])
    ours, theirs = [], []
    for hashes in queries[:pairs]:
        ours.append(seconds(lambda hashes=hashes: look_up(snapshot, hashes)))
        theirs.append(seconds(lambda hashes=hashes: duckdb(hashes)))
    single = [
        seconds(lambda clip=clip: find_matches([clip.samples], snapshot, Query()), time.process_time)
        for clip in clips[: 2 * pairs]
    ]
    began = time.process_time()
    percent = right(snapshot, clips, Query())
    batch = (time.process_time() - began) / len(clips)
    size = snapshot.size()
    return Figures(
        size["postings"],
        size["bytes_per_posting"],
        1e3 * cold,
        [1e3 * took for took in ours],
        [1e3 * took for took in theirs],
        1e3 * statistics.median(single),
        1e3 * batch,
        percent,
    )


def add(store: Store, songs: list[StagedSong]) -> float:
    """CPU seconds of staging and committing some songs."""
    return seconds(lambda: store.commit([stage(store.url, "added", songs)]), time.process_time)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="What queries and adding cost, as Markdown.")
    parser.add_argument("music", type=Path, help="folder of real music")
    parser.add_argument("--sizes", default="1,10,100,400", help="millions of postings, rising")
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--workers", type=int, default=0, help="processes that build the stores")
    parser.add_argument("--keep", type=Path, help="where the stores are made and kept")
    options = parser.parse_args()
    print(f"## Querying\n\n{describe()}\n")
    pa.set_cpu_count(THREADS)
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        executor: Executor = SerialExecutor()
        if options.workers:
            from pipeline.execution import dask_executor

            executor = stack.enter_context(dask_executor.local(options.workers))
        real = Store.open_or_create(str(folder / "real"))
        index([str(options.music)], real, executor)
        clips = excerpts(real, options.clips)
        drawn = HashDistribution(real)
        n_songs = f"{real.snapshot().n_songs} songs"
        few = single_clips_cpu_ms(real, clips)
        print(f"One clip, {n_songs}, without decoding: {median_and_range(few, '{:.0f}')} CPU ms")
        shell = from_shell(real, clips, options.pairs)
        print(f"From the shell, wall over importing pandas, pyarrow, scipy.fft: {median_and_range(shell)}\n")
        store = store_at(folder / "store", real)
        store.absorb(real)
        sizes = []
        for millions in options.sizes.split(","):
            build(drawn, store, int(float(millions) * 1e6), executor)
            store.compact(map=executor.map, grace_hours=0)
            sizes.append(at_size(store, clips, options.pairs))
        head = ["postings", "bytes each", "one clip cold, ms", "warm, ms", "DuckDB warm, ms", "DuckDB over ours",
                "one clip whole, CPU ms", f"each of {len(clips)} clips, CPU ms", "right, %"]  # fmt: skip
        print(table(head, [size.row() for size in sizes]))
        ratios = []
        for place in range(2 * options.pairs):  # every other pair in reverse order: the second store finds warm caches
            songs = drawn.songs(seed=int(time.time()) * 100 + place, count=ADDED_SONGS, length=ADDED_LENGTH)
            empty = store_at(folder / "empty", real)
            took = {each: add(each, songs) for each in ((store, empty) if place % 2 else (empty, store))}
            ratios.append(took[store] / took[empty])
            shutil.rmtree(folder / "empty")
        print(
            f"\nAdding {ADDED_SONGS} songs to the largest, CPU over adding them to an empty store: "
            f"{median_and_range(ratios)}\n"
        )
        largest = sizes[-1]
        where = f"{largest.postings / 1e6:.0f} M postings"
        met = [
            targets.row(targets.ADDING, ratios, where),
            targets.row(targets.BYTES, [largest.bytes_each], where),
            targets.row(targets.SHELL, shell, n_songs),
            targets.row(targets.FEW_SONGS, few, n_songs),
            targets.row(targets.DUCKDB, largest.over_duckdb, where),
            targets.row(targets.MANY_CLIPS, [largest.batch], f"{len(clips)} clips, {where}"),
        ]
        print(targets.report(met))


def from_shell(store: Store, clips: list[Excerpt], pairs: int) -> list[float]:
    """Wall time of ``songprint identify`` with one clip over the time to import some libraries."""
    import soundfile

    def wall(*words: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True))

    with tempfile.TemporaryDirectory() as folder:
        ratios = []
        for place, clip in enumerate(clips[:pairs]):
            path = f"{folder}/{place}.wav"
            soundfile.write(path, clip.samples, store.settings.sample_rate)
            ours = wall("-m", "jobs", "identify", path, "--store", store.url)
            ratios.append(ours / wall("-c", "import pandas, pyarrow, scipy.fft"))
    return ratios


def single_clips_cpu_ms(store: Store, clips: list[Excerpt]) -> list[float]:
    """CPU milliseconds of the first 50 clips, each by itself."""
    snapshot = store.snapshot()
    find_matches([clips[0].samples], snapshot, Query())  # reads the store into memory, once
    return [
        1e3 * seconds(lambda clip=clip: find_matches([clip.samples], snapshot, Query()), time.process_time)
        for clip in clips[:50]
    ]


if __name__ == "__main__":
    main()
