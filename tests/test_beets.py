"""The plugin for beets names untagged files: run by the real beets, as contrib/README.md says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mutagen
import numpy as np
import pytest
import yaml

import pipeline
from pipeline import Store
from pipeline.simulation import encoding, music

pytest.importorskip("beets")
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "contrib" / "README.md").read_text(encoding="utf-8")
RATE = music.SAMPLE_RATE
IMPORT = ("import", "--quiet", "--quiet-fallback", "asis", "--singletons")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two songs with tags, and untagged files: one of the songs, another song, one song in a long file."""
    folder = tmp_path_factory.mktemp("beets")
    known = [music.song(seed, 30.0) for seed in (1, 2)]
    for name in ("Music", "Untagged", "config"):
        (folder / name).mkdir()
    for number, samples in enumerate(known, start=1):
        encoding.write(folder / "Music" / f"{number}.flac", samples, title=f"Song {number}", artist="Anna")
    pipeline.index(folder / "Music", Store.open_or_create(str(folder / "music.songprint")))
    other = music.song(1001, 50.0)
    encoding.write(folder / "Untagged" / "one.mp3", known[0][5 * RATE :])
    encoding.write(folder / "Untagged" / "other.mp3", other[: 20 * RATE])
    jingle = [other, known[1][: 10 * RATE]]
    encoding.write(folder / "Untagged" / "programme.mp3", np.concatenate(jingle))
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    settings = yaml.safe_load(block)
    assert set(settings["songprint"]) == {"store", "auto", "false_positives", "min_share"}
    settings |= {"directory": str(folder / "beets"), "library": str(folder / "beets.db"), "threaded": False}
    settings["pluginpath"] = str(ROOT / "contrib" / "beetsplug")
    settings["songprint"] |= {"store": str(folder / "music.songprint")}
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def beet(folder: Path, *words: str) -> list[str]:
    environment = os.environ | {"BEETSDIR": str(folder / "config"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "beets", *words]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_files_are_named_by_the_song_that_plays_in_most_of_them(folder: Path) -> None:
    typed = [line.split() for line in re.findall(r"^\$ beet (.*)", PAGE, re.M)]
    assert [words[0] for words in typed] == ["import", "songprint"]
    beet(folder, *typed[0])
    named = ["Anna - Song 1", " - ", " - "]
    assert sorted(beet(folder, "list", "--format", "$artist - $title")) == sorted(named)
    (path,) = beet(folder, "list", "--path", "title:Song")
    assert mutagen.File(path, easy=True).tags is None
    beet(folder, "write")
    assert mutagen.File(path, easy=True)["title"] == ["Song 1"]


def test_files_of_the_library_are_named_and_written_and_what_they_have_is_kept(folder: Path) -> None:
    copy = folder / "again.mp3"
    shutil.copy(folder / "Untagged" / "one.mp3", copy)
    tags = mutagen.File(copy, easy=True)
    tags.add_tags()
    tags["artist"] = "Benno"
    tags.save()
    beet(folder, "--plugins", "", *IMPORT, "--nocopy", str(copy))
    beet(folder, "songprint", "title::^$", "artist:Benno")
    assert beet(folder, "list", "--format", "$artist - $title", "artist:Benno") == ["Benno - Song 1"]
    assert mutagen.File(copy, easy=True)["title"] == ["Song 1"]


def test_a_store_that_is_missing_is_a_warning_and_the_import_goes_on(folder: Path) -> None:
    config = folder / "config" / "config.yaml"
    before = config.read_text()
    config.write_text(before.replace("music.songprint", "none.songprint"))
    copy = folder / "third.mp3"
    shutil.copy(folder / "Untagged" / "other.mp3", copy)
    try:
        beet(folder, *IMPORT, "--nocopy", str(copy))
    finally:
        config.write_text(before)
    assert str(copy) in beet(folder, "list", "--path")
