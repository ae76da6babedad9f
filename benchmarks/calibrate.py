"""Fit the confidence again: the weights and thresholds of `pipeline.calibration`, from real clips whose truth is known.

    python -m benchmarks.calibrate SET [SET ...] [--unseen SET ...]     (or: make calibrate SETS="..." UNSEEN="...")

A SET is a folder with `library.csv` (path), `queries.csv` (query_path, track_path, start_s, length_s, condition) and
the files that they name; an empty track_path means that the clip is of no song in the library. Every other clip is used
twice: as it is, and as a stranger, its own song taken out of the answers. Songs that share recordings (a clean clip of
one gets many votes in the other) are neither right nor wrong, and left out.

Printed are the constants to paste, then for the unseen sets (without any: for the sets themselves) the share of
right answers by kind of clip at 1 % strangers, and stated against observed confidence.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from benchmarks.shelf import Shelf
from pipeline import audio
from pipeline.calibration import STRANGERS, terms
from pipeline.config import Settings
from pipeline.recognise import DENSE, SPARSE, Answer, Clip, ask

SAME_RECORDING = 0.15  # of the votes of its own song, that a clean clip gets in another one which shares the recording
RIDGE = 1e-4
SHELF: Shelf


@dataclass(frozen=True, slots=True)
class Question:
    """One row of queries.csv."""

    path: str
    track: str
    length_s: float
    condition: str


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A clip and its answers, as it is or as a stranger.

    Parameters
    ----------
    terms
        ``(n_answers, n_terms)`` float64.
    right
        ``(n_answers,)`` bool; none for a stranger.
    """

    question: Question
    stranger: bool
    terms: NDArray[np.float64]
    right: NDArray[np.bool_]


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


def answer(path: str) -> list[list[Answer]]:
    """One clip's answers, at each effort of the cascade."""
    clip = Clip(audio.read(path, SHELF.settings.sample_rate)[0], SHELF.settings)
    return [ask([clip], SHELF, effort)[0] for effort in (SPARSE, DENSE)]


def gather(folder: str, processes: int) -> list[Asked]:
    """Ask all clips of a set."""
    global SHELF
    paths = library(folder)
    questions = read(folder)
    with ProcessPoolExecutor(processes) as pool:
        SHELF = Shelf.of(paths, Settings(), pool.map)
    with ProcessPoolExecutor(processes, initializer=_lend, initargs=(SHELF,)) as pool:
        answers = list(pool.map(answer, [question.path for question in questions], chunksize=8))
    names = {song_id: os.path.basename(path) for song_id, path in enumerate(paths, start=1)}
    shared = _same_recordings(questions, answers, names)
    asked = []
    for question, efforts in zip(questions, answers, strict=True):
        for found in efforts:
            fair = [one for one in found if frozenset((question.track, names[one.candidate.song_id])) not in shared]
            own = [names[one.candidate.song_id] == question.track for one in fair]
            if fair and question.track:
                asked.append(_asked(question, fair, own))
            if not all(own):
                rest = [one for one, its in zip(fair, own, strict=True) if not its]
                asked.append(_asked(question, rest, None))
    return asked


def _lend(shelf: Shelf) -> None:
    global SHELF
    SHELF = shelf


def _asked(question: Question, answers: list[Answer], own: list[bool] | None) -> Asked:
    rows = [terms(one.candidate.votes, one.rivals, one.evidence) for one in answers]
    return Asked(question, own is None, np.array(rows), np.array(own or [False] * len(rows)))


def _same_recordings(
    questions: Sequence[Question], answers: list[list[list[Answer]]], names: dict[int, str]
) -> set[frozenset[str]]:
    """Pairs of songs of which one gets many votes from clean clips of the other, more than once."""
    pairs: Counter[frozenset[str]] = Counter()
    for question, efforts in zip(questions, answers, strict=True):
        votes: dict[str, int] = defaultdict(int)
        for one in efforts[-1]:
            votes[names[one.candidate.song_id]] = max(votes[names[one.candidate.song_id]], one.candidate.votes)
        if question.condition == "disk" and question.track in votes:
            least = SAME_RECORDING * votes[question.track]
            pairs.update(frozenset((question.track, name)) for name, count in votes.items() if count >= least)
    return {pair for pair, count in pairs.items() if len(pair) == 2 and count > 1}


def fit(asked: list[Asked]) -> NDArray[np.float64]:
    """The weights with which the best answer's logit tells right from wrong."""
    rows = np.concatenate([one.terms for one in asked])
    weights = _logistic(rows, np.concatenate([one.right for one in asked]))
    for _ in range(3):  # of the answers of a clip only the best is given, so only the best are fitted
        best = [np.argmax(one.terms @ weights) for one in asked]
        weights = _logistic(
            np.array([one.terms[place] for one, place in zip(asked, best, strict=True)]),
            np.array([one.right[place] for one, place in zip(asked, best, strict=True)]),
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


def report(asked: list[Asked], weights: NDArray[np.float64]) -> str:
    """Constants, and what they do."""
    logits, right = [], []
    for one in asked:
        each = one.terms @ weights
        logits.append(each.max())
        right.append(one.right[np.argmax(each)])
    logit, is_right = np.array(logits), np.array(right)
    strange = np.array([one.stranger for one in asked])
    reached = {share: round(float(np.quantile(logit[strange], 1 - share)), 2) for share in sorted(STRANGERS)[::-1]}
    lines = [f"STRANGERS = {reached}  # of {strange.sum()}", "", "right and named at 1 % strangers, %:"]
    cells: dict[tuple[str, float], list[bool]] = defaultdict(list)
    for one, its_logit, its_right in zip(asked, logit, is_right, strict=True):
        if not one.stranger:
            cells[one.question.condition, one.question.length_s].append(bool(its_right and its_logit > reached[0.01]))
    lines += [f"{kind:10} {s:4g} s {100 * np.mean(cells[kind, s]):6.1f}" for kind, s in sorted(cells)]
    stated = 1 / (1 + np.exp(-logit))
    lines += ["", "stated  observed  answers"]
    for low in np.arange(10) / 10:
        inside = (stated >= low) & (stated < low + 0.1)
        if inside.any():
            lines.append(f"{stated[inside].mean():.3f}   {is_right[inside].mean():.3f}     {inside.sum()}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="SET")
    parser.add_argument("--unseen", nargs="*", default=[], metavar="SET", help="sets to judge the fit by")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    fitted = [one for folder in chosen.sets for one in gather(folder, chosen.processes)]
    weights = fit(fitted)
    print("WEIGHTS =", tuple(round(float(weight), 3) for weight in weights))
    print(report([one for folder in chosen.unseen for one in gather(folder, chosen.processes)] or fitted, weights))


if __name__ == "__main__":
    main()
