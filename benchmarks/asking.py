"""What asking costs in stores of 1 to 400 million postings, against DuckDB on the same files; and what adding costs.

    python -m benchmarks.asking --like STORE --clips FOLDER [--sizes 1,10,100] [--pairs 5] [--keep FOLDER]

STORE is of real music and gives the synthetic stores their distribution of hashes (`benchmarks.synthetic`); the clips
are real recordings, some 5 s long. The same hashes are asked of songprint and of DuckDB (join on the hash, group by
song and delta, best 20), both with two threads and with files that the operating system has in memory ("warm") or has
been asked to drop ("cold", on Linux). Whole clips (spectrogram, look-up, votes, verification; no decoding) are
then timed in CPU.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.machine import describe, spread, table
from benchmarks.synthetic import Spread, build, stage_batch, store_at
from pipeline import audio, catalog
from pipeline.executor import Executor, Loop
from pipeline.match import join, vote
from pipeline.recognise import CANDIDATES, SPARSE, Clip, Query, recognise, unique
from pipeline.store import Snapshot, Store

ADDED_SONGS = 100
# How many clips are asked together at most: what a task of an identify run has.
TOGETHER = 64

DUCKDB = """
    with hit as (
        select song_id, (p.offset - q.frame) as delta
        from read_parquet({files}) p join question q on p.hash = q.hash
    )
    select song_id, delta, count(*) as votes from hit group by all order by votes desc limit 20
"""


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How long something takes, by a clock."""
    began = clock()
    work()
    return clock() - began


def drop_cache(folder: str) -> None:
    """Ask the operating system to forget a folder's files."""
    for path in Path(folder).rglob("*.parquet"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def look_up(snapshot: Snapshot, clip: Clip) -> object:
    """What the join and the votes of one clip take."""
    question = clip.question(SPARSE)
    return vote(join(question, snapshot.postings(unique(question.hash))), CANDIDATES)


def by_duckdb(store: Store, clip: Clip) -> Callable[[], object]:
    """The same question for DuckDB, over the same files."""
    import duckdb

    question = clip.question(SPARSE)
    files = [os.path.join(store.url, name) for name in store.snapshot().files("postings")]
    connection = duckdb.connect()
    connection.execute("set threads = 2")
    connection.register("question", pa.table({"hash": question.hash, "frame": question.tick}))
    return lambda: connection.execute(DUCKDB.format(files=files)).fetchall()


def ask_all(snapshot: Snapshot, clips: list[NDArray[np.float32]]) -> None:
    """What an identify run does with its clips after decoding them."""
    for start in range(0, len(clips), TOGETHER):
        recognise(clips[start : start + TOGETHER], snapshot, Query())


def at_size(store: Store, clips: list[NDArray[np.float32]], pairs: int) -> list[str]:
    """One row: a single clip cold and warm, against DuckDB, and a batch."""
    settings = store.settings
    one = Clip(clips[0], settings)
    drop_cache(store.url)
    cold = seconds(lambda: look_up(store.snapshot(), one))
    snapshot = store.snapshot()
    look_up(snapshot, one)
    duckdb = by_duckdb(store, one)
    duckdb()
    ours, theirs = [], []
    for _ in range(pairs):
        ours.append(seconds(lambda: look_up(snapshot, one)))
        theirs.append(seconds(duckdb))
    single = statistics.median(
        seconds(lambda clip=clip: recognise([clip], snapshot, Query()), time.process_time) for clip in clips[:20]
    )
    batch = seconds(lambda: ask_all(snapshot, clips), time.process_time) / len(clips)
    size = snapshot.size()
    return [
        f"{size['postings'] / 1e6:.0f} M",
        f"{size['bytes_per_posting']:.2f}",
        f"{cold * 1e3:.0f}",
        spread([took * 1e3 for took in ours], "{:.0f}"),
        spread([took * 1e3 for took in theirs], "{:.0f}"),
        spread([b / a for a, b in zip(ours, theirs, strict=True)], "{:.0f}"),
        f"{single * 1e3:.0f}",
        f"{batch * 1e3:.0f}",
    ]


def add(spread_: Spread, store: Store, empty: Store, seed: int) -> float:
    """CPU of adding some songs to a store, over adding them to an empty one."""

    def once(target: Store, seed: int) -> float:
        return seconds(
            lambda: target.commit([stage_batch((spread_, target.url, seed, ADDED_SONGS))]), time.process_time
        )

    return once(store, seed) / once(empty, seed)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="What asking and adding cost, as Markdown.")
    parser.add_argument("--like", required=True, help="store of real music")
    parser.add_argument("--clips", required=True, help="folder of clips")
    parser.add_argument("--sizes", default="1,10,100", help="millions of postings, rising")
    parser.add_argument("--most-clips", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="processes that build the stores")
    parser.add_argument("--keep", type=Path, help="where the store is made and stays")
    options = parser.parse_args()
    print(f"## Asking\n\n{describe()}\n")
    like = Store.open(options.like)
    entries = catalog.walk([options.clips])[: options.most_clips]
    clips = [audio.read(entry.path, like.settings.sample_rate)[0] for entry in entries]
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        executor: Executor = Loop()
        if options.workers:
            from pipeline import cluster

            executor = stack.enter_context(cluster.local(options.workers))
        drawn = Spread(like)
        store = store_at(folder / "store", like)
        rows = []
        for millions in options.sizes.split(","):
            build(drawn, store, int(float(millions) * 1e6), executor)
            store.compact(map=executor.map, grace_hours=0)
            rows.append(at_size(store, clips, options.pairs))
        head = ["postings", "bytes each", "one clip cold, ms", "warm, ms", "DuckDB warm, ms", "DuckDB over ours",
                "one clip whole, CPU ms", f"each of {len(clips)} clips, CPU ms"]  # fmt: skip
        print(table(head, rows))
        ratios = []
        for place in range(options.pairs):
            empty = folder / f"empty{place}"
            ratios.append(add(drawn, store, store_at(empty, like), 900_000 + place))
            shutil.rmtree(empty)
        print(
            f"\nAdding {ADDED_SONGS} songs to the largest, CPU over adding them to an empty store: {spread(ratios)}\n"
        )


if __name__ == "__main__":
    main()
