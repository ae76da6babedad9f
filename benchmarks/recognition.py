"""Recall of clips whose song is known: index a set, identify its clips, print the tables.

    python -m benchmarks.recognition SET [--times 10] [--workers 3]     (or: make bench-recognition SET=folder)

A SET is a folder with `library/`, `queries.csv` (query_path, track_path, start_s, length_s, condition) and the clips
that it names. An empty track_path means an out-of-library clip. A clip is right when its row with most votes names the
true file. Clips played at another speed are identified with `--speed-range 3`. `--times` makes the library so many
times larger: the same songs again, played faster or slower by 7 to 35 %.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import resource
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from typing import Any

import numpy as np

import pipeline
from benchmarks.machine import describe, table
from pipeline import Settings
from pipeline.audio import decoding
from pipeline.audio.tags import Tags
from pipeline.evaluation.experiment import START_ERROR_S
from pipeline.evaluation.metrics import wilson
from pipeline.execution import dask_executor
from pipeline.execution.executor import Executor, SerialExecutor
from pipeline.fingerprinting.extract import constellation
from pipeline.fingerprinting.landmarks import pair_peaks
from pipeline.store import Manifest, StagedSong, stage

# Speeds further from each other, and from the songs' own, than `--speed-range 3` searches.
FACTORS = (1.07, 0.93, 1.14, 0.86, 1.21, 0.79, 1.28, 0.72, 1.35)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", metavar="SET")
    parser.add_argument("--times", type=int, default=1, help="make the library so many times larger, at most 10")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    chosen = parser.parse_args()
    print(describe())
    with open(os.path.join(chosen.set, "queries.csv"), newline="", encoding="utf-8") as file:
        truth = {os.path.basename(row["query_path"]): row for row in csv.DictReader(file)}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        executor: Executor = (
            SerialExecutor() if chosen.workers == 1 else stack.enter_context(dask_executor.local(chosen.workers))
        )
        store = pipeline.Store.create(os.path.join(folder, "store"), pipeline.Settings())
        pipeline.index([os.path.join(chosen.set, "library")], store, executor)
        paths = store.snapshot().songs(["path"])["path"].to_pylist()
        others = [(store.url, path, factor) for factor in FACTORS[: chosen.times - 1] for path in paths]
        store.commit(executor.map(stage_other, others), map=executor.map)
        size = store.snapshot().stats()
        clips = [row["query_path"] for row in truth.values() if not row["condition"].startswith("speed")]
        fast = [row["query_path"] for row in truth.values() if row["condition"].startswith("speed")]
        began = _cpu_s()
        rows = pipeline.identify(clips, store, executor=executor).to_pylist()
        cpu_s = _cpu_s() - began
        if fast:
            rows += pipeline.identify(fast, store, pipeline.Query(speed_range=3.0), executor).to_pylist()
    print(report(rows, truth))
    if chosen.workers == 1:
        print(f"\n{1000 * cpu_s / len(clips):.0f} ms of CPU a clip, decoding included")
    print("\nstore:")
    print(", ".join(f"{name} {value}" for name, value in size.items() if not isinstance(value, dict)))


def stage_other(task: tuple[str, str, float]) -> Manifest:
    """Make another song from one, at another speed, and stage it: a task for an executor."""
    url, path, factor = task
    rate = round(Settings().sample_rate / factor)
    peaks, decoded = decoding.decode(path, rate, lambda blocks: constellation(blocks, Settings()))
    other = StagedSong(
        path=f"{path} at {factor}", tags=Tags(), duration_s=decoded.duration_s / factor,
        digest=hashlib.sha256(f"{path} at {factor}".encode()).hexdigest(), decoder=decoded.decoder,
        sample_rate=decoded.sample_rate, decoded_share=1.0, size_bytes=0, modified_ns=0,
        hashes=pair_peaks(peaks, Settings().fan_out), peaks=peaks,
    )  # fmt: skip
    return stage(url, f"other-{other.digest}", [other])


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def report(matches: list[dict[str, Any]], truth: dict[str, dict[str, str]]) -> str:
    """Right clips by condition, out-of-library clips named, starts, and stated against observed confidence."""
    best: dict[str, dict[str, Any]] = {}
    for row in matches:
        name = os.path.basename(row["clip"])
        if name not in best or (row["votes"] or 0) > (best[name]["votes"] or 0):
            best[name] = row
    cells: dict[tuple[str, float], list[str]] = defaultdict(list)
    out_of_library, on_time, stated = [], [], []
    for name, clip in truth.items():
        row = best[name]
        named = row["status"] == "matched"
        right = named and os.path.basename(row["song_path"]) == os.path.basename(clip["track_path"])
        if named:
            stated.append((row["confidence"], right))
        if not clip["track_path"]:
            out_of_library.append(named)
            continue
        outcome = "right" if right else "wrong" if named else "unknown"
        cells[clip["condition"], float(clip["length_s"])].append(outcome)
        if right and not clip["condition"].startswith("speed"):
            error_s = abs(row["song_start_s"] - row["clip_start_s"] - float(clip["start_s"]))
            on_time.append(error_s <= START_ERROR_S)
    rows = []
    for (condition, length_s), outcomes in sorted(cells.items()):
        right, n = outcomes.count("right"), len(outcomes)
        low, high = wilson(np.array([right]), np.array([n]))
        counts = [str(outcomes.count("wrong")), str(outcomes.count("unknown")), str(n)]
        interval = f"{100 * low[0]:.1f} to {100 * high[0]:.1f}"
        rows.append([f"{condition} {length_s:g} s", f"{100 * right / n:.1f}", interval, *counts])
    lines = [table(["clip", "right, %", "95 %", "wrong", "unknown", "clips"], rows)]
    lines.append(f"\nout-of-library clips named: {sum(out_of_library)} of {len(out_of_library)}")
    lines.append(
        f"start within {START_ERROR_S} s: {sum(on_time)} of {len(on_time)} right clips (music repeats itself)\n"
    )
    confidence = np.array(stated)
    bins = np.minimum((10 * confidence[:, 0]).astype(int), 9)
    reliability = [
        [f"{confidence[inside, 0].mean():.3f}", f"{confidence[inside, 1].mean():.3f}", str(inside.sum())]
        for inside in (bins == number for number in range(10))
        if inside.any()
    ]
    lines.append(table(["stated", "observed", "clips"], reliability))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
