"""Targets of cost, and whether a measurement meets them.

Each target has a floor, which must be met, and an aim, which would be better. Each benchmark prints a table of its
targets, from the same run as its other figures. benchmarks/README.md explains each target that is missed.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.machine import median_and_range, table


@dataclass(frozen=True)
class Target:
    """Bounds of a figure: lower is better, unless the aim is above the floor."""

    name: str
    floor: float
    aim: float
    form: str = "{:.2f}"


FFMPEG = Target("index CPU over `ffmpeg -f null` CPU, 192k MP3, 1 worker, store included", 1.0, 0.7)
FPCALC = Target("index CPU over `fpcalc -length 0 -ignore-errors` CPU, likewise", 1.45, 1.0)
WORKERS = {
    4: Target("index wall, 1 worker over 4", 3.2, 3.7),
    2: Target("index wall, 1 worker over 2", 1.7, 1.9),
}
MEMORY = Target("peak memory of a worker, 3-hour MP3, MB", 400, 200, "{:.0f}")
ADDING = Target("adding 100 songs, CPU, large store over empty store", 1.15, 1.05)
BYTES = Target("bytes per posting after compaction, directory included", 4.4, 3.5)
SHELL = Target("one clip from the shell, wall over importing pandas, pyarrow, scipy.fft", 3.0, 1.5)
FEW_SONGS = Target("one clip, open store of the music alone, CPU ms without decoding", 40, 15, "{:.0f}")
DUCKDB = Target("one 5 s clip, warm, 2 threads, wall over DuckDB's", 1 / 10, 1 / 30, "{:.3f}")
MANY_CLIPS = Target("1,000 clips in one run, CPU ms a clip", 60, 20, "{:.0f}")
LOST = Target("right, all clips but those at another speed: points lost in the large library", 1.0, 0.3, "{:.1f}")
LOST_IN = {
    "under10 5 s": Target("the same", 4.0, 1.0, "{:.1f}"),
    "micm5 5 s": Target("the same", 3.0, 1.0, "{:.1f}"),
    "mic0 2 s": Target("the same", 2.0, 1.0, "{:.1f}"),
}
NAMED = Target("out-of-library clips that are named, %", 1.0, 0.3, "{:.1f}")
LARGE_SHELL = Target("open the store and identify one 5 s clip from the shell, wall s", 1.0, 0.6)
LARGE_MEMORY = Target("memory of that process, shared with nothing, MB", 400, 200, "{:.0f}")
LARGE_BATCH_MEMORY = Target("the same, of one that identifies 1,000 clips", 800, 400, "{:.0f}")
LARGE_COARSE = Target("one 5 s clip, open store, coarse, CPU ms", 100, 40, "{:.0f}")
LARGE_FINE = Target("the same, with fine", 400, 150, "{:.0f}")
LARGE_DENSE = Target("the same, with fine and dense, for a clip that stays unknown", 400, 150, "{:.0f}")
LARGE_BATCH = Target("each clip of the set, in batches, CPU ms", 100, 50, "{:.0f}")
LARGE_BYTES = Target("bytes a posting, directory included", 4.4, 3.5)
LARGE_MB_AN_HOUR = Target("MB an hour of audio, in all", 2.5, 2.0)


def row(target: Target, values: Sequence[float], where: str = "") -> list[str]:
    """A line of `report`: the median of some measurements, its target, and `where` it was measured."""
    median = statistics.median(values)
    sign = -1 if target.aim > target.floor else 1
    met = "aim" if sign * median <= sign * target.aim else "floor" if sign * median <= sign * target.floor else "missed"
    shown = median_and_range(values, target.form) if len(values) > 1 else target.form.format(median)
    name = f"{target.name} ({where})" if where else target.name
    return [name, shown, target.form.format(target.floor), target.form.format(target.aim), met]


def report(rows: Sequence[Sequence[str]]) -> str:
    """The rows as a Markdown table."""
    return table(["target", "measured", "floor", "aim", "met"], rows)
