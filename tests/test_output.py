"""Whatever names and tags hold, in everything that a command writes."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import io
import json
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs import cli
from jobs.output import dataset, tables
from jobs.output.formats import FILES, FORMATS, PRINTED, RECORDINGS
from jobs.runtime import PlainLines
from pipeline.audio.tags import Tags
from pipeline.errors import AudioError
from pipeline.store import Store, stage
from tests.fakes import make_song

pytestmark = pytest.mark.usefixtures("whole_stores")

FORMULAS = ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", '=HYPERLINK("http://127.0.0.1/")', "\uff1d1+1"]
PLAIN = ["Plain", "a=b", "1-2", "", "日本\u3000語", 'Quo"ted, and so', "two\nlines", "'Round Midnight"]
ESCAPES = ["\x1b[2Jgone", "\x1b]0;owned\x07", "\x9b31m", "a\rb", "\x00", "\x7f"]
SCHEMA = pa.schema([("title", pa.string()), ("votes", pa.int64()), ("start_s", pa.float64())])


def table(titles: list[str]) -> pa.Table:
    rows = [{"title": title, "votes": -7, "start_s": -1.5} for title in titles]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def as_csv(titles: list[str], path: Path) -> list[dict[str, str]]:
    tables.write([table(titles)], SCHEMA, str(path))
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))


def test_a_spreadsheet_finds_no_formula_in_a_csv(tmp_path: Path) -> None:
    rows = as_csv(FORMULAS, tmp_path / "t.csv")
    assert all(row["title"].startswith("'") for row in rows)
    assert [row["title"][1:] for row in rows] == [
        title.replace("\r", "\N{REPLACEMENT CHARACTER}") for title in FORMULAS
    ]


def test_numbers_and_ordinary_titles_stay_as_they_are_in_a_csv(tmp_path: Path) -> None:
    rows = as_csv(PLAIN, tmp_path / "t.csv")
    assert [row["title"] for row in rows] == PLAIN
    assert {(row["votes"], row["start_s"]) for row in rows} == {("-7", "-1.5")}


def test_parquet_and_json_lines_have_the_exact_text(tmp_path: Path) -> None:
    titles = FORMULAS + PLAIN + ESCAPES
    tables.write([table(titles)], SCHEMA, str(tmp_path / "t.parquet"))
    assert pq.read_table(tmp_path / "t.parquet")["title"].to_pylist() == titles
    tables.write([table(titles)], SCHEMA, str(tmp_path / "t.jsonl"))
    read = [json.loads(line)["title"] for line in (tmp_path / "t.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert read == titles


@pytest.mark.parametrize("format_", PRINTED)
def test_nothing_that_is_printed_steers_a_terminal(format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables.write([table([*ESCAPES, *PLAIN])], SCHEMA, "-", format_)
    printed = capsys.readouterr().out
    assert not set(printed.replace("\r\n", "\n")) & {chr(n) for n in [*range(10), *range(11, 32), *range(128, 160)]}
    assert format_ == "json" or "日本\u3000語" in printed


def test_messages_and_errors_do_not_steer_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = logging.LogRecord("songprint", logging.WARNING, "", 0, "%s: bad", ("\x1b[31mred\nline.mp3",), None)
    assert PlainLines().format(record) == "\ufffd[31mred\ufffdline.mp3: bad"

    def fail(*arguments: object, **options: object) -> None:
        raise AudioError("\x1b[31mred.mp3: bad")

    monkeypatch.setattr(cli, "app", fail)
    assert cli.run([]) == 1
    assert capsys.readouterr().err == "AudioError: \ufffd[31mred.mp3: bad\n"


def test_what_a_terminals_encoding_does_not_have_is_escaped(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "store"))
    store.commit([stage(store.url, "a", [dataclasses.replace(make_song(1), tags=Tags("夜に"), path="/music/Ж.flac")])])
    command = [sys.executable, "-m", "jobs", "songs", "--store", store.url]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = subprocess.run(command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, check=True)
    assert rb"\u591c\u306b" in done.stdout
    assert rb"\u0416.flac" in done.stdout


def test_a_csv_has_milliseconds_and_four_digits_of_all_else(tmp_path: Path) -> None:
    schema = pa.schema([(name, pa.float64()) for name in ("clip_start_s", "song_start_s", "confidence", "speed")])
    row = {"clip_start_s": 12.345678, "song_start_s": -1e-9, "confidence": 0.99999991, "speed": 1.03456789}
    given = pa.Table.from_pylist([row], schema=schema)
    tables.write([given], schema, str(tmp_path / "t.csv"))
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == "12.346,0.0,1.0,1.0346"
    tables.write([given], schema, str(tmp_path / "t.jsonl"))
    assert json.loads((tmp_path / "t.jsonl").read_text()) == row


def test_a_byte_order_mark_begins_a_csv_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store.create(str(tmp_path / "store"))
    command = ["songs", "--store", str(tmp_path / "store"), "--bom"]
    assert cli.run([*command, "--output", str(tmp_path / "songs.csv")]) == 0
    assert (tmp_path / "songs.csv").read_bytes().startswith("\ufeffsong_id,".encode())
    assert list(FILES[".csv"].read_column(tmp_path / "songs.csv", "song_id")) == []
    assert cli.run([*command, "--format", "csv"]) == 0
    assert capsys.readouterr().out.startswith("\ufeffsong_id,")
    assert cli.run([*command, "--output", str(tmp_path / "songs.jsonl")]) == 1
    assert "--bom is for CSV" in capsys.readouterr().err


def test_a_terminal_that_is_too_narrow_shows_a_block_for_each_row(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "store"))
    store.commit([stage(store.url, "a", [make_song("first"), make_song("second")])])
    command = [sys.executable, "-m", "jobs", "songs", "--store", store.url]
    shown = {}
    for columns in (60, 200):
        terminal, its_end = pty.openpty()
        fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        subprocess.run(command, cwd=Path(__file__).parents[1], env=environment, stdout=its_end, check=True)
        os.close(its_end)
        shown[columns] = os.read(terminal, 1 << 16).decode().splitlines()
        os.close(terminal)
    assert len(shown[200]) == 3
    assert max(map(len, shown[60])) <= 60
    blocks = [block.splitlines() for block in "\n".join(shown[60]).split("\n\n")]
    assert [line.split()[0] for line in blocks[0]] == shown[200][0].split()[:3] + shown[200][0].split()[4:]  # no artist
    assert [block[1].split() for block in blocks] == [["path", "/music/first.flac"], ["path", "/music/second.flac"]]


def test_every_format_is_in_the_page_of_commands_and_a_choice_of_the_commands() -> None:
    page = (Path(__file__).parents[1] / "docs" / "COMMANDS.md").read_text(encoding="utf-8")
    options = "\n".join(line for line in page.splitlines() if "`--format`" in line or "`--output`" in line)
    assert [name for name in FORMATS if name not in options] == []
    help_text = CliRunner().invoke(cli.app, ["identify", "--help"]).output
    assert "|".join([*PRINTED, *RECORDINGS]) in "".join(help_text.split())
    assert {*PRINTED, *FILES, *RECORDINGS} == {*FORMATS}


@pytest.mark.parametrize("suffix", FILES)
def test_part_files_are_read_again(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"part{suffix}"
    tables.write([table(["a", "b"]), table(["c"])], SCHEMA, str(path))
    assert list(FILES[suffix].read_column(path, "title")) == ["a", "b", "c"]
    assert list(tmp_path.iterdir()) == [path]


def test_every_part_of_a_folder_begins_with_the_mark_and_is_read_again(tmp_path: Path) -> None:
    output = f"{tmp_path / 'matches.csv'}/"
    assert dataset.open_dataset(output, {"gaps": False}) == set()
    parts = pa.table({"clip": ["a", "b"]})
    dataset.write([parts, parts.slice(1)], parts.schema, output, bom=True)
    written = [path.read_bytes() for path in sorted(Path(output).glob("part-*"))]
    assert [one.startswith("\ufeffclip\r\n".encode()) for one in written] == [True, True]
    assert dataset.open_dataset(output, {"gaps": False}) == {"a", "b"}
