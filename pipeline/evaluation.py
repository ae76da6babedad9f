"""The accuracy tables of the original article, and more, on the user's own music.

Clips are cut from the songs, degraded, and asked for: as they are, and once more with their own song hidden from the
library, which makes them strangers. Everything follows from the seed. The tables are made from one row per clip.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import audio, catalog, synthesis
from pipeline.config import Settings
from pipeline.constellation import Peaks
from pipeline.errors import AudioError, CatalogError
from pipeline.landmarks import Postings
from pipeline.recognise import Library, Query, at_speed, recognise
from pipeline.store import Snapshot

CONDITIONS = ("clean", "codec", "room10", "room0", "noise10", "noise0", "speed2")
LENGTHS_S = (1.0, 2.0, 3.0, 5.0, 10.0)
START_ERROR_S = 0.1
LEAD_S = 1.0  # heard before the clip begins, so that the room already rings

ROWS = pa.schema(
    [
        ("clip", pa.string()),
        ("condition", pa.string()),
        ("length_s", pa.float64()),
        ("hidden", pa.bool_()),
        ("outcome", pa.string()),  # right, wrong or unknown
        ("confidence", pa.float64()),
        ("start_error_s", pa.float64()),
        ("match_s", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is cut and how it is treated.

    Parameters
    ----------
    conditions
        Of `CONDITIONS`: ``room`` is a small loudspeaker in a room, ``noise`` is noise alone, with the decibels of the
        music over the noise.
    lengths_s
        Seconds of a clip.
    songs
        At most so many songs are drawn; each gives one clip of each kind.
    seed
        Everything drawn follows from it.
    """

    conditions: tuple[str, ...] = CONDITIONS
    lengths_s: tuple[float, ...] = LENGTHS_S
    songs: int = 50
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Without:
    """A library from which one song is hidden."""

    library: Library
    song_id: int

    @property
    def settings(self) -> Settings:
        """Of the library."""
        return self.library.settings

    @property
    def n_songs(self) -> int:
        """One fewer."""
        return self.library.n_songs - 1

    def postings(self, hashes: NDArray[np.int32]) -> Postings:
        """Those of the other songs."""
        found = self.library.postings(hashes)
        others = found.song_id != self.song_id
        return Postings(found.hash[others], found.song_id[others], found.offset[others])

    def costs(self, hashes: NDArray[np.int32]) -> NDArray[np.float64]:
        """As the library has them."""
        return self.library.costs(hashes)

    def constellations(self, song_ids: Iterable[int]) -> dict[int, Peaks]:
        """As the library has them."""
        return self.library.constellations(song_ids)


def evaluate(
    paths: Sequence[str],
    snapshot: Snapshot,
    query: Query,
    plan: Plan,
    noise_paths: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pa.Table:
    """Cut, degrade and ask.

    Parameters
    ----------
    paths
        The user's songs; those that the store does not have are asked as strangers.
    noise_paths
        Recordings of noise; voices are synthesised without any.

    Returns
    -------
    pyarrow.Table
        One row per clip and asking, in the schema `ROWS`.

    Raises
    ------
    CatalogError
        If a path leads to no audio file.
    """
    known = {row["digest"]: row["song_id"] for row in snapshot.songs(["digest", "song_id"]).to_pylist()}
    rng = np.random.default_rng(plan.seed)
    entries = catalog.walk(paths)
    drawn = [entries[place] for place in sorted(rng.permutation(len(entries))[: plan.songs])]
    noise = _noise(noise_paths, snapshot.settings.sample_rate)
    rows = []
    for done, entry in enumerate(drawn):
        progress(done, len(drawn))
        try:
            with catalog.local_copy(entry.path) as local:
                song_id = known.get(catalog.digest(local))
                samples, _ = audio.read(local, snapshot.settings.sample_rate)
        except (AudioError, CatalogError):
            continue  # what cannot be read cannot be judged; `index` has said so
        for condition, length_s, start_s, clip in _clips(samples, plan, noise, snapshot.settings.sample_rate, rng):
            row = {"clip": entry.path, "condition": condition, "length_s": length_s}
            limits = (
                dataclasses.replace(query, speed_range=max(query.speed_range, 3.0)) if "speed" in condition else query
            )
            if song_id is not None:
                rows.append(row | {"hidden": False} | _ask(clip, snapshot, limits, song_id, start_s))
            library = Without(snapshot, song_id) if song_id is not None else snapshot
            rows.append(row | {"hidden": True} | _ask(clip, library, limits, None, start_s))
    progress(len(drawn), len(drawn))
    return pa.Table.from_pylist(rows, schema=ROWS)


def _clips(
    samples: NDArray[np.float32], plan: Plan, noise: NDArray[np.float32], rate: int, rng: np.random.Generator
) -> Iterator[tuple[str, float, float, NDArray[np.float32]]]:
    """Condition, length, start in the song and samples of each clip of one song."""
    for condition in plan.conditions:
        for length_s in plan.lengths_s:
            speed = float(rng.choice([0.98, 1.02])) if condition == "speed2" else 1.0
            lead, size = round(LEAD_S * rate), round(length_s * speed * rate)
            if len(samples) < lead + size:
                continue
            start = int(rng.integers(lead, len(samples) - size + 1))
            part = samples[start - lead : start + size]
            yield condition, length_s, start / rate, degrade(part, condition, speed, noise, rate, rng)[-size:]


def degrade(
    samples: NDArray[np.float32],
    condition: str,
    speed: float,
    noise: NDArray[np.float32],
    rate: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """What a clip sounds like under one of the `CONDITIONS`."""
    lead = round(LEAD_S * rate)
    if condition == "clean":
        return samples[lead:]
    if condition == "codec":
        return _through_codec(samples[lead:], rate)
    if condition.startswith("speed"):
        return at_speed(samples[lead:], 1 / speed)
    snr_db = float(condition.removeprefix("room").removeprefix("noise"))
    heard = samples
    if condition.startswith("room"):
        heard = synthesis.reverberate(synthesis.loudspeaker(samples, rate), rng, rate)
    heard = heard[lead:]
    if len(noise) > len(heard):
        start = int(rng.integers(0, len(noise) - len(heard)))
        other = noise[start : start + len(heard)]
    else:
        other = synthesis.babble(len(heard), rng, rate)
    loudness = np.sqrt(np.mean(heard**2) / (np.mean(other**2) + 1e-12)) * 10 ** (-snr_db / 20)
    mixed: NDArray[np.float32] = heard + other * np.float32(loudness)
    return mixed


def _through_codec(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Opus at 24 kbit/s and back."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "clip.opus")
        synthesis.write(path, samples, rate, bitrate="24k")
        return audio.read(path, rate)[0]


def _noise(paths: Sequence[str], rate: int) -> NDArray[np.float32]:
    """All recordings of noise, one after another, each as loud as the others."""
    parts = []
    for entry in catalog.walk(paths) if paths else []:
        with catalog.local_copy(entry.path) as local:
            samples, _ = audio.read(local, rate)
        parts.append(samples / np.float32(np.sqrt(np.mean(samples**2)) + 1e-6))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _ask(
    clip: NDArray[np.float32], library: Library, query: Query, song_id: int | None, start_s: float
) -> dict[str, object]:
    started = time.perf_counter()
    matches = recognise([clip], library, query)[0]
    row: dict[str, object] = {"match_s": time.perf_counter() - started, "outcome": "unknown"}
    if matches:
        best = max(matches, key=lambda match: match.votes)
        row["outcome"] = "right" if best.song_id == song_id else "wrong"
        row["confidence"] = best.confidence
        if best.song_id == song_id:
            row["start_error_s"] = abs(best.song_start_s - best.clip_start_s * best.speed - start_s)
    return row


def recall(rows: pa.Table) -> pa.Table:
    """Right, wrong and unknown answers by condition and length, of clips whose song is in the library."""
    frame = rows.to_pandas()
    known = frame[~frame.hidden]
    counted = known.groupby(["condition", "length_s"], sort=True).outcome.value_counts().unstack(fill_value=0)
    counted = counted.reindex(columns=["right", "wrong", "unknown"], fill_value=0)
    counted["clips"] = counted.sum(axis=1)
    counted["right_percent"] = (100 * counted.right / counted.clips).round(1)
    low, high = wilson(counted.right.to_numpy(), counted.clips.to_numpy())
    counted["low_percent"], counted["high_percent"] = (100 * low).round(1), (100 * high).round(1)
    return pa.Table.from_pandas(counted.reset_index(), preserve_index=False)


def strangers(rows: pa.Table) -> pa.Table:
    """How many clips whose song is not in the library were named, by condition."""
    frame = rows.to_pandas()
    hidden = frame[frame.hidden]
    counted = hidden.groupby("condition", sort=True).agg(clips=("outcome", "size"), named=("confidence", "count"))
    counted["named_percent"] = (100 * counted.named / counted.clips).round(2)
    return pa.Table.from_pandas(counted.reset_index(), preserve_index=False)


def reliability(rows: pa.Table) -> pa.Table:
    """Stated against observed confidence of all answers, in ten bins."""
    frame = rows.to_pandas().dropna(subset=["confidence"])
    frame["bin"] = np.minimum((10 * frame.confidence).astype(int), 9) / 10
    frame["is_right"] = frame.outcome == "right"
    counted = frame.groupby("bin").agg(
        answers=("outcome", "size"), stated=("confidence", "mean"), observed=("is_right", "mean")
    )
    return pa.Table.from_pandas(counted.round(3).reset_index(), preserve_index=False)


def timing(rows: pa.Table) -> pa.Table:
    """Seconds to match a clip by its length, and the line through them: what one clip costs, and each second of it."""
    frame = rows.to_pandas()
    counted = frame.groupby("length_s").agg(clips=("match_s", "size"), median_s=("match_s", "median")).reset_index()
    slope, start = np.polyfit(frame.length_s, frame.match_s, 1) if len(counted) > 1 else (0.0, frame.match_s.mean())
    counted["fitted_s"] = start + slope * counted.length_s
    counted["fixed_s"], counted["per_second_s"] = start, slope
    return pa.Table.from_pandas(counted.round(4), preserve_index=False)


def storage(snapshot: Snapshot) -> pa.Table:
    """Megabytes of the library as songs on disk, as uncompressed CD audio, and as fingerprints."""
    songs = snapshot.songs(["duration_s", "size_bytes"]).to_pandas()
    hours = songs.duration_s.sum() / 3600
    sizes = {
        "files as they are": songs.size_bytes.sum() / 1e6,
        "wav (44.1 kHz, 16 bit, stereo)": songs.duration_s.sum() * 44100 * 4 / 1e6,
        "fingerprints": snapshot.stats()["bytes"] / 1e6,
    }
    return pa.table(
        {
            "what": list(sizes),
            "mb": [round(size, 2) for size in sizes.values()],
            "mb_per_hour": [round(size / max(hours, 1e-9), 2) for size in sizes.values()],
        }
    )


def wilson(right: NDArray[np.int64], clips: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's 95 % interval of a share.

    Examples
    --------
    >>> low, high = wilson(np.array([97]), np.array([100]))
    >>> round(float(low[0]), 3), round(float(high[0]), 3)
    (0.915, 0.99)
    """
    z = 1.96
    share = right / clips
    middle = share + z * z / (2 * clips)
    aside = z * np.sqrt(share * (1 - share) / clips + z * z / (4 * clips * clips))
    return (middle - aside) / (1 + z * z / clips), (middle + aside) / (1 + z * z / clips)
