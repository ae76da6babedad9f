"""Tables from the rows of an experiment: recall, false positives, confidence, timing, storage."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from pipeline.evaluation.conditions import CHANGES, Plan, Surroundings
from pipeline.matching.types import Query
from pipeline.store import Snapshot

COMPARISON = pa.schema(
    [("what", pa.string())] + [(name, pa.float64()) for name in ("article", "ours", "ours_low", "ours_high")]
)
# 45 songs, recorded with a laptop's microphone while people talk; matched at three times real time.
ARTICLE = "the original article: 45 songs, a laptop's microphone, talk (Dejavu's README, 'How well it works')"
ARTICLE_RECALL = {1.0: 60.0, 2.0: 95.6, 3.0: 97.8, 4.0: 97.8, 5.0: 100.0}
ARTICLE_MATCH_MS = 1000 / 3
ARTICLE_SONG_MB = 8.4


def describe(condition: str) -> str:
    """A condition in words.

    Examples
    --------
    >>> describe("room-5")
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
        "pitch": f"pitch {number} semitones high or low",
        "tempo": f"tempo {number} % fast or slow",
    }[kind]


def provenance(plan: Plan, surroundings: Surroundings, query: Query) -> pa.Table:
    """What the figures depend on, apart from the music."""
    how = {
        "rooms": surroundings.simulator,
        "noise": surroundings.source,
        "seed": str(plan.seed),
        "songs": f"at most {plan.songs}",
        "clips": f"{plan.clips} of each song, condition and length",
        "hidden for out-of-library clips": plan.hide,
        "out-of-library clips that may be named": f"{query.false_positives:g}",
    }
    return pa.table({"what": list(how), "how": list(how.values())})


def recall(rows: pa.Table) -> pa.Table:
    """Right, wrong and unknown by condition and length, of clips whose song is in the library."""
    frame = _in_order(rows)
    known = frame[~frame.hidden]
    counted = pd.crosstab([known.condition, known.length_s], known.outcome)
    counted = counted.reindex(columns=["right", "wrong", "unknown"], fill_value=0)
    counted["clips"] = counted.sum(axis=1)
    _add_percent(counted, "right")
    counted = counted.reset_index().astype({"condition": str})
    return pa.Table.from_pandas(counted, preserve_index=False)


def out_of_library(rows: pa.Table) -> pa.Table:
    """How many out-of-library clips were named, by condition and in all.

    A clip of a hidden song does not count when it is found in another song that holds the same recording.
    """
    foreign = _foreign(rows)
    counted = foreign.groupby("condition", observed=True).agg(clips=("named", "size"), named=("named", "sum"))
    counted = counted.reset_index().astype({"condition": str})
    total = pd.DataFrame({"condition": ["all"], "clips": [len(foreign)], "named": [foreign.named.sum()]})
    counted = pd.concat([counted, total], ignore_index=True)
    _add_percent(counted, "named")
    return pa.Table.from_pandas(counted, preserve_index=False)


def out_of_library_by_length(rows: pa.Table) -> pa.Table:
    """How many out-of-library clips were named, by condition and length; counted as in `out_of_library`."""
    groups = _foreign(rows).groupby(["condition", "length_s"], observed=True)
    counted = groups.agg(clips=("named", "size"), named=("named", "sum")).reset_index().astype({"condition": str})
    _add_percent(counted, "named")
    return pa.Table.from_pandas(counted, preserve_index=False)


def _foreign(rows: pa.Table) -> pd.DataFrame:
    """The out-of-library clips, and whether each was named."""
    frame = _in_order(rows)
    hidden = frame[frame.hidden]
    return hidden.assign(named=hidden.outcome == "wrong")[hidden.outcome != "copy"]


def _in_order(rows: pa.Table) -> pd.DataFrame:
    """The rows, with the conditions in the order of the plan."""
    frame: pd.DataFrame = rows.to_pandas()
    frame["condition"] = pd.Categorical(frame.condition, frame.condition.unique())
    return frame


def _add_percent(counted: pd.DataFrame, what: str) -> None:
    """Add columns for the percent of the clips, and its interval."""
    low, high = wilson(counted[what].to_numpy(), counted.clips.to_numpy())
    counted[f"{what}_percent"] = (100 * counted[what] / counted.clips).round(2)
    counted["low_percent"], counted["high_percent"] = (100 * low).round(2), (100 * high).round(2)


def matches(rows: pa.Table) -> pd.DataFrame:
    """``confidence`` and ``is_right`` of each clip that was named."""
    frame = rows.to_pandas()
    frame = frame[frame.outcome.isin(["right", "wrong"])]
    return pd.DataFrame({"confidence": frame.confidence, "is_right": frame.outcome == "right"})


def reliability(rows: pa.Table) -> pa.Table:
    """Stated against observed confidence of all matches, in ten bins; empty bins have no figures."""
    return _reliability(matches(rows))


def candidate_reliability(rows: pa.Table) -> pa.Table:
    """`reliability` of the best candidate of each clip, named or not: its middle bins have many more answers."""
    frame = rows.to_pandas().dropna(subset=["best_confidence", "best_right"])
    return _reliability(pd.DataFrame({"confidence": frame.best_confidence, "is_right": frame.best_right.astype(bool)}))


def _reliability(answers: pd.DataFrame) -> pa.Table:
    frame = answers.assign(above=np.minimum((10 * answers.confidence).astype(int), 9))
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
    """Milliseconds to match a clip by its length, and a fitted line: so much for any clip, and for each second of it.

    Only clips whose song is in the library, at the song's own speed: a search for others takes longer whatever the
    length of the clip. Decoding is excluded.
    """
    frame = match_times(rows)
    counted = frame.groupby("length_s").agg(clips=("match_ms", "size"), median_ms=("match_ms", "median")).reset_index()
    fixed, slope = fit_line(frame.length_s, frame.match_ms)
    counted["fitted_ms"] = fixed + slope * counted.length_s
    counted["fixed_ms"], counted["per_second_ms"] = fixed, slope
    return pa.Table.from_pandas(counted.round(2), preserve_index=False)


def match_times(rows: pa.Table) -> pd.DataFrame:
    """Length and milliseconds of the clips that `timing` is about."""
    frame = rows.to_pandas()
    frame = frame[~frame.hidden & ~frame.condition.str.startswith(CHANGES)]
    return pd.DataFrame({"length_s": frame.length_s, "match_ms": 1000 * frame.match_s})


def fit_line(length_s: ArrayLike, match_ms: ArrayLike) -> tuple[float, float]:
    """Milliseconds for any clip, and for each of its seconds: a least squares line through the medians of the lengths.

    Medians, since a clip that needs the fine search takes several times as long, and most of those clips are short.
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


def compare_with_article(recalled: pa.Table, matched: pa.Table, stored: pa.Table) -> pa.Table:
    """The figures of the original article, beside those of `recall`, `timing` and `storage`.

    Its noisy microphone is compared with a room and noise at 10 dB. Its songs, noise and computer were others, so that
    not every difference comes from the method.
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
    return pa.Table.from_pylist(rows, schema=COMPARISON)


def wilson(right: NDArray[np.int64], clips: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's 95 % interval of a share.

    Examples
    --------
    >>> low, high = wilson(np.array([97]), np.array([100]))
    >>> round(float(low[0]), 3), round(float(high[0]), 3)
    (0.915, 0.99)
    """
    # By hand: scipy's `binomtest` takes one share at a time and no share of nothing, and its import costs 0.5 s.
    z = 1.96
    share = right / clips
    middle = share + z * z / (2 * clips)
    aside = z * np.sqrt(share * (1 - share) / clips + z * z / (4 * clips * clips))
    return (middle - aside) / (1 + z * z / clips), (middle + aside) / (1 + z * z / clips)
