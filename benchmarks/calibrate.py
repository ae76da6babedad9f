"""Fit the confidence again: the weights and thresholds of `pipeline.calibration`, from real clips whose truth is known.

    python -m benchmarks.calibrate SET [SET ...] [--unseen SET ...]     (or: make calibrate SETS="..." UNSEEN="...")

A SET is a folder with `library.csv` (path), `queries.csv` (query_path, track_path, start_s, length_s, condition) and
the files that they name; an empty track_path means that the clip is of no song in the library. Every other clip is
asked twice: as it is, and as a stranger, its own song hidden from the library. Songs that share a recording (more than
one clip of one is surely found in the other) are neither right nor wrong, and left out; a set should withhold no song
that its library holds under another name.

The weights are fitted to the best answer of each look, sparse or dense; how far strangers reach is counted over what
the cascade of both answers. Printed are the constants to paste, then for each unseen set (without any: for the sets
themselves) what they give: the share of right answers by kind of clip, of strangers, and stated against observed
confidence.
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
from pipeline.evaluation.experiment import Without
from pipeline.fingerprinting.settings import Settings
from pipeline.matching.calibration import CLIP_TERMS, LOGIT_AT_FPR, VerifiedCandidate, confidence, length_penalty
from pipeline.matching.clip import Clip
from pipeline.matching.search import COARSE, FINE, RESOLVED_CONFIDENCE, search
from pipeline.matching.types import Library
from tests.fakes import MemoryLibrary

SURELY = 5.0  # the logit at which clips of one song are in another one because it holds the same recording
RIDGE = 1e-4
ENOUGH = 3  # strangers that reach a logit, for their share to be believed
NOTHING = 30.0  # minus the logit of no answer
SHELF: MemoryLibrary


@dataclass(frozen=True, slots=True)
class Question:
    """One row of queries.csv."""

    path: str
    track: str
    length_s: float
    condition: str


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What a clip was answered at one effort.

    Parameters
    ----------
    terms
        ``(n_answers, n_terms)`` float64.
    songs
        The song of each.
    right
        ``(n_answers,)`` bool; none for a stranger.
    """

    terms: NDArray[np.float64]
    songs: tuple[str, ...]
    right: NDArray[np.bool_]

    def best(self, weights: NDArray[np.float64]) -> tuple[float, bool]:
        """The highest logit, and whether it is right; one that nobody believes without an answer."""
        if not len(self.right):
            return -NOTHING, False
        logits = self.terms @ weights
        place = int(np.argmax(logits))
        return float(logits[place]), bool(self.right[place])

    def of(self, keep: Sequence[bool]) -> Look:
        """Some of the answers."""
        kept = np.array(keep, bool)
        return Look(self.terms[kept], tuple(np.array(self.songs, object)[kept]), self.right[kept])


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A clip, as it is or as a stranger, and its looks, sparse and dense."""

    query: Question
    stranger: bool
    looks: tuple[Look, Look]

    def best(self, weights: NDArray[np.float64]) -> tuple[float, bool]:
        """What the cascade answers."""
        sparse, dense = (look.best(weights) for look in self.looks)
        return sparse if confidence(sparse[0]) >= RESOLVED_CONFIDENCE else dense


def read(folder: str) -> list[Question]:
    """The clips of a set; those played at another speed are for another test."""
    with open(os.path.join(folder, "queries.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        Question(row["query_path"], os.path.basename(row["track_path"]), float(row["length_s"]), row["condition"])
        for row in rows
        if not row["condition"].startswith("speed")
    ]


def library(folder: str) -> list[str]:
    """The songs of a set."""
    with open(os.path.join(folder, "library.csv"), newline="", encoding="utf-8") as file:
        return [row["path"] for row in csv.DictReader(file)]


def answer(task: tuple[str, int | None]) -> list[list[list[VerifiedCandidate]]]:
    """A clip's answers at each effort of the cascade: as it is, and without its own song."""
    path, song_id = task
    clip = Clip(decoding.read(path, SHELF.settings.sample_rate)[0], SHELF.settings)
    libraries: list[Library] = [SHELF] if song_id is None else [SHELF, Without(SHELF, song_id)]
    return [[search([clip], library, effort)[0] for effort in (COARSE, FINE)] for library in libraries]


def gather(folder: str, processes: int, keep: str | None) -> list[Asked]:
    """Ask all clips of a set, or read what they were answered when it was kept."""
    queries, paths = read(folder), library(folder)
    names = [os.path.basename(path) for path in paths]
    kept = os.path.join(keep, f"{os.path.basename(os.path.normpath(folder))}.pickle") if keep else None
    if kept and os.path.exists(kept):
        with open(kept, "rb") as file:
            answers = pickle.load(file)
    else:
        answers = ask_all(queries, paths, processes)
        if kept:
            with open(kept, "wb") as file:
                pickle.dump(answers, file)

    def look(query: Question, found: list[VerifiedCandidate]) -> Look:
        rows = [[term.value(one) for term in CLIP_TERMS.values()] for one in found]
        songs = tuple(names[one.candidate.song_id - 1] for one in found)
        right = np.array([song == query.track for song in songs], bool)
        return Look(np.array(rows).reshape(len(rows), len(CLIP_TERMS)), songs, right)

    return [
        Asked(query, bool(hidden) or not query.track, (look(query, sparse), look(query, dense)))
        for query, both in zip(queries, answers, strict=True)
        for hidden, (sparse, dense) in enumerate(both)
    ]


def ask_all(queries: list[Question], paths: list[str], processes: int) -> list[list[list[list[VerifiedCandidate]]]]:
    """Index a set and ask its clips: as `answer` gives it, for each."""
    global SHELF
    with ProcessPoolExecutor(processes) as pool:
        SHELF = MemoryLibrary.of(paths, Settings(), pool.map)
    ids = {os.path.basename(path): song_id for song_id, path in enumerate(paths, start=1)}
    with ProcessPoolExecutor(processes, initializer=_lend, initargs=(SHELF,)) as pool:
        tasks = [(query.path, ids.get(query.track)) for query in queries]
        return list(pool.map(answer, tasks, chunksize=8))


def _lend(shelf: MemoryLibrary) -> None:
    global SHELF
    SHELF = shelf


def sharing(asked: list[Asked], weights: NDArray[np.float64]) -> set[frozenset[str]]:
    """Pairs of songs that share a recording: of one, more than one clip is surely found in the other."""
    pairs: Counter[frozenset[str]] = Counter()
    for one in asked:
        if one.stranger and one.query.track:
            found = {
                song
                for look in one.looks
                for song, logit in zip(look.songs, look.terms @ weights, strict=True)
                if logit > SURELY
            }
            pairs.update(frozenset((one.query.track, song)) for song in found)
    return {pair for pair, count in pairs.items() if count > 1}


def apart(asked: list[Asked], shared: set[frozenset[str]]) -> list[Asked]:
    """The same without the answers that name a song which shares a recording with the clip's own."""

    def fair(query: Question, look: Look) -> Look:
        return look.of([frozenset((query.track, song)) not in shared for song in look.songs])

    return [
        Asked(one.query, one.stranger, (fair(one.query, one.looks[0]), fair(one.query, one.looks[1]))) for one in asked
    ]


def fit(asked: list[Asked]) -> NDArray[np.float64]:
    """The weights with which the best answer's logit tells right from wrong."""
    looks = [look for one in asked for look in one.looks if len(look.right)]
    weights = _logistic(np.concatenate([look.terms for look in looks]), np.concatenate([look.right for look in looks]))
    for _ in range(4):  # of the answers of a look only the best is given, so only the best are fitted
        best = [np.argmax(look.terms @ weights) for look in looks]
        weights = _logistic(
            np.array([look.terms[place] for look, place in zip(looks, best, strict=True)]),
            np.array([look.right[place] for look, place in zip(looks, best, strict=True)]),
        )
    return weights


def _logistic(rows: NDArray[np.float64], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    mean[-1], spread[-1] = 0.0, 1.0  # the constant
    scaled = (rows - mean) / spread

    def cost(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logit = scaled @ weights
        error = 1 / (1 + np.exp(-logit)) - right
        ridge = RIDGE * np.append(weights[:-1], 0.0)
        loss = np.mean(np.logaddexp(0, logit) - right * logit) + ridge @ weights / 2
        return float(loss), scaled.T @ error / len(right) + ridge

    found: NDArray[np.float64] = minimize(cost, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B").x / spread
    found[-1] -= found[:-1] @ mean[:-1]
    return found


def strangers_reach(asked: list[Asked], weights: NDArray[np.float64]) -> dict[float, float]:
    """The logit that each share of strangers reaches, rising.

    Clips whose song was never there are few, but nobody has left out those that share something with the library. Those
    whose song is hidden are many, and tell more of the tail. Whichever reach further count, the first if `ENOUGH`.
    """
    hidden, never = (
        [one.best(weights)[0] for one in asked if one.stranger and (one.query.track == "") == never]
        for never in (False, True)
    )
    reach = {}
    for share in sorted(LOGIT_AT_FPR)[::-1]:
        groups = (hidden, never if share * len(never) >= ENOUGH else [])
        reach[share] = round(max(_reach(group, share) for group in groups if group), 2)
    return reach


def _reach(logits: list[float], share: float) -> float:
    return float(np.quantile(logits, 1 - share, method="higher"))


def report(asked: list[Asked], weights: NDArray[np.float64], needed: float) -> str:
    """What the constants give: clips named right and strangers named, and stated against observed confidence."""
    answers = [one.best(weights) for one in asked]
    cells: dict[tuple[str, float], list[bool]] = defaultdict(list)
    named: dict[bool, list[bool]] = defaultdict(list)
    for one, (logit, right) in zip(asked, answers, strict=True):
        needs = needed + length_penalty(one.query.length_s)
        if one.stranger:
            named[one.query.track == ""].append(logit > needs)
        else:
            cells[one.query.condition, one.query.length_s].append(right and logit > needs)
    lines = [f"{kind:10} {s:4g} s {100 * np.mean(cells[kind, s]):6.1f} % right" for kind, s in sorted(cells)]
    lines.append(f"mean of the kinds {np.mean([100 * np.mean(cell) for cell in cells.values()]):.2f} % right")
    lines.append(f"strangers named: {sum(named[False])} of {len(named[False])} whose song is hidden,")
    lines.append(f"{sum(named[True])} of {len(named[True])} whose song was never there")
    stated, observed = confidences(answers)
    lines += ["", "stated  observed  answers"]
    for low in np.arange(10) / 10:
        inside = (stated >= low) & (stated < low + 0.1)
        if inside.any():
            lines.append(f"{stated[inside].mean():.3f}   {observed[inside].mean():.3f}     {inside.sum()}")
    return "\n".join(lines)


def confidences(answers: list[tuple[float, bool]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of each best answer, how sure it is and whether it is right."""
    return np.array([confidence(logit) for logit, _ in answers]), np.array([right for _, right in answers])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="SET")
    parser.add_argument("--unseen", nargs="*", default=[], metavar="SET", help="sets to judge the fit by")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", metavar="FOLDER", help="what the sets were answered is kept here, and used again")
    chosen = parser.parse_args()
    fitted = [one for folder in chosen.sets for one in gather(folder, chosen.processes, chosen.keep)]
    shared: set[frozenset[str]] = set()
    for _ in range(3):  # the more of them are left out, the clearer the others
        weights = fit(apart(fitted, shared))
        shared = sharing(fitted, weights)
    reach = strangers_reach(apart(fitted, shared), weights)
    print("CLIP_TERMS:", dict(zip(CLIP_TERMS, (round(float(weight), 3) for weight in weights), strict=True)))
    print("LOGIT_AT_FPR =", reach)
    for folder in chosen.unseen or chosen.sets:
        asked = gather(folder, chosen.processes, chosen.keep)
        shared = sharing(asked, weights)
        print(f"\n{folder}:")
        print("share a recording:", "; ".join(" and ".join(sorted(pair)) for pair in shared) or "none")
        print(report(apart(asked, shared), weights, reach[0.01]), flush=True)


if __name__ == "__main__":
    main()
