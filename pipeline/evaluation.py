"""The accuracy tables of the original article, and more, on the user's own music.

Clips are cut from the songs, degraded, and asked for: as they are, and once more with their own song hidden from the
library, which makes them strangers. Everything follows from the seed. The tables are made from one row per clip.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from pipeline import audio, catalog, synthesis
from pipeline.config import Settings
from pipeline.constellation import Peaks
from pipeline.duplicates import COMMON, ONE_SOUND, compare, kind
from pipeline.errors import AudioError, CatalogError, ParameterError
from pipeline.landmarks import Postings
from pipeline.recognise import Library, Match, Query, at_speed, recognise
from pipeline.store import Snapshot

log = logging.getLogger(__name__)

CONDITIONS = ("clean", "codec", "room10", "room0", "noise10", "noise0", "speed2")
CONDITION = re.compile(r"clean|codec|(room|noise)-?\d{1,2}|speed1?\d")
LENGTHS_S = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0)
LONGEST_CLIP_S = 15.0  # a longer one is a recording, which is asked in another way
START_ERROR_S = 0.1

# Clips are made at a CD's rate: noise above what a fingerprint looks at counts in a signal to noise ratio too, and a
# codec that need not keep it would have bits to spare.
RATE = 44100
LEAD_S = 1.0  # heard before the clip begins, so that the room already rings
EDGE_S = 10.0  # music fades in and out: no clip is from there if the song is long enough
QUIET = 0.01  # root mean square of what is silence, and no fair question
MOST_S = 900.0  # of a song or a recording of noise, so that a mix of hours fits into memory
ROOMS = 24
BED_S, LAYERS = 60.0, 6  # a bed of noise: so many recordings at once, so that it is never silent

ROWS = pa.schema(
    [
        ("clip", pa.string()),
        ("condition", pa.string()),
        ("length_s", pa.float64()),
        ("hidden", pa.bool_()),
        ("outcome", pa.string()),  # right, wrong, unknown, or copy: a hidden song's recording, in the library once more
        ("named", pa.string()),  # path of the song that was named
        ("confidence", pa.float64()),
        ("start_error_s", pa.float64()),
        ("match_s", pa.float64()),
    ]
)


BESIDE = pa.schema(
    [("what", pa.string())] + [(name, pa.float64()) for name in ("article", "ours", "ours_low", "ours_high")]
)
# 45 songs, played to a laptop's microphone while people talk; matched at three times listening speed.
ARTICLE = "the original article: 45 songs, a laptop's microphone, talk (Dejavu's README, 'How well it works')"
ARTICLE_RECALL = {1.0: 60.0, 2.0: 95.6, 3.0: 97.8, 4.0: 97.8, 5.0: 100.0}
ARTICLE_MATCH_MS = 1000 / 3
ARTICLE_SONG_MB = 8.4


@dataclass(frozen=True, slots=True)
class Plan:
    """What is cut and how it is treated.

    Parameters
    ----------
    conditions
        ``clean``; ``codec`` (Opus at 24 kbit/s); ``room10``, ``noise10`` and the like (a small loudspeaker in a room,
        and noise; noise alone: with the decibels of the music over the noise, which may be negative); ``speed2`` and
        the like (played so many percent fast or slow).
    lengths_s
        Seconds of a clip, above 0, at most `LONGEST_CLIP_S`.
    songs
        At most so many songs are drawn; each gives one clip of each kind.
    seed
        Everything drawn follows from it.

    Raises
    ------
    ParameterError
        If a condition or a length is none of these.
    """

    conditions: tuple[str, ...] = CONDITIONS
    lengths_s: tuple[float, ...] = LENGTHS_S
    songs: int = 50
    seed: int = 1

    def __post_init__(self) -> None:
        if odd := [name for name in self.conditions if not CONDITION.fullmatch(name)]:
            known = "clean, codec, room10, noise10 and speed2, the last three with other numbers too (speed up to 19)"
            raise ParameterError(f"conditions: {', '.join(odd)} unknown; there are {known}")
        if odd_s := [length_s for length_s in self.lengths_s if not 0 < length_s <= LONGEST_CLIP_S]:
            raise ParameterError(f"lengths: {odd_s[0]:g} s; a clip has above 0 and at most {LONGEST_CLIP_S:g} s")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where clips are heard.

    Parameters
    ----------
    rooms
        Impulse responses at `RATE`, of which each clip draws one.
    noise
        ``(n,)`` float32 at `RATE`, longer than any clip, root mean square 1; each clip draws a span.
    simulator, source
        How the rooms and the noise were made, in words.
    """

    rooms: tuple[NDArray[np.float32], ...]
    noise: NDArray[np.float32]
    simulator: str
    source: str


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


def surroundings(noise_paths: Sequence[str] = (), seed: int = 1) -> Surroundings:
    """Rooms and a bed of noise.

    Parameters
    ----------
    noise_paths
        Recordings of noise, six of which sound at a time; voices are synthesised without any. Pink noise lies below.

    Raises
    ------
    CatalogError
        If a path leads to no audio file that can be read.
    """
    rng = np.random.default_rng([seed, 0])
    simulator = synthesis.room_simulator()
    rooms = tuple(synthesis.room(rng, RATE, simulator is not None) for _ in range(ROOMS))
    n_samples = round(BED_S * RATE)
    entries = catalog.walk(noise_paths) if noise_paths else []
    noise = _layers(entries, n_samples, rng) if entries else _level(synthesis.babble(n_samples, rng, RATE))
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), n_samples)
    noise = _level(noise + np.float32(0.5) * _level(pink.astype(np.float32)))
    source = f"{len(entries)} recordings in {LAYERS} layers" if entries else "voices by formula"
    return Surroundings(rooms, noise, simulator or "formula", f"{source}, over pink noise")


def _layers(entries: Sequence[catalog.Entry], n_samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Recordings one after another, in several layers, each in turn louder or quieter."""
    bed = np.zeros(n_samples, np.float32)
    usable = list(entries)
    for _ in range(LAYERS):
        layer = np.zeros(n_samples, np.float32)
        place = 0
        while place < n_samples:
            if not usable:
                raise CatalogError(f"{entries[0].path}: none of {len(entries)} recordings of noise can be heard")
            entry = usable[int(rng.integers(len(usable)))]
            try:
                with catalog.local_copy(entry.path) as local:
                    samples, _ = audio.read(local, RATE, stop_s=MOST_S)
            except (AudioError, CatalogError):
                samples = np.zeros(0, np.float32)
            if len(samples) < RATE // 100 or not samples.any():
                usable.remove(entry)
                continue
            start = int(rng.integers(max(len(samples) - n_samples, 0) + 1))
            samples = _level(samples[start : start + n_samples])[: n_samples - place]
            layer[place : place + len(samples)] = np.float32(rng.uniform(0.3, 1.0)) * samples
            place += len(samples)
        bed += np.roll(layer, int(rng.integers(n_samples)))  # else few recordings would pause all at once
    return bed


def evaluate(
    paths: Sequence[str],
    snapshot: Snapshot,
    query: Query,
    plan: Plan,
    around: Surroundings,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pa.Table:
    """Cut, degrade and ask.

    Parameters
    ----------
    paths
        The user's songs; those that the store does not have are asked as strangers.

    Returns
    -------
    pyarrow.Table
        One row per clip and asking, in the schema `ROWS`.

    Raises
    ------
    CatalogError
        If a path leads to no audio file, or to none that a clip can be cut from.
    """
    songs = {song["song_id"]: song for song in snapshot.songs(["song_id", "digest", "path", "duration_s"]).to_pylist()}
    known = {song["digest"]: song_id for song_id, song in songs.items()}
    rng = np.random.default_rng([plan.seed, 1])
    entries = catalog.walk(paths)
    drawn = [entries[place] for place in sorted(rng.permutation(len(entries))[: plan.songs])]
    rows: list[dict[str, object]] = []
    _ask(around.noise[:RATE], snapshot, query)  # opens the store's files, which is not the first clip's cost
    for done, entry in enumerate(drawn):
        progress(done, len(drawn))
        try:
            with catalog.local_copy(entry.path) as local:
                song_id = known.get(catalog.digest(local))
                samples, _ = audio.read(local, RATE, stop_s=MOST_S)
        except (AudioError, CatalogError) as error:
            log.warning("%s", error)
            continue
        asked: list[Asked] = []
        for condition, length_s, start_s, heard in _clips(samples, plan, around, rng):
            clip = np.concatenate([*audio.resampled([heard], RATE, snapshot.settings.sample_rate)])
            limits = dataclasses.replace(query, speed_range=max(query.speed_range, _off_speed(condition)))
            libraries: list[Library] = [snapshot]
            if song_id is not None:
                libraries.append(Without(snapshot, song_id))
            for place, library in enumerate(libraries):
                best, match_s = _ask(clip, library, limits)
                hidden = song_id is None or place == 1
                asked.append(Asked(condition, length_s, hidden, start_s, best, match_s))
        copies = _copies(asked, song_id, snapshot, songs)
        rows += [{"clip": entry.path} | _row(one, song_id, copies, songs) for one in asked]
    progress(len(drawn), len(drawn))
    if not rows:
        raise CatalogError(f"{paths[0]}: no clip could be cut: the songs are shorter than the clips, silent, or broken")
    return pa.Table.from_pylist(rows, schema=ROWS)


@dataclass(frozen=True, slots=True)
class Asked:
    """One clip and its best answer; `start_s` is where it truly is in its song."""

    condition: str
    length_s: float
    hidden: bool
    start_s: float
    best: Match | None
    match_s: float


def _ask(clip: NDArray[np.float32], library: Library, query: Query) -> tuple[Match | None, float]:
    """The match with most votes, and the seconds that it took."""
    started = time.perf_counter()
    matches = recognise([clip], library, query)[0]
    return max(matches, key=lambda match: match.votes, default=None), time.perf_counter() - started


def _song_start_s(match: Match) -> float:
    """Where in the song the clip begins."""
    return match.song_start_s - match.clip_start_s * match.speed


def _copies(
    asked: Sequence[Asked], song_id: int | None, snapshot: Snapshot, songs: Mapping[int, Mapping[str, Any]]
) -> set[int]:
    """Of the songs named instead of one, those that hold the same recording, by the rules of `duplicates`.

    They are compared at the distances of the answers; what is a copy at one is a copy, since music repeats itself.
    """
    copies: set[int] = set()
    frame_s = snapshot.settings.frame_s
    for one in asked:
        if song_id is None or one.best is None or one.best.song_id in {song_id, *copies}:
            continue
        other = one.best.song_id
        peaks = snapshot.constellations([song_id, other])
        distance = round((_song_start_s(one.best) - one.start_s) / frame_s)
        spans = compare(peaks[song_id], peaks[other], [distance - 1], frame_s)
        if spans:
            what = kind(spans, songs[song_id]["duration_s"], songs[other]["duration_s"])
            if what != COMMON or max(span.peaks_share for span in spans) >= ONE_SOUND:
                copies.add(other)
    return copies


def _row(
    one: Asked, song_id: int | None, copies: set[int], songs: Mapping[int, Mapping[str, Any]]
) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(one, name) for name in ("condition", "length_s", "hidden", "match_s")}
    if one.best is None:
        return row | {"outcome": "unknown"}
    row |= {"named": songs[one.best.song_id]["path"], "confidence": one.best.confidence}
    if one.best.song_id == song_id:
        return row | {"outcome": "right", "start_error_s": abs(_song_start_s(one.best) - one.start_s)}
    if one.best.song_id in copies:
        return row | {"outcome": "copy" if one.hidden else "right"}
    return row | {"outcome": "wrong"}


def _off_speed(condition: str) -> float:
    """Percent of speed that must be searched: one more than the clip is off."""
    return float(condition.removeprefix("speed")) + 1 if condition.startswith("speed") else 0.0


def _clips(
    samples: NDArray[np.float32], plan: Plan, around: Surroundings, rng: np.random.Generator
) -> Iterator[tuple[str, float, float, NDArray[np.float32]]]:
    """Condition, length, start in the song and samples of each clip of one song."""
    lead, edge = round(LEAD_S * RATE), round(EDGE_S * RATE)
    for condition in plan.conditions:
        for length_s in plan.lengths_s:
            percent = float(condition.removeprefix("speed")) if condition.startswith("speed") else 0.0
            speed = 1 + percent / 100 * float(rng.choice([-1, 1]))
            size = round(length_s * speed * RATE)
            first, last = edge, len(samples) - edge - size
            if last < first:
                first, last = lead, len(samples) - size
            if last < first:
                continue
            starts = rng.integers(first, last + 1, 50)
            loud = (start for start in starts if np.mean(samples[start : start + size] ** 2) > QUIET**2)
            start = int(next(loud, -1))
            if start >= 0:
                part = samples[start - lead : start + size]
                yield condition, length_s, start / RATE, degrade(part, condition, speed, around, rng)


def degrade(
    samples: NDArray[np.float32], condition: str, speed: float, around: Surroundings, rng: np.random.Generator
) -> NDArray[np.float32]:
    """What a clip sounds like under one of the conditions of a `Plan`.

    Parameters
    ----------
    samples
        ``(n,)`` float32 at `RATE`, of which the first `LEAD_S` were heard before the clip begins.
    speed
        At which it is played where the condition is one of speed.
    """
    clip = samples[round(LEAD_S * RATE) :]
    if condition == "clean":
        return clip
    if condition == "codec":
        return _through_codec(clip)
    if condition.startswith("speed"):
        return at_speed(clip, 1 / speed)
    if condition.startswith("room"):
        band_hz = (rng.uniform(120, 300), rng.uniform(6000, 9000))
        played = synthesis.loudspeaker(samples, RATE, band_hz)
        clip = synthesis.heard_in(played, around.rooms[int(rng.integers(len(around.rooms)))])[-len(clip) :]
    start = int(rng.integers(len(around.noise) - len(clip)))
    noise = around.noise[start : start + len(clip)]
    snr_db = float(condition.removeprefix("room").removeprefix("noise"))
    mixed: NDArray[np.float32] = clip + noise * (_rms(clip) / _rms(noise) * np.float32(10 ** (-snr_db / 20)))
    return mixed


def _through_codec(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Opus at 24 kbit/s and back."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "clip.opus")
        synthesis.write(path, samples, RATE, bitrate="24k")
        return audio.read(path, RATE)[0]


def _rms(samples: NDArray[np.float32]) -> np.float32:
    return np.float32(np.sqrt(np.mean(samples**2)) + 1e-9)


def _level(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    return samples / _rms(samples)


def described(condition: str) -> str:
    """A condition in words.

    Examples
    --------
    >>> described("room-5")
    'room, noise at -5 dB'
    """
    kind = condition.rstrip("-0123456789")
    number = condition.removeprefix(kind)
    return {
        "clean": "clean",
        "codec": "Opus, 24 kbit/s",
        "room": f"room, noise at {number} dB",
        "noise": f"noise at {number} dB",
        "speed": f"{number} % fast or slow",
    }[kind]


def made(plan: Plan, around: Surroundings, query: Query) -> pa.Table:
    """What the figures depend on beside the music."""
    told = {
        "rooms": around.simulator,
        "noise": around.source,
        "seed": str(plan.seed),
        "songs": f"at most {plan.songs}",
        "strangers that may be named": f"{query.false_positives:g}",
    }
    return pa.table({"what": list(told), "how": list(told.values())})


def recall(rows: pa.Table) -> pa.Table:
    """Right, wrong and unknown answers by condition and length, of clips whose song is in the library."""
    frame = _in_order(rows)
    known = frame[~frame.hidden]
    counted = pd.crosstab([known.condition, known.length_s], known.outcome)
    counted = counted.reindex(columns=["right", "wrong", "unknown"], fill_value=0)
    counted["clips"] = counted.sum(axis=1)
    _share(counted, "right")
    counted = counted.reset_index().astype({"condition": str})
    return pa.Table.from_pandas(counted, preserve_index=False)


def strangers(rows: pa.Table) -> pa.Table:
    """How many clips whose song is not in the library were named, by condition and in all.

    A hidden song whose recording the library has once more is none of them when it is found there.
    """
    frame = _in_order(rows)
    hidden = frame[frame.hidden]
    asked = hidden.assign(named=hidden.outcome == "wrong")[hidden.outcome != "copy"]
    counted = asked.groupby("condition", observed=True).agg(clips=("named", "size"), named=("named", "sum"))
    counted = counted.reset_index().astype({"condition": str})
    every = pd.DataFrame({"condition": ["all"], "clips": [len(asked)], "named": [asked.named.sum()]})
    counted = pd.concat([counted, every], ignore_index=True)
    _share(counted, "named")
    return pa.Table.from_pandas(counted, preserve_index=False)


def _in_order(rows: pa.Table) -> pd.DataFrame:
    """The rows, with the conditions sorted as they were asked."""
    frame: pd.DataFrame = rows.to_pandas()
    frame["condition"] = pd.Categorical(frame.condition, frame.condition.unique())
    return frame


def _share(counted: pd.DataFrame, what: str) -> None:
    """Percent of the clips, with its interval, as further columns."""
    low, high = wilson(counted[what].to_numpy(), counted.clips.to_numpy())
    counted[f"{what}_percent"] = (100 * counted[what] / counted.clips).round(2)
    counted["low_percent"], counted["high_percent"] = (100 * low).round(2), (100 * high).round(2)


def answers(rows: pa.Table) -> pd.DataFrame:
    """``confidence`` and ``is_right`` of each clip that was named."""
    frame = rows.to_pandas()
    frame = frame[frame.outcome.isin(["right", "wrong"])]
    return pd.DataFrame({"confidence": frame.confidence, "is_right": frame.outcome == "right"})


def reliability(rows: pa.Table) -> pa.Table:
    """Stated against observed confidence of all answers, in ten bins; those without answers have no figures."""
    frame = answers(rows)
    frame["above"] = np.minimum((10 * frame.confidence).astype(int), 9)
    counted = frame.groupby("above").agg(
        answers=("is_right", "size"), right=("is_right", "sum"), stated=("confidence", "mean")
    )
    counted["observed"] = counted.right / counted.answers
    counted["low"], counted["high"] = wilson(counted.right.to_numpy(), counted.answers.to_numpy())
    counted = counted.reindex(range(10)).reset_index().round(3)
    counted["above"] /= 10
    counts = {name: counted[name].fillna(0).astype(int) for name in ("answers", "right")}
    return pa.Table.from_pandas(counted.assign(**counts), preserve_index=False)


def timing(rows: pa.Table) -> pa.Table:
    """Milliseconds to match a clip by its length, and the line through them: for any clip, and for each second of it.

    Of clips whose song is in the library, played at its own speed: looking for others takes longer however long a
    clip is. Decoding is not in it.
    """
    frame = timed(rows)
    counted = frame.groupby("length_s").agg(clips=("match_ms", "size"), median_ms=("match_ms", "median")).reset_index()
    fixed, slope = fitted(frame.length_s, frame.match_ms)
    counted["fitted_ms"] = fixed + slope * counted.length_s
    counted["fixed_ms"], counted["per_second_ms"] = fixed, slope
    return pa.Table.from_pandas(counted.round(2), preserve_index=False)


def timed(rows: pa.Table) -> pd.DataFrame:
    """Length and milliseconds of the clips that `timing` is about."""
    frame = rows.to_pandas()
    frame = frame[~frame.hidden & ~frame.condition.str.startswith("speed")]
    return pd.DataFrame({"length_s": frame.length_s, "match_ms": 1000 * frame.match_s})


def fitted(length_s: ArrayLike, match_ms: ArrayLike) -> tuple[float, float]:
    """Milliseconds for any clip and for each of its seconds: the least squares line through the medians of the lengths.

    Through the medians, since a clip that is asked densely takes several times as long, and most of those are short.
    """
    median = pd.Series(np.asarray(match_ms)).groupby(np.asarray(length_s)).median()
    if len(median) < 2:
        return np.nan, np.nan
    slope, fixed = np.polyfit(median.index, median, 1)
    return float(fixed), float(slope)


def storage(snapshot: Snapshot) -> pa.Table:
    """Megabytes of the library as songs on disk, as MP3, as uncompressed CD audio, and as fingerprints."""
    songs = snapshot.songs(["duration_s", "size_bytes"]).to_pandas()
    seconds = max(songs.duration_s.sum(), 1e-9)
    sizes = {
        "files as they are": songs.size_bytes.sum() / 1e6,
        "mp3 (192 kbit/s)": seconds * 24000 / 1e6,
        "wav (44.1 kHz, 16 bit, stereo)": seconds * 44100 * 4 / 1e6,
        "fingerprints": snapshot.stats()["bytes"] / 1e6,
    }
    mb = np.array(list(sizes.values()))
    per_hour, per_song = mb * 3600 / seconds, mb / max(len(songs), 1)
    columns = {"mb": mb.round(2), "mb_per_hour": per_hour.round(2), "mb_per_song": per_song.round(3)}
    return pa.table({"what": list(sizes), **columns})


def beside_the_article(recalled: pa.Table, matched: pa.Table, stored: pa.Table) -> pa.Table:
    """The three tables of the original article, and ours of `recall`, `timing` and `storage`.

    Its noisy microphone stands beside our room with noise at 10 dB. Its songs, noise and computer were others: only
    the user's own music tells how much of a difference is the method's.
    """
    ours = {row["length_s"]: row for row in recalled.to_pylist() if row["condition"] == "room10"}
    rows: list[dict[str, object]] = [
        {
            "what": f"recall of {length_s:g} s, noisy microphone, %",
            "article": percent,
            "ours": ours[length_s]["right_percent"],
            "ours_low": ours[length_s]["low_percent"],
            "ours_high": ours[length_s]["high_percent"],
        }
        for length_s, percent in ARTICLE_RECALL.items()
        if length_s in ours
    ]
    if matched.num_rows:
        slope = matched["per_second_ms"][0].as_py()
        rows.append({"what": "milliseconds to match a second of a clip", "article": ARTICLE_MATCH_MS, "ours": slope})
    rows.append(
        {"what": "fingerprints, MB a song", "article": ARTICLE_SONG_MB, "ours": stored["mb_per_song"][-1].as_py()}
    )
    return pa.Table.from_pylist(rows, schema=BESIDE)


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
