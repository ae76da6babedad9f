"""A long night in short: index, identify, remove and compact in a loop, while memory and descriptors are counted.

``python -m tests.soak 30`` works for 30 minutes in this process and in one Dask worker that lives as long, on formula
songs of every format with broken files among them. It ends with 1 when something grew, when the store does not check
clean, or when an answer is not what it was at first.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline import Store, cluster, identify, index, synthesis
from tests import fuzz_audio, zoo

SONGS = 12
SONG_S = 15.0
WARM = 0.2  # of the rounds, in which caches and pools fill
GROWTH_MB = 24.0  # more from the first third to the last is growth; malloc's noise is some MB
HOURLY_MB = 200.0  # a slower leak that long runs would feel


@dataclass(frozen=True, slots=True)
class Count:
    """What is counted after each round: of this process, of its children, and of the store without its logs."""

    rss_mb: float
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


def rss_mb(pid: int) -> float:
    words = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(words[1]) / 1024 if words else 0.0


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def count(store: Path) -> Count:
    children = family(os.getpid())
    files = [path for path in store.rglob("*") if path.is_file()]
    data = [path for path in files if "_delta_log" not in path.parts]
    return Count(
        rss_mb(os.getpid()),
        sum(map(rss_mb, children)),
        descriptors(os.getpid()),
        sum(map(descriptors, children)),
        len(children),
        len(data),
        sum(path.stat().st_size for path in data) / 1e6,
        len(files) - len(data),
    )


def furnish(folder: Path) -> tuple[Path, Path]:
    """A library with broken files in it, and clips with broken ones among them."""
    music, clips = folder / "music", folder / "clips"
    music.mkdir()
    clips.mkdir()
    suffixes = (".mp3", ".flac", ".ogg", ".opus", ".m4a", ".wav")
    for seed in range(SONGS):
        samples = synthesis.song(seed, SONG_S)
        synthesis.write(music / f"{seed:02d}{suffixes[seed % len(suffixes)]}", samples)
        if seed % 3 == 0:
            rate = synthesis.SAMPLE_RATE
            synthesis.write(clips / f"{seed:02d}{suffixes[-seed % len(suffixes)]}", samples[3 * rate : 9 * rate])
    broken = folder / "broken"
    broken.mkdir()
    zoo.encode(broken, zoo.stereo()[: 2 * zoo.RATE], fuzz_audio.FORMATS)
    for number, path in enumerate(sorted(broken.iterdir())):
        rng = np.random.default_rng(number)
        for place in (music, clips):
            (place / f"broken-{path.name}").write_bytes(fuzz_audio.corrupt(path.read_bytes(), rng))
    shutil.rmtree(broken)
    return music, clips


def said_of(answers: pa.Table) -> set[tuple[str, str]]:
    """What must be said of each clip in every round: the song of those that are whole, of the others if they failed.

    The broken ones hold bits of one and the same music, so which of the broken songs they are is a draw.
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
    music, clips = furnish(folder)
    store = Store.create(str(folder / "store"))
    counts: list[Count] = []
    wrongs: list[str] = []
    expected: set[tuple[str, str]] | None = None
    n_songs = 0
    began = said = time.monotonic()
    with cluster.local(1) as worker:
        while time.monotonic() - began < options.minutes * 60 and not wrongs:
            place = worker if len(counts) % 2 else None  # in turn in the worker and in this process
            index([str(music)], store, place, limit_s=60)
            answers = identify([str(clips)], store, executor=place, limit_s=60)
            songs = store.snapshot().songs(["song_id", "path"]).sort_by("path")
            found = said_of(answers)
            expected, n_songs = (found, len(songs)) if expected is None else (expected, n_songs)
            if found != expected:
                wrongs.append(f"round {len(counts)}: {sorted(found ^ expected)} where rounds differ")
            if len(songs) != n_songs:
                wrongs.append(f"round {len(counts)}: {len(songs)} songs, {n_songs} at first")
            store.remove(songs["song_id"].to_pylist()[len(counts) % 2 :: 2])
            store.compact(grace_hours=0, map=place.map if place else map)
            wrongs += [f"round {len(counts)}: {problem}" for problem in store.check()]
            counts.append(count(folder / "store"))
            if time.monotonic() - said > 60:
                said = time.monotonic()
                print(f"{(said - began) / 60:5.1f} min, {len(counts)} rounds, {counts[-1]}", flush=True)
    minutes = (time.monotonic() - began) / 60
    wrongs += judge(counts, minutes)
    for line in wrongs:
        print("WRONG", line)
    shutil.rmtree(folder)
    return 1 if wrongs else 0


def judge(counts: list[Count], minutes: float) -> list[str]:
    """Print each figure's median over the first third (after the warm rounds) and the last; what grew."""
    settled = counts[int(WARM * len(counts)) :]
    third = len(settled) // 3
    print(f"{len(counts)} rounds in {minutes:.1f} minutes")
    if third < 3:
        return ["too few rounds to see growth; give it more minutes"]
    grown = []
    for name in (field.name for field in fields(Count)):
        first, last = (
            statistics.median(getattr(one, name) for one in part) for part in (settled[:third], settled[-third:])
        )
        growth = last - first
        print(f"  {name:21} {first:9.1f} → {last:9.1f}")
        hours = minutes / 60 * (1 - WARM) * 2 / 3  # between the middles of the two thirds
        if name.endswith("rss_mb") or name == "children_mb":
            if growth > GROWTH_MB or (growth / hours > HOURLY_MB and growth > GROWTH_MB / 2):
                grown.append(f"{name} grew by {growth:.1f} MB, {growth / hours:.0f} MB an hour")
        elif name != "log_files" and growth > 0.02 * first:  # the logs keep 30 days of entries
            grown.append(f"{name} grew from {first:g} to {last:g}")
    return grown


if __name__ == "__main__":
    sys.exit(main())
