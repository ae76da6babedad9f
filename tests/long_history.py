"""A long history in the small: thousands of commits and hundreds of compactions, then nights; what must stay flat.

``python -m tests.long_history 5000 730`` makes 5,000 commits of one song with a compaction after each 25, and plays 730
nights of `tests.nightly` with a compaction after each 7. The library keeps its size. It ends with 1 when the time of a
commit, the memory, the files or the logs grow, or when the store does not check clean.

Delta keeps each deletion in its checkpoints for seven days. Here it counts as made eight days before, so that the logs
are those of a history of years, and not of the thousands of commits of one hour.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from deltalake import transaction

from pipeline import Store
from tests import nightly
from tests.soak import memory_mb
from tests.store_jobs import ids, index, remove, small_song

COMMITS_A_COMPACTION = 25
NIGHTS_A_COMPACTION = 7
# Songs that the library keeps.
SONGS = 50
# By how much a figure of the last third may exceed that of the first: memory in MB, the others as a share.
MORE_MB = 20.0
MORE = 0.25
REMOVE = transaction.RemoveAction


@dataclass(frozen=True, slots=True)
class Figures:
    """What a store and this process take, right after a compaction.

    Parameters
    ----------
    commit_ms
        CPU time of a commit since the compaction before.
    log_files, log_kb
        Of the three Delta logs.
    """

    commit_ms: float
    memory_mb: float
    files: int
    log_files: int
    log_kb: float


def deleted_long_ago(*args: Any, deletion_timestamp: int, **options: Any) -> transaction.RemoveAction:
    """A deletion that was made eight days before."""
    return REMOVE(*args, deletion_timestamp=deletion_timestamp - 8 * 86_400_000, **options)


def measure(store: Store, commit_ms: float) -> Figures:
    files = [path for path in Path(store.url).rglob("*") if path.is_file()]
    logs = [path for path in files if "_delta_log" in path.parts]
    sizes = sum(path.stat().st_size for path in logs)
    return Figures(commit_ms, memory_mb(os.getpid()), len(files) - len(logs), len(logs), sizes / 1e3)


def commits(store: Store, numbers: range) -> None:
    """One commit for each song; then the oldest ones are removed, and the store is compacted."""
    for number in numbers:
        index(store, [number])
    small_song.cache_clear()  # 4 kB a song, which is a growth of this process and not of the library
    remove(store, set(range(max(0, numbers.start - SONGS), max(0, numbers.stop - SONGS))))
    store.compact(grace_hours=0)


def history(store: Store, turns: int, n_commits: int, turn: Callable[[int], None]) -> list[Figures]:
    """The figures after each turn, which makes so many commits; a tenth of them is printed."""
    print(" ".join(["turn".rjust(6), *(field.name.rjust(10) for field in fields(Figures))]))
    made = []
    for number in range(turns):
        began = time.process_time()
        turn(number)
        made.append(measure(store, 1000 * (time.process_time() - began) / n_commits))
        if number % max(1, turns // 10) == 0 or number == turns - 1:
            print(" ".join([f"{number:6}", *(f"{value:10.1f}" for value in astuple(made[-1]))]), flush=True)
    return made


def grown(made: list[Figures]) -> list[str]:
    """What is larger in the last third than in the first, of the turns after the library has its size."""
    settled = made[len(made) // 5 :]
    third = max(1, len(settled) // 3)
    found = []
    for name in [field.name for field in fields(Figures)]:
        values = np.array([getattr(one, name) for one in settled])
        first, last = float(np.median(values[:third])), float(np.median(values[-third:]))
        if last > (first + MORE_MB if name == "memory_mb" else first * (1 + MORE)):
            found.append(f"{name} grew from {first:.1f} to {last:.1f}")
    return found


def play(place: Path, n_commits: int, n_nights: int) -> list[str]:
    """Both histories, in a folder; what is wrong."""
    wrongs = []
    store = Store.create(str(place / "commits"))
    edges = range(0, n_commits + 1, COMMITS_A_COMPACTION)
    parts = [range(first, stop) for first, stop in itertools.pairwise(edges)]
    wrongs += grown(history(store, len(parts), COMMITS_A_COMPACTION, lambda turn: commits(store, parts[turn])))
    wrongs += map(str, store.check())
    if (left := len(ids(store, set(range(n_commits))))) != store.snapshot().n_songs:
        wrongs.append(f"{store.snapshot().n_songs} songs, {left} are known")

    folder, nights = nightly.Folder(place / "music", 1), Store.create(str(place / "nights"))
    rng = np.random.default_rng(1)

    def week(turn: int) -> None:
        for _ in range(NIGHTS_A_COMPACTION):
            nightly.night(folder.path, nights, commit_at_once=bool(rng.integers(2)))
            folder.day(int(rng.integers(1, 9)))
        nights.compact(grace_hours=0)

    if n_nights:
        wrongs += grown(history(nights, n_nights // NIGHTS_A_COMPACTION, NIGHTS_A_COMPACTION, week))
        wrongs += map(str, nights.check())
    return wrongs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commits", type=int)
    parser.add_argument("nights", type=int, nargs="?", default=0)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="songprint-history-"))
    with mock.patch.object(transaction, "RemoveAction", deleted_long_ago):
        wrongs = play(place, options.commits, options.nights)
    for line in wrongs:
        print("WRONG", line)
    shutil.rmtree(place)
    return 1 if wrongs else 0


if __name__ == "__main__":
    sys.exit(main())
