"""Fit the weights and thresholds of `pipeline.matching.calibration` again, from real clips whose song is known.

    python -m benchmarks.calibrate SET [SET ...] [--unseen SET ...]     (or: make calibrate SETS="..." UNSEEN="...")

A SET is a folder with `library.csv` (path), `queries.csv` (query_path, track_path, start_s, length_s, condition) and
the files that they name. An empty track_path means an out-of-library clip. Every other clip is searched twice: with its
own song, and with that song hidden, as an out-of-library clip. Songs that share a recording (more than one clip of one
is found in the other with high confidence) count neither as right nor as wrong, and are left out. A set should withhold
no song that its library holds under another name.

The weights are fitted to the best candidate of each search, coarse or fine. The thresholds are the logits that each
share of out-of-library clips reaches in the cascade of both searches. Printed are the constants to paste. Then, for
each unseen set (without any: for the sets themselves), the share of right clips by condition, the out-of-library clips
named, and stated against observed confidence.
"""

from __future__ import annotations

import argparse
import csv
import os
import pickle
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from pipeline.audio import decoding
from pipeline.evaluation.experiment import LibraryWithoutSong
from pipeline.fingerprinting.settings import Settings
from pipeline.matching import calibration
from pipeline.matching.calibration import (
    CLIP_TERMS,
    LOGIT_AT_FPR,
    SUPPORT_TERMS,
    VerifiedCandidate,
    confidence,
    length_penalty,
)
from pipeline.matching.clip import Clip
from pipeline.matching.search import COARSE, FINE, RESOLVED_CONFIDENCE, search
from pipeline.matching.types import Library
from tests.fakes import MemoryLibrary

SAME_RECORDING_LOGIT = 5.0  # above it a clip is found in another song because that song holds the same recording
RIDGE = 1e-4
LEAST_COUNT = 3  # clips that must reach a logit, or their share is not used
NO_CANDIDATE = -30.0  # logit of a search without a candidate
LIBRARY: MemoryLibrary  # of each worker process


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """One row of queries.csv."""

    path: str
    track: str
    length_s: float
    condition: str


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The verified candidates of one clip at one search level.

    Parameters
    ----------
    terms
        ``(n_candidates, n_terms)`` float64.
    limit
        ``(n_candidates,)`` float64: the log odds that `SUPPORT_TERMS` allow, which are not fitted here.
    songs
        The song of each.
    right
        ``(n_candidates,)`` bool; all False for an out-of-library clip.
    """

    terms: NDArray[np.float64]
    limit: NDArray[np.float64]
    songs: tuple[str, ...]
    right: NDArray[np.bool_]

    def best(self, weights: NDArray[np.float64]) -> tuple[float, bool]:
        """The highest logit, and whether its song is right; `NO_CANDIDATE` if there is none."""
        if not len(self.right):
            return NO_CANDIDATE, False
        logits = np.minimum(self.terms @ weights, self.limit)
        place = int(np.argmax(logits))
        return float(logits[place]), bool(self.right[place])

    def where(self, keep: Sequence[bool]) -> Candidates:
        """Some of the candidates."""
        kept = np.array(keep, bool)
        return Candidates(
            self.terms[kept], self.limit[kept], tuple(np.array(self.songs, object)[kept]), self.right[kept]
        )


@dataclass(frozen=True, slots=True, eq=False)
class SearchedClip:
    """A clip, with its song or out of the library, and its candidates in the coarse and the fine search."""

    clip: LabelledClip
    out_of_library: bool
    searches: tuple[Candidates, Candidates]

    def best(self, weights: NDArray[np.float64]) -> tuple[float, bool]:
        """The best candidate of the cascade: of the coarse search if it resolves the clip, else of the fine one."""
        coarse, fine = (found.best(weights) for found in self.searches)
        return coarse if confidence(coarse[0]) >= RESOLVED_CONFIDENCE else fine


def read_clips(folder: str) -> list[LabelledClip]:
    """The clips of a set, without those played at another speed."""
    with open(os.path.join(folder, "queries.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        LabelledClip(row["query_path"], os.path.basename(row["track_path"]), float(row["length_s"]), row["condition"])
        for row in rows
        if not row["condition"].startswith("speed")
    ]


def read_library(folder: str) -> list[str]:
    """The paths of the songs of a set."""
    with open(os.path.join(folder, "library.csv"), newline="", encoding="utf-8") as file:
        return [row["path"] for row in csv.DictReader(file)]


def search_clip(task: tuple[str, int | None]) -> list[list[list[VerifiedCandidate]]]:
    """The candidates of a clip at each search level: with its own song, and without it."""
    path, song_id = task
    clip = Clip(decoding.read(path, LIBRARY.settings.sample_rate)[0], LIBRARY.settings)
    libraries: list[Library] = [LIBRARY] if song_id is None else [LIBRARY, LibraryWithoutSong(LIBRARY, song_id)]
    return [[search([clip], library, level)[0] for level in (COARSE, FINE)] for library in libraries]


def gather(folder: str, processes: int, keep: str | None) -> list[SearchedClip]:
    """Search all clips of a set, or read the candidates of an earlier run from the folder `keep`."""
    clips, paths = read_clips(folder), read_library(folder)
    names = [os.path.basename(path) for path in paths]
    kept = os.path.join(keep, f"{os.path.basename(os.path.normpath(folder))}.pickle") if keep else None
    if kept and os.path.exists(kept):
        with open(kept, "rb") as file:
            found = pickle.load(file)
    else:
        found = search_all(clips, paths, processes)
        if kept:
            with open(kept, "wb") as file:
                pickle.dump(found, file)

    def labelled(clip: LabelledClip, candidates: list[VerifiedCandidate]) -> Candidates:
        rows = [[term.value(one) for term in CLIP_TERMS.values()] for one in candidates]
        songs = tuple(names[one.candidate.song_id - 1] for one in candidates)
        right = np.array([song == clip.track for song in songs], bool)
        limit = np.array([calibration.logit(SUPPORT_TERMS, one) for one in candidates])
        return Candidates(np.array(rows).reshape(len(rows), len(CLIP_TERMS)), limit, songs, right)

    return [
        SearchedClip(clip, bool(hidden) or not clip.track, (labelled(clip, coarse), labelled(clip, fine)))
        for clip, both in zip(clips, found, strict=True)
        for hidden, (coarse, fine) in enumerate(both)
    ]


def search_all(
    clips: list[LabelledClip], paths: list[str], processes: int
) -> list[list[list[list[VerifiedCandidate]]]]:
    """Index a set and search its clips: the result of `search_clip` for each."""
    global LIBRARY
    with ProcessPoolExecutor(processes) as pool:
        LIBRARY = MemoryLibrary.of(paths, Settings(), pool.map)
    ids = {os.path.basename(path): song_id for song_id, path in enumerate(paths, start=1)}
    with ProcessPoolExecutor(processes, initializer=_set_library, initargs=(LIBRARY,)) as pool:
        tasks = [(clip.path, ids.get(clip.track)) for clip in clips]
        return list(pool.map(search_clip, tasks, chunksize=8))


def _set_library(library: MemoryLibrary) -> None:
    global LIBRARY
    LIBRARY = library


def sharing_pairs(searched: list[SearchedClip], weights: NDArray[np.float64]) -> set[frozenset[str]]:
    """Pairs of songs that share a recording: more than one clip of one is found in the other."""
    pairs: Counter[frozenset[str]] = Counter()
    for one in searched:
        if one.out_of_library and one.clip.track:
            found = {
                song
                for candidates in one.searches
                for song, logit in zip(candidates.songs, candidates.terms @ weights, strict=True)
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


def fit(searched: list[SearchedClip]) -> NDArray[np.float64]:
    """The weights that best separate right from wrong best candidates."""
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


def _logistic(rows: NDArray[np.float64], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    mean[-1], deviation[-1] = 0.0, 1.0  # the constant
    scaled = (rows - mean) / deviation

    def cost(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logit = scaled @ weights
        error = 1 / (1 + np.exp(-logit)) - right
        ridge = RIDGE * np.append(weights[:-1], 0.0)
        loss = np.mean(np.logaddexp(0, logit) - right * logit) + ridge @ weights / 2
        return float(loss), scaled.T @ error / len(right) + ridge

    found: NDArray[np.float64] = minimize(cost, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B").x / deviation
    found[-1] -= found[:-1] @ mean[:-1]
    return found


def logits_at_shares(searched: list[SearchedClip], weights: NDArray[np.float64]) -> dict[float, float]:
    """The logit that each share of out-of-library clips reaches, rising.

    Clips whose song was never in the library are few, but include all that share something with the library. Clips
    whose song is hidden are many, and show the tail. The higher logit of both counts; of the first only if
    `LEAST_COUNT` of them reach it.
    """
    hidden, never = (
        [one.best(weights)[0] for one in searched if one.out_of_library and (one.clip.track == "") == never]
        for never in (False, True)
    )
    logits = {}
    for share in sorted(LOGIT_AT_FPR)[::-1]:
        groups = (hidden, never if share * len(never) >= LEAST_COUNT else [])
        logits[share] = round(max(_upper_quantile(group, share) for group in groups if group), 2)
    return logits


def _upper_quantile(logits: list[float], share: float) -> float:
    return float(np.quantile(logits, 1 - share, method="higher"))


def report(searched: list[SearchedClip], weights: NDArray[np.float64], needed: float) -> str:
    """Clips named rightly, out-of-library clips named, and stated against observed confidence."""
    best = [one.best(weights) for one in searched]
    cells: dict[tuple[str, float], list[bool]] = defaultdict(list)
    named: dict[bool, list[bool]] = defaultdict(list)
    for one, (logit, right) in zip(searched, best, strict=True):
        needs = needed + length_penalty(one.clip.length_s)
        if one.out_of_library:
            named[one.clip.track == ""].append(logit > needs)
        else:
            cells[one.clip.condition, one.clip.length_s].append(right and logit > needs)
    lines = [
        f"{condition:10} {s:4g} s {100 * np.mean(cells[condition, s]):6.1f} % right" for condition, s in sorted(cells)
    ]
    lines.append(f"mean of the conditions {np.mean([100 * np.mean(cell) for cell in cells.values()]):.2f} % right")
    lines.append(f"out-of-library clips named: {sum(named[False])} of {len(named[False])} whose song is hidden,")
    lines.append(f"{sum(named[True])} of {len(named[True])} whose song was never in the library")
    stated, observed = confidences(best)
    lines += ["", "stated  observed  clips"]
    for low in np.arange(10) / 10:
        inside = (stated >= low) & (stated < low + 0.1)
        if inside.any():
            lines.append(f"{stated[inside].mean():.3f}   {observed[inside].mean():.3f}     {inside.sum()}")
    return "\n".join(lines)


def confidences(best: list[tuple[float, bool]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The confidence of each best candidate, and whether its song is right."""
    return np.array([confidence(logit) for logit, _ in best]), np.array([right for _, right in best])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="SET")
    parser.add_argument("--unseen", nargs="*", default=[], metavar="SET", help="sets to evaluate the fit on")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", metavar="FOLDER", help="save the candidates of each set here, and use them again")
    chosen = parser.parse_args()
    fitted = [one for folder in chosen.sets for one in gather(folder, chosen.processes, chosen.keep)]
    shared: set[frozenset[str]] = set()
    for _ in range(3):  # with more pairs left out, the fit finds the others more clearly
        weights = fit(without_pairs(fitted, shared))
        shared = sharing_pairs(fitted, weights)
    logits = logits_at_shares(without_pairs(fitted, shared), weights)
    print("CLIP_TERMS:", dict(zip(CLIP_TERMS, (round(float(weight), 3) for weight in weights), strict=True)))
    print("LOGIT_AT_FPR =", logits)
    for folder in chosen.unseen or chosen.sets:
        searched = gather(folder, chosen.processes, chosen.keep)
        shared = sharing_pairs(searched, weights)
        print(f"\n{folder}:")
        print("share a recording:", "; ".join(" and ".join(sorted(pair)) for pair in shared) or "none")
        print(report(without_pairs(searched, shared), weights, logits[0.01]), flush=True)


if __name__ == "__main__":
    main()
