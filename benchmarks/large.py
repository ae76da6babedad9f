"""The clips of a set, searched in its library alone and within a large one: recall side by side, and what it costs.

    python -m benchmarks.large SET [--songs 100000] [--keep FOLDER]       (or: make bench-large SET=folder SONGS=100000)

SET is a folder as for `benchmarks.recognition`. The large library has the set's songs, synthetic songs whose hashes are
distributed as theirs (`benchmarks.synthetic`), and distractors: songs made from the peaks of real ones, stretched in
time, shifted in pitch, cut and put together anew, so that bursts, loops and keys stay what they are in music. All are
shifted, by two semitones at least: what is only stretched is the same recording to a clip of a second or two.

A clip is right when its first match names the true file. Clips whose song is not in the set's library are out of the
library; with `--hidden`, so many others are searched in the large library without the songs whose file is named alike
(`track3_enhanced`, `track22`: editions, and music made of the same loops) and the distractors made of them. Costs are
those of one process.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks import targets
from benchmarks.machine import describe, table
from benchmarks.synthetic import FRAMES, POSTINGS_PER_SONG, SONG_S, HashDistribution, build, store_at
from pipeline.audio import decoding
from pipeline.audio.tags import Tags
from pipeline.evaluation.experiment import LibraryWithout
from pipeline.execution.executor import Executor, SerialExecutor
from pipeline.fingerprinting.landmarks import pair_peaks
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import BINS
from pipeline.indexing import index
from pipeline.matching.clip import Clip
from pipeline.matching.search import COARSE, DENSE, FINE, find_matches, search
from pipeline.matching.types import Library, Query
from pipeline.store import Manifest, Snapshot, StagedSong, Store, stage

# One in so many songs of the large library is a distractor.
DISTRACTORS = 4
DISTRACTORS_PER_BATCH = 500
DISTRACTORS_IN = "/distractors/"
# How distractors differ from their song: in time, and in semitones.
STRETCHES = (0.84, 0.9, 0.95, 1.0, 1.05, 1.1, 1.16)
SEMITONES = (-5, -4, -3, -2, 2, 3, 4, 5)
# Frames of the pieces that some are put together from: 2 to 10 s.
PIECES = (40, 220)
CLIPS_AT_ONCE = 256
SINGLE_CLIPS = 40
SHELL_RUNS = 11
SHELL_CLIPS = 1000


@dataclass(frozen=True)
class KnownClip:
    """A clip, and the song that it comes from: the name of its file, empty for one that the library does not have."""

    samples: NDArray[np.float32]
    song: str
    cell: str
    length_s: float


def read_clips(folder: Path, rate: int) -> list[KnownClip]:
    """The clips of a set at its library's own speed."""
    with open(folder / "queries.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if not row["condition"].startswith("speed")]
    clips = []
    for row in rows:
        path = row["query_path"] if os.path.exists(row["query_path"]) else folder / "queries" / row["query_path"]
        samples, _ = decoding.read(str(path), rate)
        length_s = float(row["length_s"])
        song = os.path.basename(row["track_path"])
        clips.append(KnownClip(samples, song, f"{row['condition']} {length_s:g} s", length_s))
    return clips


def distractor(song: Peaks, rng: np.random.Generator) -> Peaks:
    """Peaks of a song that nobody made: a real one stretched, shifted, and for one in three cut and joined anew."""
    frame = np.rint(song.frame * rng.choice(STRETCHES)).astype(np.int64)
    bin_ = np.rint(song.bin * 2.0 ** (rng.choice(SEMITONES) / 12)).astype(np.int64)
    if rng.random() < 1 / 3:
        pieces = []
        at = 0
        while at < FRAMES:
            length = int(rng.integers(*PIECES))
            start = int(rng.integers(0, max(1, int(frame[-1]) - length)))
            some = np.flatnonzero((frame >= start) & (frame < start + length))
            pieces.append((frame[some] - start + at, bin_[some], song.level[some]))
            at += length
        frame, bin_, level = (np.concatenate(part) for part in zip(*pieces, strict=True))
    else:
        start = int(rng.integers(0, max(1, int(frame[-1]) - FRAMES)))
        frame, level = frame - start, song.level
    inside = (frame >= 0) & (frame < FRAMES) & (bin_ < BINS)
    order = np.lexsort((bin_[inside], frame[inside]))
    return Peaks(
        frame[inside][order].astype(np.int32),
        bin_[inside][order].astype(np.int32),
        level[inside][order].astype(np.int8),
    )


def stage_distractors(task: tuple[Snapshot, str, int, int]) -> Manifest:
    """Make some distractors of a store's songs and stage them: a task for an executor."""
    real, url, seed, count = task
    rng = np.random.default_rng([seed, 41])
    names = names_of(real)
    songs = [(names[song_id], peaks) for song_id, peaks in real.constellations(list(names)).items() if len(peaks)]
    made = []
    for place in range(count):
        origin, song = songs[rng.integers(len(songs))]
        peaks = distractor(song, rng)
        made.append(
            StagedSong(
                path=f"{DISTRACTORS_IN}{seed:06d}-{place:04d}.mp3",
                tags=Tags(album=origin),
                duration_s=SONG_S,
                digest=f"d{seed:015x}{place:016x}",
                decoder="none",
                sample_rate=44100,
                decoded_share=1.0,
                size_bytes=int(SONG_S * 24000),
                modified_ns=0,
                hashes=pair_peaks(peaks, real.settings.fan_out),
                peaks=peaks,
            )
        )
    return stage(url, f"distractors-{seed:06d}", made)


def build_large(folder: Path, real: Store, songs: int, executor: Executor) -> Store:
    """The store of the set's songs, distractors and synthetic songs; one that is there grows to the size."""
    store = store_at(folder, real)
    store.absorb(real)
    snapshot = real.snapshot()
    wanted = songs // DISTRACTORS
    paths = store.snapshot().songs(["path"])["path"].to_pylist()
    there = sum(path.startswith(DISTRACTORS_IN) for path in paths)
    per_commit = 8 * DISTRACTORS_PER_BATCH
    for start in range(there, wanted, per_commit):
        seeds = range(start, min(start + per_commit, wanted), DISTRACTORS_PER_BATCH)
        tasks = [(snapshot, store.url, seed, min(DISTRACTORS_PER_BATCH, wanted - seed)) for seed in seeds]
        store.commit(executor.map(stage_distractors, tasks), map=executor.map)
    build(HashDistribution(real), store, int(songs * POSTINGS_PER_SONG), executor)
    store.compact(map=executor.map, grace_hours=0)
    return store


@dataclass(frozen=True)
class Outcome:
    """What was found in a library: the name of each clip's first match, and CPU milliseconds of each clip."""

    named: list[str | None]
    batch_ms: float


def names_of(snapshot: Snapshot) -> dict[int, str]:
    """The file name of each song by its id."""
    songs = snapshot.songs(["song_id", "path"])
    paths = songs["path"].to_pylist()
    return dict(zip(songs["song_id"].to_pylist(), map(os.path.basename, paths), strict=True))


def find_all(library: Library, names: dict[int, str], clips: list[KnownClip]) -> Outcome:
    """Search all clips in a library, in batches as an identify run does."""
    named: list[str | None] = []
    began = time.process_time()
    for start in range(0, len(clips), CLIPS_AT_ONCE):
        found = find_matches([clip.samples for clip in clips[start : start + CLIPS_AT_ONCE]], library, Query())
        named += [names[matches[0].song_id] if matches else None for matches in found]
    return Outcome(named, 1e3 * (time.process_time() - began) / len(clips))


def single_ms(library: Library, clips: list[KnownClip]) -> dict[str, list[float]]:
    """CPU milliseconds of clips of 5 s, each by itself, in an open store, up to each of the searches of a clip."""
    some = [clip for clip in clips if clip.length_s == 5.0]
    some = some[:: max(1, len(some) // SINGLE_CLIPS)][:SINGLE_CLIPS]
    took: dict[str, list[float]] = {"coarse": [], "fine": [], "dense": []}
    for clip in some:
        began = time.process_time()
        for (_, until), level in zip(took.items(), (COARSE, FINE, DENSE), strict=True):
            search([Clip(clip.samples, library.settings)], library, level)
            until.append(1e3 * (time.process_time() - began))
    return took


@dataclass(frozen=True)
class ShellCosts:
    """``songprint identify`` as a command: seconds of runs with one clip, most memory with one clip and many."""

    one_s: list[float]
    one_mb: float
    many_mb: float


def from_shell(store: Store, clips: list[KnownClip]) -> ShellCosts:
    """Run ``songprint identify`` with clips of 5 s, one at a time; then with many clips.

    Python's modules are compiled before the first run that counts, as they are in a package that pip has installed.
    """
    import soundfile

    with tempfile.TemporaryDirectory() as folder:

        def written(some: list[KnownClip]) -> list[str]:
            paths = [f"{folder}/{len(some)}-{place}.wav" for place in range(len(some))]
            for path, clip in zip(paths, some, strict=True):
                soundfile.write(path, clip.samples, store.settings.sample_rate)
            return paths

        command = [sys.executable, "-m", "jobs", "identify", "--store", store.url, "--quiet"]
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        took = []
        ones = written([clip for clip in clips if clip.length_s == 5.0][:SHELL_RUNS])
        for path in [ones[0], *ones]:
            began = time.perf_counter()
            subprocess.run([*command, path], check=True, capture_output=True, env=environment)
            took.append(time.perf_counter() - began)
        many = written(clips[:: max(1, len(clips) // SHELL_CLIPS)][:SHELL_CLIPS])
        return ShellCosts(took[1:], peak_memory_mb([*command, ones[0]]), peak_memory_mb([*command, *many]))


def peak_memory_mb(command: list[str]) -> float:
    """The most that a process of a command has in memory and shares with nothing, also not with the cache of files."""
    peak = 0.0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        with suppress(psutil.Error):
            peak = max(peak, *(own_memory_mb(one.pid) for one in (process, *process.children(recursive=True))))
        time.sleep(0.02)
    return peak


def own_memory_mb(pid: int) -> float:
    """The anonymous memory of a process of Linux; 0 for one that has ended."""
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Anonymous:")) / 1024
    return 0.0


def cells(clips: list[KnownClip], small: Outcome, large: Outcome) -> tuple[str, dict[str, float]]:
    """Right clips by cell in both libraries, as a table; and the points that are lost, by cell."""
    right: dict[str, list[tuple[bool, bool, bool, bool]]] = defaultdict(list)
    for clip, one, other in zip(clips, small.named, large.named, strict=True):
        if clip.song:
            wrong = one is not None and one != clip.song, other is not None and other != clip.song
            for cell in (clip.cell, "all"):
                right[cell].append((one == clip.song, other == clip.song, *wrong))
    rows, lost = [], {}
    for cell, outcomes in sorted(right.items(), key=lambda item: (item[0] == "all", item[0])):
        share = 100 * np.mean(outcomes, axis=0)
        lost[cell] = float(share[0] - share[1])
        wrong_counts = [str(sum(outcome[place] for outcome in outcomes)) for place in (2, 3)]
        rows.append(
            [cell, str(len(outcomes)), f"{share[0]:.1f}", f"{share[1]:.1f}", f"{lost[cell]:.1f}", *wrong_counts]
        )
    head = ["clip", "clips", "right in the set, %", "right in the large library, %", "points lost", "wrong", "wrong"]
    return table(head, rows), lost


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path, metavar="SET")
    parser.add_argument("--songs", type=int, default=100_000, help="of half a minute each, in the large library")
    parser.add_argument("--hidden", type=int, default=0, help="clips that are also searched without their own song")
    parser.add_argument("--workers", type=int, default=1, help="processes that build the store")
    parser.add_argument("--keep", type=Path, help="where the stores are made and kept")
    options = parser.parse_args()
    print(f"## A large library\n\n{describe()}\n", flush=True)
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        executor: Executor = SerialExecutor()
        if options.workers > 1:
            from pipeline.execution import dask_executor

            executor = stack.enter_context(dask_executor.local(options.workers))
        real = Store.open_or_create(str(folder / "set"))
        index([str(options.set / "library")], real, executor)
        store = build_large(folder / f"large-{options.songs}", real, options.songs, executor)
        small, large = real.snapshot(), store.snapshot()
        size = large.size()
        print(
            f"The set: {small.n_songs} songs. The large library: {size['songs']} songs, "
            f"{size['postings'] / 1e6:.0f} M postings, {len(large.shards)} shards, {size['bytes'] / 1e9:.2f} GB\n",
            flush=True,
        )
        clips = read_clips(options.set, real.settings.sample_rate)
        single = single_ms(large, clips)
        in_small = find_all(small, names_of(small), clips)
        in_large = find_all(large, names_of(large), clips)
        shell = from_shell(store, clips)  # last: the store's files are in the system's cache by then
        shown, lost = cells(clips, in_small, in_large)
        print(shown, "\n")
        named_others = [name for clip, name in zip(clips, in_large.named, strict=True) if not clip.song]
        print(f"Out-of-library clips of the set that are named: {sum(map(bool, named_others))} of {len(named_others)}")
        hidden = named_without_their_song(large, clips, options.hidden)
        if hidden:
            print(f"Clips searched without their own song that are named: {sum(hidden)} of {len(hidden)}")
        print(
            f"\nCPU ms of a clip, all {len(clips)} in batches: {in_small.batch_ms:.0f} in the set, "
            f"{in_large.batch_ms:.0f} in the large library\n"
        )
        where = f"{size['postings'] / 1e6:.0f} M postings"
        met = [targets.row(targets.LOST, [lost["all"]], where)]
        met += [targets.row(target, [lost[cell]], cell) for cell, target in targets.LOST_IN.items() if cell in lost]
        met += [
            *([targets.row(targets.NAMED, [100 * sum(hidden) / len(hidden)], where)] if hidden else []),
            targets.row(targets.LARGE_SHELL, shell.one_s, where),
            targets.row(targets.LARGE_MEMORY, [shell.one_mb], where),
            targets.row(targets.LARGE_BATCH_MEMORY, [shell.many_mb], where),
            targets.row(targets.LARGE_COARSE, single["coarse"], where),
            targets.row(targets.LARGE_FINE, single["fine"], where),
            targets.row(targets.LARGE_DENSE, single["dense"], where),
            targets.row(targets.LARGE_BATCH, [in_large.batch_ms], where),
            targets.row(targets.LARGE_BYTES, [size["bytes_per_posting"]], where),
            targets.row(targets.LARGE_MB_AN_HOUR, [size["bytes_per_hour"] / 1e6], where),
        ]
        print(targets.report(met))


def named_without_their_song(large: Snapshot, clips: list[KnownClip], count: int) -> list[bool]:
    """Whether some clips are named when the library has no song of their series, and no distractor made from one."""
    of_series: dict[str, list[int]] = defaultdict(list)
    for row in large.songs(["song_id", "path", "album"]).to_pylist():
        origin = row["album"] if row["path"].startswith(DISTRACTORS_IN) else os.path.basename(row["path"])
        of_series[series(origin)].append(row["song_id"])
    known = [clip for clip in clips if clip.song]
    named = []
    for clip in known[:: max(1, len(known) // max(1, count))][:count]:
        (matches,) = find_matches([clip.samples], LibraryWithout(large, of_series[series(clip.song)]), Query())
        named.append(bool(matches))
    return named


def series(name: str) -> str:
    """What the names of files have in common that are editions, or parts of one series: all before a digit, - or _."""
    return re.split(r"[-_.\d]", name.lower())[0]


if __name__ == "__main__":
    main()
