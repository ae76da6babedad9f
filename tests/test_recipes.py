"""Every program of docs/RECIPES.md runs, in a folder with a store, songs and recordings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest

import pipeline
from pipeline import Store
from pipeline.simulation import encoding, music

ROOT = Path(__file__).parents[1]
RECIPES = re.findall(r"^## ([^\n]*)|^```python\n(.*?)^```", (ROOT / "docs" / "RECIPES.md").read_text(), re.S | re.M)
RATE = music.SAMPLE_RATE


def programs() -> list[tuple[str, str]]:
    """The heading and the text of each program."""
    heading = ""
    found = []
    for title, program in RECIPES:
        heading = title or heading
        if program:
            found.append((heading, program))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page supposes: songs, a store of them, a table of them, and recordings."""
    folder = tmp_path_factory.mktemp("recipes")
    for name in ("Music", "Recordings"):
        (folder / name).mkdir()
    songs = {seed: music.song(seed, 30.0) for seed in (1, 2, 3)}
    for seed, samples in songs.items():
        encoding.write(folder / "Music" / f"{seed}.flac", samples, title=f"Song {seed}", artist="Anna")
    encoding.write(folder / "Recordings" / "clip.wav", songs[3][5 * RATE : 11 * RATE])
    encoding.write(
        folder / "Recordings" / "evening.flac", np.concatenate([songs[2][: 20 * RATE], songs[1][: 20 * RATE]])
    )
    (folder / "catalogue.csv").write_text("file,label,year\nMusic/2.flac,Blue,1999\nMusic/3.flac,Red,2001\n")
    pipeline.index(folder / "Music", Store.open_or_create(str(folder / "music.songprint")))
    return folder


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with two workers in this process."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


EXPECTED = {
    "A clip in a NumPy array": "matched Song 3",
    "Your own metadata beside the matches": "Red",
    "More matches than fit into memory": "",
    "Local processes, with a bar": "0 3 0 3",
    "A cluster that is there already": "3",
    "Paths in a Dask bag or data frame": "Song 2",
    "A live loop": "s: Song 1, ",
    "SQL over a store": "Anna      3",
    "The same recording twice, and how many clips are named rightly": "noise",
}


@pytest.mark.parametrize(("heading", "program"), programs(), ids=lambda value: value if "\n" not in value else "")
def test_a_recipe_runs_as_it_is(
    heading: str,
    program: str,
    folder: Path,
    scheduler: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "pipeline.sql" in program:
        pytest.importorskip("duckdb")
    if "dask.dataframe" in program:
        pytest.importorskip("dask.dataframe")
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": "__main__", "SCHEDULER": scheduler}
    exec(compile(program, heading, "exec"), names)
    assert EXPECTED[heading] in capsys.readouterr().out


def test_every_recipe_is_expected_to_print_something() -> None:
    assert {heading for heading, _ in programs()} == set(EXPECTED)
