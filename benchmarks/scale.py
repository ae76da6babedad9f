"""What a store of millions of songs costs: a model, its constants measured here, compared with a larger run.

    python -m benchmarks.scale [--like STORE] [--clips FOLDER] [--sizes 10,20,40] [--check 100]

Synthetic songs with the hashes of real ones (`benchmarks.synthetic`) are staged, committed, compacted and searched by
the real code, in stores of growing size. The model is straight lines through the small stores. Its prediction for the
largest store is printed beside the measurement, then the tables of docs/SCALE.md. All times are CPU seconds of one
worker, so that a busy machine gives the same figures. Without STORE and FOLDER, songs by formula are used.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.machine import describe, table
from benchmarks.synthetic import POSTINGS_PER_SONG, SONGS_PER_BATCH, HashDistribution, store_at
from pipeline import Settings, Store, catalog, indexing
from pipeline.audio import decoding
from pipeline.catalog import Entry
from pipeline.matching.search import find_matches
from pipeline.matching.tracks import WINDOW_STEP_S
from pipeline.matching.types import Query
from pipeline.simulation import acoustics, encoding, music
from pipeline.store import stage

# Batches in one commit, in turn: so the fixed cost of a commit can be separated from the cost of its postings.
BATCHES = (1, 4, 2)
WINDOWS = 64
PROBES = 3
# Songs of the plans that the driver's constants come from; they are compared with the last one.
PLANNED = (100_000, 200_000, 400_000, 1_000_000)
FORMULA_SONGS = 12
FORMULA_SONG_S = 120.0

# Figures that grow with the postings of the store.
BY_POSTINGS = ("bytes", "compact_s", "open_s", "window_s", "search_mb")

# A real library: songs of four minutes.
SONG_S = 240.0
LIBRARIES = (10_000, 1_000_000, 10_000_000)
WORKERS = (1, 16, 128)


def cpu_s(work: Callable[[], Any]) -> float:
    """CPU seconds of this process for a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


# Measuring.


def formula_store(folder: Path) -> tuple[Store, float]:
    """A store of songs by formula, and CPU seconds for an hour of its music."""
    library = folder / "music"
    library.mkdir()
    for seed in range(FORMULA_SONGS):
        encoding.write(library / f"{seed}.mp3", music.song(seed, FORMULA_SONG_S))
    store = Store.create(str(folder / "like"))
    took = cpu_s(lambda: indexing.index([str(library)], store))
    return store, took / (FORMULA_SONGS * FORMULA_SONG_S / 3600)


def formula_clips(folder: Path) -> Path:
    """Noisy clips of songs by formula, half of them of songs in the store."""
    clips = folder / "clips"
    clips.mkdir()
    for seed in range(WINDOWS):
        samples = music.song(seed % (2 * FORMULA_SONGS), 30.0)[-10 * music.SAMPLE_RATE :]
        encoding.write(clips / f"{seed:03d}.wav", acoustics.recording(samples, 5.0, seed))
    return clips


def grow(store: Store, distribution: HashDistribution, postings: int) -> list[dict[str, float]]:
    """Add songs until a store has so many postings; the cost of staging and of each commit."""
    rows = []
    while (have := store.snapshot().size())["postings"] < postings:
        batches = BATCHES[int(have["version"]) % len(BATCHES)]
        manifests, staged_s = [], 0.0
        for place in range(batches):
            seed = int(have["songs"]) + place * SONGS_PER_BATCH + 1
            songs = distribution.songs(seed, SONGS_PER_BATCH)
            began = time.process_time()
            manifests.append(stage(store.url, f"synthetic-{seed:09d}", songs))
            staged_s += time.process_time() - began
        commit_s = cpu_s(lambda manifests=manifests: store.commit(manifests))
        added = batches * SONGS_PER_BATCH * POSTINGS_PER_SONG
        rows.append({"songs": have["songs"], "postings": added, "stage_s": staged_s, "commit_s": commit_s})
    return rows


def probe_search(store: Store, clips: str) -> dict[str, float]:
    """Extra CPU seconds of a new process for its first result; CPU seconds of a window in a batch; memory."""
    entries = catalog.walk([clips])[:WINDOWS]
    windows = [decoding.read(entry.path, store.settings.sample_rate, 0.0, 10.0)[0] for entry in entries]
    before_mb = peak_mb()
    snapshot = store.snapshot()
    first_s, again_s = (cpu_s(lambda: find_matches(windows[:1], snapshot, Query())) for _ in range(2))
    search_s = cpu_s(lambda: find_matches(windows, snapshot, Query()))
    return {"open_s": first_s - again_s, "window_s": search_s / len(windows), "search_mb": peak_mb() - before_mb}


class Rows:
    """A store for the plan of an index run: rows of songs, and nothing else."""

    def __init__(self, n_songs: int) -> None:
        place = np.arange(n_songs)
        self.url, self.settings = "/nowhere", Settings()
        self._songs = pa.table(
            {
                "path": [f"/music/some artist/some album/{i:08d} some title.mp3" for i in range(n_songs)],
                "size_bytes": place + 5_000_000,
                "modified_ns": place,
                "digest": [f"{i:064x}" for i in range(n_songs)],
            }
        )

    def snapshot(self) -> Rows:
        """The store itself."""
        return self

    def songs(self, columns: list[str]) -> pa.Table:
        """Some columns."""
        return self._songs.select(columns)


def probe_planning(n_songs: int) -> dict[str, float]:
    """What the driver of an index run pays before its first task, with as many new files as there are songs."""
    store = Rows(n_songs)
    files = [Entry(f"/music/new/some album/{i:08d} some title.mp3", 5_000_000 + i, 0) for i in range(n_songs)]
    before_mb = peak_mb()
    plan_s = cpu_s(lambda: indexing.plan(indexing.new_entries(files, store)[0], store, 16, None))
    return {"songs": n_songs, "plan_s": plan_s, "driver_mb": peak_mb() - before_mb}


def peak_mb() -> float:
    """Peak memory of this process. On Linux `ru_maxrss` includes the parent process."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def probed(*options: str) -> dict[str, float]:
    """Figures of a probe: medians over separate processes, so that peak memory is of the probe alone."""
    command = [sys.executable, "-m", "benchmarks.scale", *options]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(PROBES)
    ]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def at_size(store: Store, distribution: HashDistribution, clips: str, postings: int) -> dict[str, Any]:
    """Grow a store, and measure it before and after compacting."""
    rows = grow(store, distribution, postings)
    search = ("--probe", "search", "--like", store.url, "--clips", clips)
    scattered = probed(*search)
    before = store.snapshot().size()
    compact_s = cpu_s(lambda: store.compact(grace_hours=0))
    after = store.snapshot().size()
    return {
        "postings": after["postings"], "songs": after["songs"], "bytes": after["bytes"], "files": before["files"],
        "compact_s": compact_s, "commits": rows, "scattered": scattered, **probed(*search),
    }  # fmt: skip


# The model.


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope, neither below 0."""
    slope = max(0.0, float(np.polyfit(x, y, 1)[0])) if len(x) > 1 else 0.0
    return max(0.0, float(np.mean(y) - slope * np.mean(x))), slope


def fit(sizes: Sequence[dict[str, Any]], plans: Sequence[dict[str, float]]) -> dict[str, tuple[float, ...]]:
    """Constants per million postings (p) or million songs (s)."""
    commits = [row for size in sizes for row in size["commits"]]
    features: NDArray[np.float64] = np.array([[1, row["songs"] / 1e6, row["postings"] / 1e6] for row in commits])
    commit = np.linalg.lstsq(features, np.array([row["commit_s"] for row in commits]), rcond=None)[0]
    millions = [size["postings"] / 1e6 for size in sizes]
    songs = [plan["songs"] / 1e6 for plan in plans]
    constants: dict[str, tuple[float, ...]] = {
        "stage_s": (sum(row["stage_s"] for row in commits) / sum(row["postings"] for row in commits) * 1e6,),
        "commit_s": tuple(max(0.0, float(value)) for value in commit),
    }
    for name in BY_POSTINGS:
        constants[name] = line(millions, [size[name] for size in sizes])
    for name in ("plan_s", "driver_mb"):
        constants[name] = line(songs, [plan[name] for plan in plans])
    return constants


def predict(constants: dict[str, tuple[float, ...]], postings: float, songs: float) -> dict[str, float]:
    """Figures of the model for a store of so many postings and songs."""
    p, s = postings / 1e6, songs / 1e6
    predicted = {name: constants[name][0] + constants[name][1] * p for name in BY_POSTINGS}
    predicted |= {name: constants[name][0] + constants[name][1] * s for name in ("plan_s", "driver_mb")}
    return predicted


def build_s(constants: dict[str, tuple[float, ...]], commits: Sequence[dict[str, float]]) -> float:
    """CPU seconds of the model for staging and committing these batches."""
    fixed, per_song, per_posting = constants["commit_s"]
    return sum(
        (constants["stage_s"][0] + per_posting) * row["postings"] / 1e6 + fixed + per_song * row["songs"] / 1e6
        for row in commits
    )


def check(constants: dict[str, tuple[float, ...]], largest: dict[str, Any], plan: dict[str, float]) -> str:
    """A table that compares the model with a measured run."""
    predicted = predict(constants, largest["postings"], plan["songs"])
    measured = {name: (plan if name in plan else largest)[name] for name in predicted}
    predicted["build_s"] = build_s(constants, largest["commits"])
    measured["build_s"] = sum(row["stage_s"] + row["commit_s"] for row in largest["commits"])
    rows = [
        [
            name,
            f"{predicted[name]:.3g}",
            f"{measured[name]:.3g}",
            f"{100 * (predicted[name] / measured[name] - 1):+.0f} %",
        ]
        for name in sorted(predicted)
        if measured[name]
    ]
    return table(["figure", "model", "measured", "model over measured"], rows)


def tables(constants: dict[str, tuple[float, ...]], index_s_per_h: float, postings_per_s: float) -> str:
    """Time, memory, files, commits and bytes for libraries and clusters of some sizes."""
    fixed, per_song, per_posting = constants["commit_s"]
    rows = []
    for songs in LIBRARIES:
        postings = songs * SONG_S * postings_per_s
        predicted = predict(constants, postings, songs)
        work_s = songs * SONG_S / 3600 * index_s_per_h + constants["stage_s"][0] * postings / 1e6
        merge_s = per_posting * postings / 1e6
        for workers in WORKERS:
            spread_s = (work_s + merge_s) / workers
            commits = max(1, round(spread_s / indexing.COMMIT_EVERY_S))
            serial_s = commits * (fixed + per_song * songs / 2 / 1e6) + predicted["plan_s"]
            files = commits * (2 + max(1, round(postings / commits / 16e6))) + songs / 1024
            hours = [spread_s + serial_s, serial_s, predicted["compact_s"] / workers]
            memory_gb = [0.5 + predicted["driver_mb"] / 1000, 0.3 + predicted["search_mb"] / 1000]
            searched = workers * WINDOW_STEP_S / predicted["window_s"]
            figures = [*(took / 3600 for took in hours), commits, files, predicted["bytes"] / 1e9, *memory_gb,
                       predicted["open_s"], predicted["window_s"], searched]  # fmt: skip
            rows.append(
                [
                    f"{songs:,}",
                    str(workers),
                    *(f"{figure:,.3g}" if figure < 100 else f"{figure:,.0f}" for figure in figures),
                ]
            )
    head = ["songs", "workers", "index, h", "the driver alone, h", "compact, h", "commits",
            "files before compacting", "GB", "driver, GB", "query worker, GB", "its first result, CPU s",
            "a window, CPU s", "recordings searched, x real time"]  # fmt: skip
    return table(head, rows)


def main() -> None:
    """Measure, fit, check, and print the tables."""
    parser = argparse.ArgumentParser(description="The model of docs/SCALE.md, measured.")
    parser.add_argument("--like", help="store of real music; songs by formula when there is none")
    parser.add_argument("--clips", help="folder of recordings; by formula when there is none")
    parser.add_argument("--sizes", default="10,20,40", help="millions of postings that the constants come from")
    parser.add_argument("--check", type=float, default=100, help="millions of postings that the model is compared with")
    parser.add_argument("--index-s", type=float, help="CPU seconds to fingerprint an hour of music; measured otherwise")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe == "search":
        print(json.dumps(probe_search(Store.open(options.like), options.clips)))
        return
    if options.probe:
        print(json.dumps(probe_planning(int(options.probe))))
        return
    print(f"## Scale\n\n{describe()}\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        formula, index_s = formula_store(folder)
        like = Store.open(options.like) if options.like else formula
        clips = options.clips or str(formula_clips(folder))
        distribution = HashDistribution(like)
        store = store_at(folder / "store", like)
        sizes = []
        for millions in [*map(float, options.sizes.split(",")), options.check]:
            sizes.append(at_size(store, distribution, clips, int(millions * 1e6)))
            print(json.dumps(sizes[-1] | {"commits": len(sizes[-1]["commits"])}), flush=True)
        postings_per_s = like.snapshot().stats()["postings_per_second"]
        plans = [probed("--probe", str(n_songs)) for n_songs in PLANNED]
    constants = fit(sizes[:-1], plans[:-1])
    by_postings = ", ".join(BY_POSTINGS)
    print(
        f"\nPer million postings ({by_postings}, stage_s) or million songs (plan_s, driver_mb): a start and"
        " a slope; commit_s: a start, per million songs, per million postings.\n"
    )
    print(
        table(
            ["constant", "values"],
            [[name, ", ".join(f"{v:.4g}" for v in values)] for name, values in constants.items()],
        )
    )
    print(
        f"\n{options.index_s or index_s:.1f} CPU s for an hour of music, {postings_per_s:.0f} postings a second of it\n"
    )
    print(check(constants, sizes[-1], plans[-1]), "\n")
    print(tables(constants, options.index_s or index_s, postings_per_s))


if __name__ == "__main__":
    main()
