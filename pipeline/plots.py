"""Plots of fingerprints, matches and evaluations, with matplotlib, for the notebooks and `songprint evaluate`.

Each function draws its data on axes, in seconds and hertz, and returns the axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from pipeline.evaluation.metrics import describe, fit_line, wilson
from pipeline.fingerprinting.landmarks import pair_peaks, unpack
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import MAX_BIN_DIFFERENCE, MAX_FRAME_DIFFERENCE, MIN_FRAME_DIFFERENCE, Settings
from pipeline.fingerprinting.spectrogram import power_batches

# Distinct for colour-blind readers and on grey prints (Okabe and Ito).
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8C8C8C"
FLOOR_DB = -70.0


def spectrogram(samples: NDArray[np.float32], settings: Settings, start_s: float = 0.0, ax: Axes | None = None) -> Axes:
    """Power over time and frequency, in decibels below the loudest.

    Parameters
    ----------
    samples
        ``(n,)`` float32 at ``settings.sample_rate``, at least one window long.
    start_s
        Where the samples begin in their song, for the axis.
    """
    ax = ax or _axes()
    power = np.concatenate([batch.copy() for batch in power_batches([samples], settings)])
    level_db = 10 * np.log10(np.maximum(power.T / power.max(), 10 ** (FLOOR_DB / 10)))
    # The middle of a pixel, not its edge, is at its frame and its bin.
    half_s, half_hz = settings.frame_s / 2, settings.sample_rate / settings.window / 2
    first_s, last_s = start_s + _seconds(np.array([0, len(power) - 1]), settings)
    extent = (first_s - half_s, last_s + half_s, -half_hz, settings.sample_rate / 2 - half_hz)
    image = ax.imshow(level_db, aspect="auto", origin="lower", extent=extent, cmap="gray_r", vmin=FLOOR_DB, vmax=0)
    ax.figure.colorbar(image, ax=ax, label="level (dB below the loudest)", pad=0.01)
    ax.set_ylim(bottom=0)
    return _time_and_frequency(ax)


def constellation(peaks: Peaks, settings: Settings, start_s: float = 0.0, ax: Axes | None = None, **marks: Any) -> Axes:
    """The peaks as points; given the axes of a spectrogram, they are drawn over it.

    Parameters
    ----------
    start_s
        Where frame 0 begins, for the axis.
    marks
        Options of matplotlib's ``scatter``.
    """
    ax = ax or _axes()
    style: dict[str, Any] = {"s": 14, "facecolors": "none", "edgecolors": ORANGE, "linewidths": 1.0} | marks
    ax.scatter(start_s + _seconds(peaks.frame, settings), _hertz(peaks.bin, settings), **style)
    return _time_and_frequency(ax)


def landmarks(peaks: Peaks, settings: Settings, anchor: int, start_s: float = 0.0, ax: Axes | None = None) -> Axes:
    """A zoomed constellation: one anchor, its target zone, and the landmarks from it.

    Parameters
    ----------
    anchor
        Its index in ``peaks``.
    """
    ax = constellation(peaks, settings, start_s, ax, label="peaks", facecolors=GREY, edgecolors=GREY)
    frame, bin_ = int(peaks.frame[anchor]), int(peaks.bin[anchor])
    hashes = pair_peaks(peaks, settings.fan_out)
    from_anchor = hashes.hash[hashes.offset == frame]
    at, aside, ahead = unpack(from_anchor)
    targets = [(frame + f, bin_ + b) for a, b, f in zip(at, aside, ahead, strict=True) if a == bin_]
    here = _point(frame, bin_, settings, start_s)
    lines = [(here, _point(*target, settings, start_s)) for target in targets]
    low, high = _hertz(np.array([max(bin_ - MAX_BIN_DIFFERENCE, 0), bin_ + MAX_BIN_DIFFERENCE]), settings)
    left, right = start_s + _seconds(np.array([frame + MIN_FRAME_DIFFERENCE, frame + MAX_FRAME_DIFFERENCE]), settings)
    zone = Rectangle((left, low), right - left, high - low, color=BLUE, alpha=0.1, label="target zone")
    ax.add_patch(zone)
    ax.add_collection(LineCollection(lines, colors=BLUE, linewidths=1.5, label=f"{len(lines)} landmarks"))
    ax.scatter(*here, s=60, color=ORANGE, zorder=3, label="anchor")
    span = right - left
    ax.set_xlim(left - 0.4 * span, right + 0.4 * span)
    ax.set_ylim(max(0.0, low - 0.3 * (high - low)), high + 0.3 * (high - low))
    ax.legend(loc="upper right")
    return ax


def survivors(song: Peaks, recorded: Peaks, settings: Settings, start_s: float = 0.0, ax: Axes | None = None) -> Axes:
    """Which peaks of a song survive in a recording of it: kept (within a frame and a bin), lost, and new ones."""
    near = (np.abs(song.frame[:, None] - recorded.frame) <= 1) & (np.abs(song.bin[:, None] - recorded.bin) <= 1)
    kept, known = near.any(axis=1), near.any(axis=0)
    share = kept.mean() if len(kept) else 0.0
    for peaks, some, colour, label in (
        (song, ~kept, GREY, "lost"),
        (recorded, ~known, ORANGE, "new"),
        (song, kept, BLUE, f"kept: {share:.0%}"),
    ):
        chosen = Peaks(peaks.frame[some], peaks.bin[some], peaks.level[some])
        ax = constellation(chosen, settings, start_s, ax, facecolors=colour, edgecolors="none", label=label)
    assert ax is not None
    ax.legend(loc="upper right")
    return ax


def agreement(delta_s: ArrayLike, ax: Axes | None = None, step_s: float = 0.05) -> Axes:
    """How many hits put the clip's start at each place of a song: a match is one high bar among low ones.

    Parameters
    ----------
    delta_s
        ``(n_hits,)``: for each hit, the place of the clip's start in the song, seconds.
    step_s
        Width of a bar.
    """
    ax = ax or _axes()
    delta_s = np.asarray(delta_s)
    if len(delta_s):
        ends = np.arange(delta_s.min() - step_s, delta_s.max() + 2 * step_s, step_s)
        count, _ = np.histogram(delta_s, ends)
        ax.vlines(ends[:-1][count > 0] + step_s / 2, 0, count[count > 0], color=BLUE, linewidth=1.2)
    ax.set(xlabel="start of the clip in the song (s)", ylabel="hits that agree")
    ax.set_ylim(bottom=0)
    return ax


def per_song(values: ArrayLike, names: Sequence[str], label: str, ax: Axes | None = None, most: int = 40) -> Axes:
    """One horizontal bar for each song, the largest first, at most ``most`` of them."""
    values = np.asarray(values)
    order = np.argsort(-values, kind="stable")[:most]
    ax = ax or _axes(width=8, height=1.2 + 0.22 * len(order))
    ax.barh(np.arange(len(order)), values[order], color=BLUE)
    ax.set_yticks(np.arange(len(order)), [_short(names[place]) for place in order], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel(label)
    return ax


def bars(values: Mapping[str, float], label: str, ax: Axes | None = None) -> Axes:
    """A horizontal bar for each named value, with its figure."""
    ax = ax or _axes(height=0.6 + 0.45 * len(values))
    drawn = ax.barh(list(values), list(values.values()), color=BLUE)
    ax.bar_label(drawn, fmt="{:,.3g}", padding=3)
    ax.margins(x=0.12)
    ax.invert_yaxis()
    ax.set_xlabel(label)
    return ax


def hash_distribution(counts: ArrayLike, ax: Axes | None = None) -> Axes:
    """How often each hash occurs, the most frequent first, both axes logarithmic.

    Parameters
    ----------
    counts
        ``(n_hashes,)``, postings of each distinct hash.
    """
    ax = ax or _axes()
    ordered = np.sort(np.asarray(counts))[::-1]
    ax.loglog(np.arange(1, len(ordered) + 1), ordered, color=BLUE)
    ax.set(xlabel="hashes, the most frequent first", ylabel="postings of the hash")
    return ax


def recall(
    length_s: ArrayLike, share: Mapping[str, ArrayLike], ax: Axes | None = None, clips: int | None = None
) -> Axes:
    """Share of clips that are identified, over their length: a line for each condition.

    Parameters
    ----------
    length_s
        ``(n,)`` seconds.
    share
        For each condition ``(n,)``, 0 to 1; NaN where there is no clip.
    clips
        Clips behind each point, for the title.
    """
    ax = ax or _axes()
    for (condition, right), colour in zip(share.items(), _cycle(len(share)), strict=True):
        ax.plot(length_s, 100 * np.asarray(right), "o-", label=condition, color=colour)
    ax.set(xlabel="length of the clip (s)", ylabel="named rightly (%)", ylim=(-3, 103))
    if clips:
        ax.set_title(f"{clips} clips behind each point", fontsize=10)
    ax.legend(loc="lower right")
    return ax


def recall_by_condition(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Share of clips that are identified, over their length, with its 95 % interval: a panel for each condition.

    Parameters
    ----------
    rows
        Of `pipeline.evaluation.metrics.recall`, as ``table.to_pylist()`` gives them.
    """
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    down = math.ceil(len(conditions) / 4)
    across = math.ceil(len(conditions) / down)
    size = (1.2 + 2.2 * across, 0.8 + 2.2 * down)
    figure, grid = plt.subplots(down, across, figsize=size, sharey=True, squeeze=False, layout="constrained")
    lengths_s = sorted({row["length_s"] for row in rows})
    lowest = min(row["low_percent"] for row in rows)
    for ax, condition in zip(grid.flat, conditions, strict=False):
        some = [row for row in rows if row["condition"] == condition]
        right = np.array([row["right_percent"] for row in some])
        low, high = (np.array([row[end] for row in some]) for end in ("low_percent", "high_percent"))
        at = [lengths_s.index(row["length_s"]) for row in some]  # evenly apart, since lengths differ by ratios
        aside = np.maximum((right - low, high - right), 0)
        ax.errorbar(at, right, aside, fmt="o-", color=BLUE, ecolor=GREY, capsize=2, markersize=4)
        clips = sorted({row["clips"] for row in some})
        n = f"{clips[0]} to {clips[-1]}" if len(clips) > 1 else f"{clips[0]}"
        ax.set_title(f"{describe(condition)} (n = {n})", fontsize=9)
        ax.set_xticks(range(len(lengths_s)), [f"{length_s:g}" for length_s in lengths_s])
        ax.set_xlim(-0.4, len(lengths_s) - 0.6)
        ax.set_ylim(10 * math.floor((lowest - 1) / 10), 102)
        _plain_style(ax)
    for ax in grid.flat[len(conditions) :]:
        ax.set_visible(False)
    figure.supxlabel("length of the clip (s)", fontsize=10)
    figure.supylabel("named rightly (%), with 95 % interval", fontsize=10)
    return figure


def fitted_line(x: ArrayLike, y: ArrayLike, xlabel: str, ylabel: str, ax: Axes | None = None) -> Axes:
    """Points and the line fitted to them by least squares, with its equation."""
    ax = ax or _axes()
    x, y = np.asarray(x, float), np.asarray(y, float)
    slope, rest = np.polyfit(x, y, 1)
    ends = np.array([x.min(), x.max()])
    ax.plot(x, y, "o", color=BLUE)
    ax.plot(ends, slope * ends + rest, color=ORANGE, label=f"{slope:.4g} x {'+' if rest >= 0 else '-'} {abs(rest):.4g}")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_ylim(bottom=0)
    ax.legend()
    return ax


def reliability(confidence: ArrayLike, right: ArrayLike, ax: Axes | None = None, n_bins: int = 10) -> Axes:
    """How often matches of a stated confidence are right: calibrated ones lie on the diagonal.

    Parameters
    ----------
    confidence
        ``(n,)``, 0 to 1.
    right
        ``(n,)`` bool.
    """
    ax = ax or _axes(width=4.5, height=4.5)
    confidence, right = np.asarray(confidence, float), np.asarray(right, bool)
    place = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    for one in np.unique(place):
        inside = place == one
        stated, observed = confidence[inside].mean(), right[inside].mean()
        low, high = (end[0] for end in wilson(np.array([right[inside].sum()]), np.array([inside.sum()])))
        aside = [[max(observed - low, 0)], [max(high - observed, 0)]]  # rounding may make them negative
        ax.errorbar(stated, observed, aside, fmt="o", color=BLUE, ecolor=GREY, capsize=2)
        ax.annotate(f"{inside.sum():,}", (stated, low), (0, -10), textcoords="offset points", ha="center", fontsize=8)
    ax.set(
        xlabel="stated confidence",
        ylabel="share that is right, with 95 % interval",
        xlim=(-0.03, 1.03),
        ylim=(-0.08, 1.03),
    )
    ax.set_title(f"{len(confidence):,} matches in {n_bins} bins", fontsize=10)
    ax.set_aspect("equal")
    _plain_style(ax)
    return ax


def time_to_match(length_s: ArrayLike, match_ms: ArrayLike, ax: Axes | None = None) -> Axes:
    """The time of each clip as a point, the median of each length, and the line fitted to the medians.

    Parameters
    ----------
    length_s, match_ms
        ``(n,)``, seconds of a clip and milliseconds to match it.
    """
    ax = ax or _axes(width=6.0, height=4.0)
    length_s, match_ms = np.asarray(length_s, float), np.asarray(match_ms, float)
    lengths, top = np.unique(length_s), 1.05 * np.quantile(match_ms, 0.99)
    above = np.count_nonzero(match_ms > top)
    label = f"{len(length_s):,} clips" + (f", {above} above the plot" if above else "")
    aside = np.random.default_rng(0).uniform(-0.12, 0.12, len(length_s))  # so that points do not cover each other
    ax.plot(length_s + aside, match_ms, ".", color=GREY, alpha=0.35, markersize=4, label=label)
    middle = [np.median(match_ms[length_s == one]) for one in lengths]
    ax.plot(lengths, middle, "o", color=BLUE, label="median of a length")
    if len(lengths) > 1:
        fixed, slope = fit_line(length_s, match_ms)
        label = f"fitted to the medians: {fixed:.3g} ms {'+' if slope >= 0 else '-'} {abs(slope):.3g} ms a second"
        ax.plot(lengths, fixed + slope * lengths, color=ORANGE, label=label)
    ax.set(xlabel="length of the clip (s)", ylabel="time to match (ms)", ylim=(0, top), xticks=lengths)
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, frameon=False
    )  # above the axes, where it covers no point
    _plain_style(ax)
    return ax


def save(drawn: Axes | Figure, path: str | Path) -> None:
    """Write a figure to a file, on white, and close it."""
    figure = drawn.get_figure(root=True) if isinstance(drawn, Axes) else drawn
    assert figure is not None
    figure.savefig(path, dpi=150, facecolor="white")
    plt.close(figure)


def timeline(rows: Sequence[Mapping[str, Any]], durations_s: Mapping[str, float], ax: Axes | None = None) -> Axes:
    """The matches in each recording over time: a line for each recording, a bar for each match, grey between them.

    Parameters
    ----------
    rows
        Of `identify`, as ``table.to_pylist()`` gives them.
    durations_s
        Seconds of each recording, by its path; the lines are in this order.
    """
    ax = ax or _axes(width=10, height=0.8 + 0.5 * len(durations_s))
    songs = list(dict.fromkeys(row["song_path"] for row in rows if row["status"] == "matched"))
    colours = dict(zip(songs, _cycle(len(songs)), strict=True))
    for line, (clip, duration_s) in enumerate(durations_s.items()):
        ax.barh(line, duration_s, color="#E4E4E4", height=0.7)
        for row in rows:
            if row["clip"] == clip and row["status"] == "matched":
                start_s, end_s = row["clip_start_s"], row["clip_end_s"]
                ax.barh(line, end_s - start_s, left=start_s, height=0.7, alpha=0.75, color=colours[row["song_path"]])
                name = row["title"] or row["song_path"].rsplit("/", 1)[-1]
                ax.text(start_s, line, f" {_short(name, 22)}", va="center", fontsize=8, clip_on=True)
            elif row["clip"] == clip:
                ax.text(duration_s, line, f" {row['status']}", va="center", fontsize=8, color="#555555")
    ax.set_yticks(range(len(durations_s)), [_short(clip.rsplit("/", 1)[-1]) for clip in durations_s], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("time in the recording (s)")
    return ax


def _plain_style(ax: Axes) -> None:
    """No box, and a light grid behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    ax.set_axisbelow(True)


def _axes(width: float = 9.0, height: float = 4.0) -> Axes:
    _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    return ax


def _cycle(n: int) -> list[str]:
    colours = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
    return [colours[place % len(colours)] for place in range(n)]


def _seconds(frame: NDArray[np.integer[Any]], settings: Settings) -> NDArray[np.floating[Any]]:
    """The middle of each frame."""
    return (frame * settings.hop + settings.window / 2) / settings.sample_rate


def _hertz(bin_: NDArray[np.integer[Any]], settings: Settings) -> NDArray[np.floating[Any]]:
    return bin_ * (settings.sample_rate / settings.window)


def _point(frame: int, bin_: int, settings: Settings, start_s: float) -> tuple[float, float]:
    seconds = start_s + _seconds(np.array([frame]), settings)[0]
    return float(seconds), float(_hertz(np.array([bin_]), settings)[0])


def _time_and_frequency(ax: Axes) -> Axes:
    ax.set(xlabel="time (s)", ylabel="frequency (Hz)")
    return ax


def _short(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
