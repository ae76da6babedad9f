"""A long run in minutes: index, identify, remove and compact in a loop, while memory and descriptors are counted.

``python -m tests.soak 30`` works for 30 minutes in this process and in one Dask worker that lives as long, on formula
songs of every format with broken files among them. It ends with 1 when something grew, when the store does not check
clean, or when a match is not what it was at first.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import Store, identify, index
from pipeline.execution import dask_executor
from pipeline.simulation import encoding, music
from tests import fuzz_audio, zoo

SONGS = 12
SONG_S = 15.0
# Pools and caches fill in the first half of a run; the second half is judged, by its slope. What is known to grow:
# libsndfile 1.2.2 loses 6 kB of each malformed Ogg that it refuses to open, two in a round here, 5 to 7 MB an hour.
SETTLED = 0.5
HOURLY_MB = 30.0
# A store's log keeps its commits for days, and a reader holds some 4 kB for each: a round makes ten, in seconds.
# So a new store is begun now and then; what still grows is a leak.
ROUNDS_A_STORE = 40


@dataclass(frozen=True, slots=True)
class Count:
    """What is counted after each round: of this process, of its children, and of the store without its logs.

    The memory is what each process has for itself: pages of files that are mapped come and go with the machine's cache.
    """

    minute: float
    memory_mb: float
    children_mb: float
    descriptors: int
    children_descriptors: int
    children: int
    store_files: int
    store_mb: float
    log_files: int


def family(pid: int) -> list[int]:
    """The descendants of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *family(child)]
    return found


def memory_mb(pid: int) -> float:
    words = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(words[1]) / 1024 if words else 0.0


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def count(store: Path, minute: float) -> Count:
    children = family(os.getpid())
    files = [path for path in store.rglob("*") if path.is_file()]
    data = [path for path in files if "_delta_log" not in path.parts]
    return Count(
        minute,
        memory_mb(os.getpid()),
        sum(map(memory_mb, children)),
        descriptors(os.getpid()),
        sum(map(descriptors, children)),
        len(children),
        len(data),
        sum(path.stat().st_size for path in data) / 1e6,
        len(files) - len(data),
    )


def make_files(folder: Path) -> tuple[Path, Path]:
    """A library with broken files in it, and clips with broken ones among them."""
    songs, clips = folder / "music", folder / "clips"
    songs.mkdir()
    clips.mkdir()
    suffixes = (".mp3", ".flac", ".ogg", ".opus", ".m4a", ".wav")
    for seed in range(SONGS):
        samples = music.song(seed, SONG_S)
        encoding.write(songs / f"{seed:02d}{suffixes[seed % len(suffixes)]}", samples)
        if seed % 3 == 0:
            rate = music.SAMPLE_RATE
            encoding.write(clips / f"{seed:02d}{suffixes[-seed % len(suffixes)]}", samples[3 * rate : 9 * rate])
    broken = folder / "broken"
    broken.mkdir()
    zoo.encode(broken, zoo.stereo()[: 2 * zoo.RATE], fuzz_audio.FORMATS)
    for number, path in enumerate(sorted(broken.iterdir())):
        rng = np.random.default_rng(number)
        for place in (songs, clips):
            (place / f"broken-{path.name}").write_bytes(fuzz_audio.corrupt(path.read_bytes(), rng))
    shutil.rmtree(broken)
    return songs, clips


def results_of(answers: pa.Table) -> set[tuple[str, str]]:
    """What must be the same of each clip in every round: the song of an intact clip, whether a broken one failed.

    The broken clips hold parts of the same music, so which of the broken songs they match is chance.
    """
    return {
        (
            row["clip"],
            row["song_path"] or row["status"] if "broken" not in row["clip"] else str(row["status"] == "failed"),
        )
        for row in answers.to_pylist()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="songprint-soak-"))
    music, clips = make_files(folder)
    stores = folder / "stores"
    counts: list[Count] = []
    wrongs: list[str] = []
    expected: set[tuple[str, str]] | None = None
    n_songs = 0
    began = printed = time.monotonic()
    with dask_executor.local(1) as worker:
        while time.monotonic() - began < options.minutes * 60 and not wrongs:
            if len(counts) % ROUNDS_A_STORE == 0:
                shutil.rmtree(stores, ignore_errors=True)
                store = Store.create(str(stores / str(len(counts))))
            place = worker if len(counts) % 2 else None  # in turn in the worker and in this process
            index([str(music)], store, place, limit_s=60)
            answers = identify([str(clips)], store, executor=place, limit_s=60)
            songs = store.snapshot().songs(["song_id", "path"]).sort_by("path")
            found = results_of(answers)
            expected, n_songs = (found, len(songs)) if expected is None else (expected, n_songs)
            if found != expected:
                wrongs.append(f"round {len(counts)}: {sorted(found ^ expected)} where rounds differ")
            if len(songs) != n_songs:
                wrongs.append(f"round {len(counts)}: {len(songs)} songs, {n_songs} at first")
            store.remove(songs["song_id"].to_pylist()[len(counts) % 2 :: 2])
            store.compact(grace_hours=0, map=place.map if place else map)
            wrongs += [f"round {len(counts)}: {problem}" for problem in store.check()]
            counts.append(count(stores, (time.monotonic() - began) / 60))
            if time.monotonic() - printed > 60:
                printed = time.monotonic()
                print(f"{len(counts)} rounds, {counts[-1]}", flush=True)
    wrongs += judge(counts)
    for line in wrongs:
        print("WRONG", line)
    shutil.rmtree(folder)
    return 1 if wrongs else 0


def judge(counts: list[Count]) -> list[str]:
    """Print each figure's medians over the first and the last third of the settled half, and its slope; what grew."""
    settled = counts[int(SETTLED * len(counts)) :]
    third = len(settled) // 3
    print(f"{len(counts)} rounds in {counts[-1].minute:.1f} minutes")
    if third < 3:
        return ["too few rounds to see growth; give it more minutes"]
    hours = np.array([one.minute for one in settled]) / 60
    grown = []
    for name in [field.name for field in fields(Count)][1:]:
        values = np.array([getattr(one, name) for one in settled], float)
        first, last, hourly = np.median(values[:third]), np.median(values[-third:]), slope(hours, values)
        print(f"  {name:21} {first:9.1f} → {last:9.1f}, {hourly:+8.1f} an hour")
        if name in ("memory_mb", "children_mb"):
            if hourly > HOURLY_MB:
                grown.append(f"{name} grew by {hourly:.0f} MB an hour; {HOURLY_MB:.0f} are allowed")
        elif last - first > 0.02 * first:
            grown.append(f"{name} grew from {first:g} to {last:g}")
    return grown


def slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The median slope between all pairs of points that are far enough apart (Theil and Sen), whatever outliers do."""
    early, late = np.nonzero(x[None, :] - x[:, None] > 0.25 * (x[-1] - x[0]))
    return float(np.median((y[late] - y[early]) / (x[late] - x[early])))


if __name__ == "__main__":
    sys.exit(main())
