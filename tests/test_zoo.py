"""The zoo of hostile files: each file goes through walk, tags and decoders, and must meet its expected fate."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from pipeline import Store, catalog, index, indexing, paths
from pipeline.audio import decoding
from pipeline.audio.tags import read_tags
from pipeline.errors import AudioError
from pipeline.simulation import encoding, music
from tests import zoo
from tests.zoo import Animal

RATE = 11025
# The music in these is damaged too much to be compared.
NOT_COMPARED = {"hostile/not-a-number.wav", "hostile/of-1e20.wav"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="module")
def animals(folder: Path) -> list[Animal]:
    return zoo.build(folder)


def likeness(samples: NDArray[np.float32], music: NDArray[np.float32]) -> float:
    """Highest correlation of the first seconds, over shifts of up to a tenth of a second."""
    a, b = samples[: 3 * RATE].astype(float), music[: 3 * RATE].astype(float)
    a, b = a[: min(len(a), len(b))], b[: min(len(a), len(b))]
    a, b = a - a.mean(), b - b.mean()
    n = 2 * len(a)
    lags = np.fft.irfft(np.fft.rfft(a, n) * np.conj(np.fft.rfft(b, n)), n)
    return float(max(lags[: RATE // 10].max(), lags[-RATE // 10 :].max()) / np.sqrt((a @ a) * (b @ b) + 1e-30))


def wrong(animal: Animal, path: str, music: NDArray[np.float32]) -> str | None:
    """What is not as expected when a file is decoded, None if all is."""
    began = time.monotonic()
    try:
        samples, decoded = decoding.decode(path, RATE, lambda blocks: np.concatenate(list(blocks)), limit_s=20)
    except AudioError as error:
        message = str(error)
        if animal.fate != "failed" or animal.mute:
            return message
        if not message.isprintable() or len(message) > len(path) * 4 + 300:
            return f"message not printable or too long: {message!r}"
        reason = message.removeprefix(paths.printable_path(path) + ": ") if path.isprintable() else message
        return None if re.search(animal.reason, reason) else f"another reason: {reason}"
    if animal.mute:
        return None
    share = len(samples) / RATE / zoo.SECONDS
    result = f"{decoded} gives {share:.3f} of the music in {time.monotonic() - began:.1f} s"
    if animal.fate == "failed" or not animal.share[0] <= share <= animal.share[1]:
        return result
    if animal.fate != "worn" and (decoded.decoded_share < 0.98) != (animal.fate == "partial"):
        return result
    if not np.isfinite(samples).all():
        return f"{result}, not finite"
    alike = likeness(samples, music)
    return None if alike > 0.6 or animal.name in NOT_COMPARED else f"{result}, but another sound: {alike:.2f}"


def test_the_walk_finds_audio_files_and_skips_the_rest(folder: Path, animals: list[Animal]) -> None:
    found = {os.path.relpath(entry.path, folder) for entry in catalog.walk([str(folder)])}
    assert found == {animal.name for animal in animals if animal.fate != "skipped"}
    assert len(animals) == len({animal.name for animal in animals}) > 150


def test_every_animal_meets_its_fate_and_none_makes_a_mess(folder: Path, animals: list[Animal]) -> None:
    music = soxr.resample(zoo.stereo().mean(axis=1), zoo.RATE, RATE, quality="HQ")
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    open_before, children_before = os.listdir("/proc/self/fd"), children.read_text()
    open_ones = [animal for animal in animals if animal.fate != "skipped"]
    with ThreadPoolExecutor(2) as pool:  # most of the time ffmpeg starts
        found = pool.map(lambda animal: wrong(animal, str(folder / animal.name), music), open_ones)
        faults = {animal.name: fault for animal, fault in zip(open_ones, found, strict=True) if fault}
    for animal in animals:
        if animal.fate != "skipped":
            path = str(folder / animal.name)
            tags = read_tags(path)
            assert all(value is None or 0 < len(str(value)) <= 500 for value in dataclasses.astuple(tags))
            assert len(catalog.digest(path)) == 64
    assert not faults
    assert len(os.listdir("/proc/self/fd")) == len(open_before)
    assert children.read_text() == children_before


def test_an_index_run_over_the_zoo_ends_well_with_a_row_for_each(
    folder: Path, animals: list[Animal], tmp_path: Path
) -> None:
    store, failures = str(tmp_path / "store"), tmp_path / "failures.csv"
    command = ["index", str(folder), "--store", store, "--workers", "2", "--failures", str(failures), "--limit-s", "60"]
    subprocess.run([sys.executable, "-m", "jobs", *command], check=True, capture_output=True)
    listed = [sys.executable, "-m", "jobs", "songs", "--store", store, "--format", "json"]
    output = subprocess.run(listed, check=True, capture_output=True).stdout
    songs = {song["path"]: song["decoded_share"] for song in json.loads(output)}
    with open(failures, newline="", encoding="utf-8") as file:
        failed = {row["path"] for row in csv.DictReader(file)}
    fates = {}
    for animal in animals:
        path = paths.printable_path(str(folder / animal.name))
        known = "indexed" if songs.get(path, 0.0) >= 0.98 else "partial"
        fate = known if path in songs else "failed" if path in failed else "skipped"
        if animal.fate != ("worn" if animal.fate == "worn" and path in songs else fate):
            fates[animal.name] = fate
    assert not fates
    assert len(songs) + len(failed) == sum(animal.fate != "skipped" for animal in animals)


@pytest.mark.parametrize("name", ["pcm-s16.wav", "lossless.flac", "cbr320.mp3", "alac.m4a"])
@pytest.mark.parametrize("change", ["cut", "gone", "overwritten"])
def test_a_file_that_changes_while_it_is_read_harms_nothing(
    name: str, change: str, folder: Path, animals: list[Animal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_BLOCK_FRAMES", 1 << 14)
    path = tmp_path / name
    path.write_bytes((folder / name).read_bytes())

    def change_file(blocks: Iterator[NDArray[np.float32]]) -> int:
        n = len(next(blocks))
        if change == "cut" and path.exists():
            os.truncate(path, 5000)
        elif change == "gone":
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(os.urandom(100_000))
        return n + sum(len(block) for block in blocks)

    try:
        n, decoded = decoding.decode(str(path), RATE, change_file, limit_s=20)
    except AudioError as error:
        assert change != "gone", error  # noqa: PT017  # an open file stays whole when its name goes
    else:
        assert 0 < n <= (zoo.SECONDS + 0.1) * RATE
        assert change != "gone" or decoded.decoded_share > 0.98


def test_identify_gives_every_animal_a_row_and_ends_well(folder: Path, animals: list[Animal], tmp_path: Path) -> None:
    store, answers = str(tmp_path / "store"), tmp_path / "answers.csv"
    indexed = ["index", str(folder / "lossless.flac"), "--store", store, "--quiet"]
    subprocess.run([sys.executable, "-m", "jobs", *indexed], check=True, capture_output=True)
    command = ["identify", str(folder), "--store", store, "--output", str(answers), "--limit-s", "60", "--workers", "2"]
    done = subprocess.run([sys.executable, "-m", "jobs", *command], check=True, capture_output=True)
    assert not {line for line in done.stderr.splitlines() if b"clips (" not in line}  # no decoder prints messages
    with open(answers, newline="", encoding="utf-8") as file:
        statuses = {row["clip"]: row["status"] for row in csv.DictReader(file)}
    others = {}
    for animal in animals:
        # A CSV holds no control character but line breaks, as a terminal may show it.
        status = statuses.get(
            re.sub(r"[\x00-\x08\x0b-\x1f]", "\ufffd", paths.printable_path(str(folder / animal.name))), "skipped"
        )
        expected = {animal.fate} if animal.fate in ("skipped", "failed") else {"matched"}
        if animal.mute:
            expected = {"unknown"}
        elif (
            animal.fate == "worn" or (expected == {"matched"} and animal.share[0] < 0.9) or animal.name in NOT_COMPARED
        ):
            expected = {"matched", "unknown"}
        if status not in expected:
            others[animal.name] = status
    assert not others
    assert len(statuses) == sum(animal.fate != "skipped" for animal in animals)


def test_a_name_that_is_no_text_is_recognised_again_and_a_copy_does_not_take_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "music"
    folder.mkdir()
    odd = folder / "caf\udce9.flac"
    encoding.write(tmp_path / "song.flac", music.song(1, 10.0))
    odd.write_bytes((tmp_path / "song.flac").read_bytes())
    store = Store.create(str(tmp_path / "store"))
    assert index([str(folder)], store).added == 1
    assert indexing.new_entries(catalog.walk([str(folder)]), store) == ([], 1)
    (folder / "copy.flac").write_bytes(odd.read_bytes())
    again = index([str(folder)], store)
    assert (again.added, again.present, again.moved) == (0, 2, 0)
    odd.rename(folder / "na\udcefve.flac")
    (folder / "copy.flac").unlink()
    assert index([str(folder)], store).moved == 1
    assert store.snapshot().songs(["path"])["path"].to_pylist() == [str(folder / "na\\xefve.flac")]
