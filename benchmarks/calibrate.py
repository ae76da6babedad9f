"""Fit the weights and thresholds of `pipeline.matching.calibration` again, from real clips whose song is known.

    python -m benchmarks.calibrate SET [SET ...] [--unseen SET ...]     (or: make calibrate SETS="..." UNSEEN="...")

A SET is a folder with `library.csv` (path), `queries.csv` (query_path, track_path, start_s, length_s, condition) and
the files that they name. An empty track_path means an out-of-library clip. Every other clip is verified twice: with its
own song, and with that song hidden, as an out-of-library clip. Songs that share a recording (more than one clip of one
is found in the other with high confidence) count neither as right nor as wrong, and are left out. A set should withhold
no song that its library holds under another name.

To the clips of a set are added excerpts of `EXCERPTS_S` of its songs, `--hard` sounds of each kind of
`benchmarks.hard_negatives`, and clips of `--editions` of its songs (`benchmarks.editions`).

1. `CLIP_TERMS` are fitted to the best candidate of each search, coarse or dense.
2. `SUPPORT_TERMS` are fitted to what these name: the hard sounds, against the right answers.
3. All of these weights are multiplied by one factor, and their constants moved, so that the confidence of the best
   candidates is how often they are right (Platt 1999), of clips with their song and without it together.
4. `VERSION_TERMS` are fitted to the clips of editions.
5. `LOGIT_AT_FPR` are the logits that each share of out-of-library clips and hard sounds reaches in the cascade of both
   searches.

Printed are the constants to paste. Then, for each unseen set (without any: for the sets themselves), the share of right
clips by condition, the out-of-library clips and hard sounds named, and stated against observed confidence.
"""

from __future__ import annotations

import argparse
import csv
import os
import pickle
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from benchmarks import editions, hard_negatives
from pipeline.audio import decoding
from pipeline.fingerprinting.settings import Settings
from pipeline.matching import calibration
from pipeline.matching.calibration import (
    CLIP_TERMS,
    LOGIT_AT_FPR,
    SUPPORT_TERMS,
    VERSION_TERMS,
    Term,
    VerifiedCandidate,
    VersionComparison,
    confidence,
    length_penalty,
)
from pipeline.matching.clip import Clip
from pipeline.matching.search import COARSE, DENSE, RESOLVED_CONFIDENCE, compare, verify
from pipeline.matching.voting import find_candidates
from tests.fakes import MemoryLibrary

SAME_RECORDING_LOGIT = 5.0  # above it a clip is found in another song because that song holds the same recording
RIDGE = 1e-4
LEAST_COUNT = 3  # clips that must reach a logit, or their share is not used
NO_LIMIT = 1e9  # constant of `SUPPORT_TERMS` that allows any logit
MOST_UNSURE = 4.0  # logits further from 0 say nothing about the scale of the others
NO_CANDIDATE = -30.0  # logit of a search without a candidate
EXCERPTS_S = (0.3, 0.5, 0.7)  # clean, one of each song
LONGEST_HARD_S = 15.0  # longer ones are searched as recordings
SUPPORT_RIDGE, VERSION_RIDGE = 1e-3, 1e-3
# Real versions differ in more peaks than editions by formula do: with twice the fitted weight of the unshared peaks 43
# of 46 clips of the benchmark's own versions are right, with the fitted one 41.
REAL_VERSIONS = {"root unshared peaks": 2.0}
SUPPORT_RIGHT = 10.0  # right answers weigh so many times as much as hard sounds: the limit should spare them
LIBRARY: MemoryLibrary  # of each worker process

Searched = list[list[list[VerifiedCandidate]]]
"""The candidates of a clip with its own song, and without it if it has one; of the coarse search, and of the dense."""


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """A clip, and what is known of it.

    Parameters
    ----------
    source
        A file; or ``kind:seed`` of a hard sound.
    track
        The name of its song's file; empty if it is out of the library.
    start_s
        Where the clip begins in the file; None if it is all of it.
    """

    source: str
    track: str
    length_s: float
    condition: str
    start_s: float | None = None

    @property
    def hard(self) -> bool:
        """Whether it is hardly music."""
        return self.condition in hard_negatives.KINDS

    def samples(self, rate: int) -> NDArray[np.float32]:
        """``(n,)`` float32."""
        if self.hard:
            kind, seed = self.source.split(":")
            return hard_negatives.clip_of(kind, int(seed))
        stop_s = None if self.start_s is None else self.start_s + self.length_s
        samples = decoding.read(self.source, rate, stop_s=stop_s)[0]
        return samples if self.start_s is None else samples[-round(self.length_s * rate) :]


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Weights of `CLIP_TERMS` and of `SUPPORT_TERMS`, in their order."""

    clip: NDArray[np.float64]
    support: NDArray[np.float64]

    def scaled(self, factor: float, constant: float) -> Weights:
        """Weights that give all logits times a factor, and a constant more."""
        clip, support = factor * self.clip, factor * self.support
        clip[-1] += constant
        support[-1] += constant
        return Weights(clip, support)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The verified candidates of one clip at one search level.

    Parameters
    ----------
    terms, support
        ``(n_candidates, n_terms)`` float64, of `CLIP_TERMS` and of `SUPPORT_TERMS`.
    songs
        The song of each.
    right
        ``(n_candidates,)`` bool; all False for an out-of-library clip.
    """

    terms: NDArray[np.float64]
    support: NDArray[np.float64]
    songs: tuple[str, ...]
    right: NDArray[np.bool_]

    def best(self, weights: Weights) -> tuple[float, bool]:
        """The highest logit, and whether its song is right; `NO_CANDIDATE` if there is none."""
        if not len(self.right):
            return NO_CANDIDATE, False
        logits = np.minimum(self.terms @ weights.clip, self.support @ weights.support)
        place = int(np.argmax(logits))
        return float(logits[place]), bool(self.right[place])

    def where(self, keep: Sequence[bool]) -> Candidates:
        """Some of the candidates."""
        kept = np.array(keep, bool)
        return Candidates(
            self.terms[kept], self.support[kept], tuple(np.array(self.songs, object)[kept]), self.right[kept]
        )


@dataclass(frozen=True, slots=True, eq=False)
class SearchedClip:
    """A clip, with its song or out of the library, and its candidates in the coarse and the dense search."""

    clip: LabelledClip
    out_of_library: bool
    searches: tuple[Candidates, Candidates]

    def best(self, weights: Weights) -> tuple[float, bool]:
        """The best candidate of the cascade: of the coarse search if it resolves the clip, else of the dense one.

        Its logit is less the length penalty.
        """
        penalty = length_penalty(self.clip.length_s)
        coarse, dense = ((logit - penalty, right) for logit, right in (one.best(weights) for one in self.searches))
        return coarse if confidence(coarse[0]) >= RESOLVED_CONFIDENCE else dense


def read_clips(folder: str, hard_seeds: range) -> list[LabelledClip]:
    """The clips of a set, without those played at another speed; excerpts of its songs, and hard sounds."""
    with open(os.path.join(folder, "queries.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    clips = [
        LabelledClip(row["query_path"], os.path.basename(row["track_path"]), float(row["length_s"]), row["condition"])
        for row in rows
        if not row["condition"].startswith("speed")
    ]
    rng = np.random.default_rng(0)
    clips += [
        LabelledClip(path, os.path.basename(path), length_s, "excerpt", rng.uniform(5.0, 50.0))
        for path in read_library(folder)
        for length_s in EXCERPTS_S
    ]
    for kind in hard_negatives.KINDS:
        for seed in hard_seeds:
            length_s = len(hard_negatives.clip_of(kind, seed)) / hard_negatives.RATE
            if length_s <= LONGEST_HARD_S:
                clips.append(LabelledClip(f"{kind}:{seed}", "", length_s, kind))
    return clips


def read_library(folder: str) -> list[str]:
    """The paths of the songs of a set."""
    with open(os.path.join(folder, "library.csv"), newline="", encoding="utf-8") as file:
        return [row["path"] for row in csv.DictReader(file)]


def search_clip(task: tuple[LabelledClip, int | None]) -> Searched:
    """The candidates of a clip, whose song has this id."""
    labelled, song_id = task
    settings = LIBRARY.settings
    clip = Clip(labelled.samples(settings.sample_rate), settings)
    searched: Searched = [[] for _ in range(1 if song_id is None else 2)]
    for level in (COARSE, DENSE):  # the fine search between them has the same terms
        (found,) = find_candidates([clip.query_hashes(level)], LIBRARY, level.candidates)
        for candidates, hidden in zip(searched, (None, song_id), strict=False):
            some = [one for one in found if one.song_id != hidden]
            songs = LIBRARY.constellations({one.song_id for one in some})
            candidates.append(verify(clip, some, songs, level, LIBRARY.n_songs))
    return searched


def search_editions(task: tuple[int, str]) -> list[VersionComparison]:
    """What two editions of a song reach in clips of either, the one that plays first."""
    number, path = task
    rng = np.random.default_rng([number, 1])
    minute = editions.read_minute(path)
    if minute is None:
        return []
    pair = (minute, editions.edition(list(editions.EDITIONS)[number % len(editions.EDITIONS)], minute, rng))
    library = LIBRARY.with_samples(dict(zip(editions.PAIR, map(editions.at_fingerprint_rate, pair), strict=True)))
    compared = []
    for clips in editions.clips_of(pair, rng).values():
        for id_, samples in zip(editions.PAIR, clips, strict=True):
            clip = Clip(samples, library.settings)
            (found,) = find_candidates([clip.query_hashes(DENSE)], library, DENSE.candidates)
            songs = library.constellations({one.song_id for one in found})
            best: dict[int, VerifiedCandidate] = {}
            for one in sorted(verify(clip, found, songs, DENSE, library.n_songs), key=lambda one: -one.logit):
                best.setdefault(one.candidate.song_id, one)
            first, second = best.get(id_), best.get(sum(editions.PAIR) - id_)
            if first and second:
                compared.append(compare(first, second, clip, songs))
    return compared


@dataclass(frozen=True, slots=True)
class Effort:
    """What is searched beside the clips of a set: hard sounds of each kind, and editions; in how many processes."""

    hard_seeds: range
    editions: range
    processes: int


def gather(folder: str, effort: Effort, keep: str | None) -> tuple[list[SearchedClip], list[VersionComparison]]:
    """Search all clips of a set, or read the candidates of an earlier run from the folder `keep`."""
    clips, paths = read_clips(folder, effort.hard_seeds), read_library(folder)
    names = [os.path.basename(path) for path in paths]
    kept = os.path.join(keep, f"{os.path.basename(os.path.normpath(folder))}.pickle") if keep else None
    if kept and os.path.exists(kept):
        with open(kept, "rb") as file:
            found, compared = pickle.load(file)
    else:
        found, compared = search_all(clips, paths, effort)
        if kept:
            with open(kept, "wb") as file:
                pickle.dump((found, compared), file)

    def labelled(clip: LabelledClip, candidates: list[VerifiedCandidate]) -> Candidates:
        songs = tuple(names[one.candidate.song_id - 1] for one in candidates)
        right = np.array([song == clip.track for song in songs], bool)
        return Candidates(_rows(CLIP_TERMS, candidates), _rows(SUPPORT_TERMS, candidates), songs, right)

    searched = [
        SearchedClip(clip, bool(hidden) or not clip.track, (labelled(clip, coarse), labelled(clip, dense)))
        for clip, both in zip(clips, found, strict=True)
        for hidden, (coarse, dense) in enumerate(both)
    ]
    return searched, compared


def _rows(
    terms: Mapping[str, Term[calibration.Measured]], measured: Sequence[calibration.Measured]
) -> NDArray[np.float64]:
    rows = [[term.value(one) for term in terms.values()] for one in measured]
    return np.array(rows, float).reshape(len(rows), len(terms))


def search_all(
    clips: list[LabelledClip], paths: list[str], effort: Effort
) -> tuple[list[Searched], list[VersionComparison]]:
    """Index a set and search its clips, and clips of editions of its songs."""
    global LIBRARY
    with ProcessPoolExecutor(effort.processes) as pool:
        LIBRARY = MemoryLibrary.of(paths, Settings(), pool.map)
    ids = {os.path.basename(path): song_id for song_id, path in enumerate(paths, start=1)}
    with ProcessPoolExecutor(effort.processes, initializer=_set_library, initargs=(LIBRARY,)) as pool:
        tasks = [(clip, ids.get(clip.track)) for clip in clips]
        searched = list(pool.map(search_clip, tasks, chunksize=8))
        pairs = [(number, paths[number % len(paths)]) for number in effort.editions]
        return searched, [one for compared in pool.map(search_editions, pairs) for one in compared]


def _set_library(library: MemoryLibrary) -> None:
    global LIBRARY
    LIBRARY = library


def sharing_pairs(searched: list[SearchedClip], weights: Weights) -> set[frozenset[str]]:
    """Pairs of songs that share a recording: more than one clip of one is found in the other."""
    pairs: Counter[frozenset[str]] = Counter()
    for one in searched:
        if one.out_of_library and one.clip.track:
            found = {
                song
                for candidates in one.searches
                for song, logit in zip(candidates.songs, candidates.terms @ weights.clip, strict=True)
                if logit > SAME_RECORDING_LOGIT
            }
            pairs.update(frozenset((one.clip.track, song)) for song in found)
    return {pair for pair, count in pairs.items() if count > 1}


def without_pairs(searched: list[SearchedClip], shared: set[frozenset[str]]) -> list[SearchedClip]:
    """The same without candidates whose song shares a recording with the clip's own."""

    def kept(clip: LabelledClip, candidates: Candidates) -> Candidates:
        return candidates.where([frozenset((clip.track, song)) not in shared for song in candidates.songs])

    return [
        SearchedClip(one.clip, one.out_of_library, (kept(one.clip, one.searches[0]), kept(one.clip, one.searches[1])))
        for one in searched
    ]


def fit_clips(searched: Sequence[SearchedClip]) -> NDArray[np.float64]:
    """The weights of `CLIP_TERMS` that best separate right from wrong best candidates."""
    searches = [found for one in searched for found in one.searches if len(found.right)]
    weights = _logistic(
        np.concatenate([found.terms for found in searches]), np.concatenate([found.right for found in searches])
    )
    for _ in range(4):  # a search reports only its best candidate, so only the best are fitted
        best = [np.argmax(found.terms @ weights) for found in searches]
        weights = _logistic(
            np.array([found.terms[place] for found, place in zip(searches, best, strict=True)]),
            np.array([found.right[place] for found, place in zip(searches, best, strict=True)]),
        )
    return weights


def fit_support(
    searched: Sequence[SearchedClip], clip_weights: NDArray[np.float64], needed: float
) -> NDArray[np.float64]:
    """The weights of `SUPPORT_TERMS` that best separate hard sounds from right answers, both with a logit `needed`."""
    rows, right = [], []
    for one in searched:
        for found in one.searches:
            if not len(found.right) or (one.out_of_library and not one.clip.hard):
                continue
            logits = found.terms @ clip_weights
            place = int(np.argmax(logits))
            if logits[place] > needed and (one.clip.hard or found.right[place]):
                rows.append(found.support[place])
                right.append(found.right[place])
    is_right = np.array(right, bool)
    weights = np.where(is_right, SUPPORT_RIGHT / is_right.sum(), 1 / max((~is_right).sum(), 1))
    return _logistic(np.array(rows), is_right, weights / weights.mean(), ridge=SUPPORT_RIDGE)


def fit_scale(searched: Sequence[SearchedClip], weights: Weights) -> tuple[float, float]:
    """The factor and the constant with which the logits of the best candidates say how often they are right."""
    some = [one for one in searched if not one.clip.hard]
    best = [one.searches[1].best(weights) for one in some]
    logits, right = np.array([logit for logit, _ in best]), np.array([right for _, right in best])
    unsure = np.abs(logits) < MOST_UNSURE
    penalties = np.array([length_penalty(one.clip.length_s) for one in some])[unsure]
    rows = np.column_stack([logits[unsure], np.ones(unsure.sum())])
    factor, constant = _logistic(rows, right[unsure], offset=-penalties)
    return float(factor), float(constant)


def fit_versions(compared: Sequence[VersionComparison]) -> NDArray[np.float64]:
    """The weights of `VERSION_TERMS`, without a constant: each pair once as it is, and once with the other first."""
    rows = _rows(VERSION_TERMS, compared)
    scale = rows.std(axis=0)
    both = np.concatenate([rows, -rows]) / scale
    constant = np.concatenate([both, np.zeros((len(both), 1))], axis=1)
    return _logistic(constant, np.arange(len(both)) < len(rows), ridge=VERSION_RIDGE)[:-1] / scale


def _logistic(
    rows: NDArray[np.float64],
    right: NDArray[np.bool_],
    weights: NDArray[np.float64] | float = 1.0,
    ridge: float = RIDGE,
    offset: NDArray[np.float64] | float = 0.0,
) -> NDArray[np.float64]:
    """Logistic regression; the last column is the constant, which the ridge does not shrink.

    Parameters
    ----------
    offset
        Added to the logits, with no weight of its own.
    """
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    mean[-1], deviation[-1] = 0.0, 1.0
    scaled = (rows - mean) / np.maximum(deviation, 1e-9)

    def cost(fitted: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logit = scaled @ fitted + offset
        error = weights * (1 / (1 + np.exp(-logit)) - right)
        shrunk = ridge * np.append(fitted[:-1], 0.0)
        loss = np.mean(weights * (np.logaddexp(0, logit) - right * logit)) + shrunk @ fitted / 2
        return float(loss), scaled.T @ error / len(right) + shrunk

    found: NDArray[np.float64] = minimize(cost, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B").x
    found /= np.maximum(deviation, 1e-9)
    found[-1] -= found[:-1] @ mean[:-1]
    return found


def logits_at_shares(searched: Sequence[SearchedClip], weights: Weights) -> dict[float, float]:
    """The logit that each share of out-of-library clips reaches, rising.

    Clips whose song was never in the library are few, but include all that share something with the library. Clips
    whose song is hidden are many, and show the tail; so are hard sounds. The highest logit of the three groups counts;
    of the first only if `LEAST_COUNT` of them reach it.
    """
    groups: dict[str, list[float]] = {"hidden": [], "never": [], "hard": []}
    for one in searched:
        if one.out_of_library:
            group = "hard" if one.clip.hard else "hidden" if one.clip.track else "never"
            groups[group].append(one.best(weights)[0])
    logits = {}
    for share in sorted(LOGIT_AT_FPR)[::-1]:
        enough = [logits for name, logits in groups.items() if share * len(logits) >= LEAST_COUNT * (name == "never")]
        logits[share] = round(max(_upper_quantile(group, share) for group in enough if group), 2)
    return logits


def _upper_quantile(logits: list[float], share: float) -> float:
    return float(np.quantile(logits, 1 - share, method="higher"))


def report(searched: Sequence[SearchedClip], weights: Weights, needed: float) -> str:
    """Clips named rightly, out-of-library clips named, and stated against observed confidence."""
    best = [one.best(weights) for one in searched]
    cells: dict[tuple[str, float], list[bool]] = defaultdict(list)
    named: dict[str, list[bool]] = defaultdict(list)
    for one, (logit, right) in zip(searched, best, strict=True):
        is_named = logit > needed
        if not one.out_of_library:
            cells[one.clip.condition, one.clip.length_s].append(right and is_named)
        elif one.clip.hard:
            named[one.clip.condition].append(is_named)
        else:
            named["whose song is hidden" if one.clip.track else "whose song was never in the library"].append(is_named)
    lines = [
        f"{condition:10} {s:4g} s {100 * np.mean(cells[condition, s]):6.1f} % right" for condition, s in sorted(cells)
    ]
    lines.append(f"mean of the conditions {np.mean([100 * np.mean(cell) for cell in cells.values()]):.2f} % right")
    counts = (f"{sum(group)} of {len(group)} {name}" for name, group in sorted(named.items()))
    lines.append("out-of-library clips named: " + ", ".join(counts))
    stated, observed = confidences([found for one, found in zip(searched, best, strict=True) if not one.clip.hard])
    lines += ["", "stated  observed  clips"]
    for low in np.arange(10) / 10:
        inside = (stated >= low) & (stated < low + 0.1)
        if inside.any():
            lines.append(f"{stated[inside].mean():.3f}   {observed[inside].mean():.3f}     {inside.sum()}")
    return "\n".join(lines)


def report_versions(compared: Sequence[VersionComparison], weights: NDArray[np.float64]) -> str:
    """How often the edition that plays comes first."""
    if not compared:
        return "no editions"
    first = _rows(VERSION_TERMS, compared) @ weights > 0
    return f"editions: the one that plays comes first in {100 * first.mean():.1f} % of {len(first)}"


def confidences(best: Sequence[tuple[float, bool]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The confidence of each best candidate, and whether its song is right."""
    return np.array([confidence(logit) for logit, _ in best]), np.array([right for _, right in best])


def _nth_range(n: int, length: int) -> range:
    return range(n * length, (n + 1) * length)


def _printed(name: str, terms: Mapping[str, object], weights: NDArray[np.float64]) -> str:
    return f"{name}: {dict(zip(terms, (round(float(weight), 3) for weight in weights), strict=True))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="SET")
    parser.add_argument("--unseen", nargs="*", default=[], metavar="SET", help="sets to evaluate the fit on")
    parser.add_argument("--hard", type=int, default=100, metavar="N", help="hard sounds of each kind, beside each set")
    parser.add_argument("--editions", type=int, default=40, metavar="N", help="songs of each set to make editions of")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", metavar="FOLDER", help="save the candidates of each set here, and use them again")
    chosen = parser.parse_args()
    folders = list(dict.fromkeys([*chosen.sets, *chosen.unseen]))
    efforts = {  # each set has sounds and editions of its own
        folder: Effort(_nth_range(n, chosen.hard), _nth_range(n, chosen.editions), chosen.processes)
        for n, folder in enumerate(folders)
    }
    gathered = [gather(folder, efforts[folder], chosen.keep) for folder in chosen.sets]
    fitted = [one for searched, _ in gathered for one in searched]
    compared = [one for _, versions in gathered for one in versions]
    shared: set[frozenset[str]] = set()
    unlimited = np.array([0.0] * (len(SUPPORT_TERMS) - 1) + [NO_LIMIT])
    for _ in range(3):  # with more pairs left out, the fit finds the others more clearly
        weights = Weights(fit_clips(without_pairs(fitted, shared)), unlimited)
        shared = sharing_pairs(fitted, weights)
    kept = without_pairs(fitted, shared)
    needed = logits_at_shares(kept, weights)[0.01]
    unscaled = Weights(weights.clip, fit_support(kept, weights.clip, needed))
    scale = fit_scale(kept, unscaled)
    weights = unscaled.scaled(*scale)
    logits = logits_at_shares(kept, weights)
    version_weights = fit_versions(compared) * [REAL_VERSIONS.get(name, 1.0) for name in VERSION_TERMS]
    print(f"logits times {scale[0]:.2f}, and {scale[1]:.2f} more")
    print(_printed("CLIP_TERMS", CLIP_TERMS, weights.clip))
    print(_printed("SUPPORT_TERMS", SUPPORT_TERMS, weights.support))
    print(_printed("VERSION_TERMS", VERSION_TERMS, version_weights))
    print("LOGIT_AT_FPR =", logits)
    for folder in chosen.unseen or chosen.sets:
        searched, compared = gather(folder, efforts[folder], chosen.keep)
        shared = sharing_pairs(searched, unscaled)  # `SAME_RECORDING_LOGIT` is of that scale
        print(f"\n{folder}:")
        print("share a recording:", "; ".join(" and ".join(sorted(pair)) for pair in shared) or "none")
        print(report(without_pairs(searched, shared), weights, logits[0.01]))
        print(report_versions(compared, version_weights), flush=True)


if __name__ == "__main__":
    main()
