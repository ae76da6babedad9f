"""Every code block of the documents runs, in a folder with songs, recordings and a store; every link leads somewhere.

A block that cannot run here stands below a comment that says why: ``<!-- not run: the reason -->``.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import typer
import yaml

import pipeline
from jobs.cli import app
from pipeline import Store
from pipeline.simulation import encoding, music

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])
RATE = music.SAMPLE_RATE
FENCE = re.compile(r"^(?:<!-- not run: ([^\n]+?) -->\n)?```(\w*)\n(.*?)^```$", re.S | re.M)
OUTPUT = {"text", "mermaid"}
"""What a page shows and nobody types."""

CLUSTER = "docs/CLUSTER.md"
YAML = {CLUSTER, "contrib/README.md"}
"""`test_the_kubernetes_recipe_starts_what_is_in_the_image` and `test_beets.py` read them."""

RUN_ELSEWHERE = {"data/README.md", "contrib/README.md"}
"""`test_other_readers.py` and `test_beets.py` run their blocks."""

SCHEDULER = "tcp://10.0.0.5:8786"
"""The address that the pages give; the tests put that of a scheduler of theirs in its place."""

COMMANDS = typer.main.get_command(app).commands


@dataclass(frozen=True)
class Block:
    """A code block, and where it stands."""

    page: str
    line: int
    reason: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start(2)) + 1
            found.append(Block(path.relative_to(ROOT).as_posix(), line, match[1] or "", match[2], match[3]))
    return found


BLOCKS = blocks()
TO_RUN = [block for block in BLOCKS if not block.reason and block.page not in RUN_ELSEWHERE]
SHELL = [block for block in TO_RUN if block.language in ("sh", "console")]
PYTHON = [block for block in TO_RUN if block.language == "python"]


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages suppose: songs, recordings, noise."""
    folder = tmp_path_factory.mktemp("audio")
    for name in ("Music/Old album", "Recordings", "More", "Street", "album"):
        (folder / name).mkdir(parents=True)
    songs = {seed: music.song(seed, 30.0) for seed in (1, 2, 3, 4)}
    for seed, place in {1: "Music", 2: "Music", 3: "Music", 4: "Music/Old album"}.items():
        encoding.write(folder / place / f"{seed}.flac", songs[seed], title=f"Song {seed}", artist="Anna")
    encoding.write(folder / "clip.wav", songs[3][5 * RATE : 11 * RATE])
    encoding.write(folder / "evening.opus", np.concatenate([songs[2][: 20 * RATE], songs[1][: 20 * RATE]]))
    copies = {
        "clip.wav": ("Recordings/clip.wav", "Street/noise.wav"),
        "evening.opus": ("Recordings/evening.opus",),
        "Music/1.flac": ("album/07.flac", "single.mp3", "song.mp3", "other.mp3", "More/song.mp3"),
    }
    for name, others in copies.items():
        for other in others:
            shutil.copy(folder / name, folder / other)
    for name in ("Music", "Recordings"):
        (folder / name.lower()).symlink_to(name)
    (folder / "catalogue.csv").write_text("file,label,year\nMusic/2.flac,Blue,1999\nMusic/3.flac,Red,2001\n")
    return folder


@pytest.fixture(scope="module")
def folder_of(audio: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """For the name of a page its folder, with stores, in which its blocks run one after the other."""

    @functools.cache
    def folder(page: str) -> Path:
        made = tmp_path_factory.mktemp(Path(page).stem) / "folder"
        shutil.copytree(audio, made, symlinks=True)
        (made / "labels.csv").write_text(f"path,label\n{made}/Music/2.flac,Blue\n")
        pipeline.index(made / "Music", Store.open_or_create(str(made / "music.songprint")))
        return made

    return folder


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with two workers in this process."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def names_of() -> dict[str, dict[str, Any]]:
    """The variables of each page that is one program from top to bottom."""
    return {}


# What a program prints, by its first heading above. Those that continue the one before are the whole page.
ONE_PROGRAM = {"docs/PYTHON.md"}
EXPECTED = {
    "A store": "0 songs added, 4 already there",
    "Recordings": "Song 3",
    "A clip in a NumPy array": "matched Song 3",
    "A picture of it": "",
    "Five minutes": "Song 3",
    "Your own metadata beside the matches": "Red",
    "More matches than fit into memory": "",
    "Local processes, with a bar": "0 4 0 3",
    "A cluster that is there already": "3",
    "Paths in a Dask bag or data frame": "Song 2",
    "A live loop": "s: Song 1, ",
    "SQL over a store": "Anna      4",
    "In Python": "studio 0 to 20 s: Song 2",
    "A playlist of what was played": "3 songs",
    "The same recording twice, and how many clips are named rightly": "noise",
}


def heading(block: Block) -> str:
    lines = (ROOT / block.page).read_text(encoding="utf-8").splitlines()[: block.line]
    return [line for line in lines if line.startswith("## ")][-1][3:]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_program_runs_as_it_is(
    block: Block,
    folder_of: Callable[[str], Path],
    names_of: dict[str, dict[str, Any]],
    scheduler: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "pipeline.sql" in block.text:
        pytest.importorskip("duckdb")
    if "dask.dataframe" in block.text:
        pytest.importorskip("dask.dataframe")
    monkeypatch.chdir(folder_of(block.page))
    monkeypatch.setenv("MPLBACKEND", "agg")
    names = {"__name__": "__main__"}
    if block.page in ONE_PROGRAM:
        names = names_of.setdefault(block.page, names)
    exec(compile(block.text.replace(SCHEDULER, scheduler), str(block), "exec"), names)
    assert EXPECTED[heading(block)] in capsys.readouterr().out


@pytest.mark.timeout(900)  # the demo takes half a minute on a machine without other load
def test_the_readme_shows_what_the_demo_prints(demo_folder: Path) -> None:
    (shown,) = re.findall(r"```text\n(Composing.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    printed = (demo_folder.parent / "output.txt").read_text().replace(str(demo_folder), "demo")
    measured = re.compile(r"[\d.]+ s(?= \(| in all|:)|after [\d.]+ s")
    assert measured.sub("", shown).split() == measured.sub("", printed).split()


def test_every_program_is_expected_to_print_something() -> None:
    assert {heading(block) for block in PYTHON} == set(EXPECTED)


def typed(block: Block) -> str:
    """What a person types of a block: all of it, or the lines behind a prompt."""
    if block.language == "sh":
        return block.text
    return "\n".join(re.findall(r"^\$ (.*)", block.text, re.M))


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_command_runs_as_it_is(block: Block, folder_of: Callable[[str], Path], scheduler: str) -> None:
    if "songprint sql" in block.text:
        pytest.importorskip("duckdb")
    folder = folder_of(block.page)
    script = typed(block).replace("/shared/", f"{folder}/").replace(SCHEDULER, scheduler)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


def test_a_block_is_run_or_says_why_not() -> None:
    runs = {id(block) for block in (*SHELL, *PYTHON)}
    rest = [block for block in BLOCKS if id(block) not in runs and not block.reason and block.language not in OUTPUT]
    rest = [block for block in rest if block.page not in (YAML if block.language == "yaml" else RUN_ELSEWHERE)]
    assert [str(block) for block in rest] == []


def test_the_kubernetes_recipe_starts_what_is_in_the_image() -> None:
    cluster, job = (yaml.safe_load(block.text) for block in BLOCKS if (block.page, block.language) == (CLUSTER, "yaml"))
    for part in ("scheduler", "worker"):
        (container,) = cluster["spec"][part]["spec"]["containers"]
        program, command, *words = container["command"]
        assert (program, command) == ("dask", part)
        shown = subprocess.run([sys.executable, "-m", "dask", part, "--help"], capture_output=True, text=True).stdout
        assert [word for word in words if word.startswith("--") and word not in shown] == []
    scheduler = cluster["spec"]["scheduler"]
    ports = {port["name"]: port["containerPort"] for port in scheduler["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"]: port["port"] for port in scheduler["service"]["ports"]} == ports
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert_known("docs/CLUSTER.md", shlex.join(["songprint", *container["args"]]))


def commands() -> list[tuple[str, str]]:
    """Every command of songprint in a block or in the text, with its page."""
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        inline = [re.sub(r"\s+", " ", code) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
        lines = [line.removeprefix("$ ") for match in FENCE.finditer(text) for line in match[3].splitlines()]
        found += [(path.name, code) for code in (*inline, *lines) if re.match(r"songprint [a-z]+\b", code)]
    return found


def test_every_command_and_option_in_a_document_is_there() -> None:
    for page, command in commands():
        assert_known(page, command)


def assert_known(page: str, command: str) -> None:
    name, *words = shlex.split(re.split(r"\||&&", command.partition(" #")[0])[0])[1:]
    assert name in COMMANDS, f"{page}: {command}"
    known = {one for option in COMMANDS[name].params for one in (*option.opts, *option.secondary_opts)} | {"--help"}
    options = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    assert set(options) <= known, f"{page}: {command}"


def test_every_target_of_make_in_a_document_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for path in PAGES:
        named = re.findall(r"(?:`|^)make ([a-z][a-z-]*)", path.read_text(encoding="utf-8"), re.M)
        assert set(named) <= targets, path.name
