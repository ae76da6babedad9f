"""The page of `identify --report`: complete in itself, equal to the table, and safe from whatever tags hold."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.cli import run
from jobs.output import html_report, tables
from pipeline.match_rows import MATCHES, BatchRows
from pipeline.matching.types import Query
from pipeline.store import Store

HOSTILE = (
    "</script><script>document.title = 'broken'</script>",
    "<img src=//example.org/x onerror=alert(1)>",
    "<!-- <script>",
    "quotes \" ' ` ${1} &lt; \\u003c",
    "line\u2028, \u202eright to left, nul\x00, שלום, 夜に",
)
Written = Callable[[Iterable[BatchRows]], str]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def match(clip: str, start_s: float, end_s: float, song_id: int = 7, **fields: Any) -> dict[str, Any]:
    return {
        "clip": clip,
        "status": "matched",
        "song_id": song_id,
        "song_path": f"/music/{song_id}.ogg",
        "title": f"Song {song_id}",
        "artist": "A band",
        "clip_start_s": start_s,
        "clip_end_s": end_s,
        "song_start_s": 0.0,
        "song_end_s": end_s - start_s,
        "votes": 20,
        "confidence": 0.99,
        "speed": 1.0,
        "pitch": 1.0,
        "tempo": 1.0,
        **fields,
    }


def batch(rows: list[dict[str, Any]], **duration_s: float) -> BatchRows:
    failures = sum(row["status"] == "failed" for row in rows)
    table = pa.Table.from_pylist(rows, schema=MATCHES)
    return BatchRows(table, sum(duration_s.values()), 1.0, failures, duration_s)


EVENING = [
    batch([match("a", 0, 30, 1), match("a", 20, 40, 2), match("a", 50, 60, 1), match("b", 0, 5, 3)], a=70, b=5),
    batch(
        [{"clip": "c", "status": "unknown"}, {"clip": "d", "status": "failed", "message": "no decoder reads it"}],
        c=12.5,
    ),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.create(str(tmp_path_factory.mktemp("library") / "music.songprint"))


@pytest.fixture
def written(store: Store, tmp_path: Path) -> Written:
    """Writes batches as ``page.html``, and gives it back."""

    def write(batches: Iterable[BatchRows]) -> str:
        with html_report.page(tmp_path / "page.html", store, Query(0.02)) as add:
            for rows in batches:
                add(rows)
        return (tmp_path / "page.html").read_text(encoding="utf-8")

    return write


class Page(HTMLParser):
    """A page as a browser cuts it: its elements, and the text of its scripts by class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str | None, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and data.strip():
            self.scripts.setdefault(self.elements[-1][1].get("class"), []).append(data)


def test_the_page_holds_every_row_of_the_table(written: Written) -> None:
    shown = [json.loads(text) for text in Page(written(EVENING)).scripts["batch"]]
    assert [one.pop("duration_s") for one in shown] == [{"a": 70, "b": 5}, {"c": 12.5}]
    assert shown == [rows.table.to_pydict() for rows in EVENING]


def test_the_summary_counts_recordings_songs_and_time(written: Written) -> None:
    summary = json.loads(Page(written(EVENING)).scripts["summary"][0])
    assert summary.pop("made")
    # Of 87.5 s of audio: 40 s of two songs that overlap, then 10 s, and 5 s of the second recording.
    counts = {"matched": 2, "unknown": 1, "failed": 1, "audio_s": 87.5, "named_s": 55.0, "songs": 3}
    assert summary == {"store": "music.songprint", "songs_in_store": 0, "false_positives": 0.02, **counts}


def test_what_tags_say_never_becomes_part_of_the_page(written: Written) -> None:
    rows = [match(text, 0, 5, number, title=text, artist=text) for number, text in enumerate(HOSTILE)]
    rows.append({"clip": "z", "status": "failed", "message": HOSTILE[0]})
    harmless, hostile = Page(written(EVENING)), Page(written([batch([]), batch(rows)]))
    assert hostile.elements == harmless.elements
    data = json.loads(hostile.scripts["batch"][1])
    assert data["title"] == [*HOSTILE, None]
    assert data["message"][-1] == HOSTILE[0]


def test_a_narrow_page_lists_the_names_and_labels_every_column() -> None:
    template = html_report.TEMPLATE.read_text(encoding="utf-8")
    narrow = template[template.index("@media (max-width") : template.index("@media print")]
    assert ".names { display: block" in narrow
    assert "attr(data-column)" in narrow
    assert '"data-column": column.name' in template


def test_the_page_asks_for_nothing_outside_itself(written: Written) -> None:
    text = written(EVENING)
    assert not re.findall(r"(?i)https?:|//\w+\.\w|url\(|@import|fetch\(|XMLHttp|WebSocket|sendBeacon|innerHTML", text)
    for tag, attributes in Page(text).elements:
        for name in (
            "src",
            "href",
            "action",
            "srcset",
            "style",
            *(name for name in attributes if name.startswith("on")),
        ):
            assert attributes.get(name) in (None, "data:,", "#recordings"), f"{tag} {name}"


def test_the_policy_lets_in_the_pages_own_script_and_style_and_nothing_else(written: Written) -> None:
    page = Page(written(EVENING))
    policy = next(attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes)
    (script,) = page.scripts[None]
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'{html_report._digest(script)}'"
    assert "unsafe" not in policy


def test_the_page_is_written_beside_the_table_as_batches_come(store: Store, tmp_path: Path) -> None:
    page, table = tmp_path / "page.html", tmp_path / "table.csv"

    def matches() -> Iterator[pa.Table]:
        for rows in EVENING:
            add(rows)
            assert not page.exists()
            yield rows.table

    with html_report.page(page, store, Query()) as add:
        tables.write(matches(), MATCHES, str(table))
    assert len(table.read_text().splitlines()) == 1 + 6
    assert len(Page(page.read_text()).scripts["batch"]) == 2


def test_a_run_that_breaks_off_leaves_the_page_that_was_there(written: Written, tmp_path: Path) -> None:
    before = written(EVENING)

    def interrupted() -> Iterator[BatchRows]:
        yield EVENING[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(interrupted())
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == before


def test_numbers_that_json_does_not_know_are_left_out(written: Written) -> None:
    page = Page(written([batch([match("a", 0, 5, confidence=float("nan"))], a=float("inf"))]))
    data = json.loads(page.scripts["batch"][0])
    assert (data["confidence"], data["duration_s"]) == ([None], {"a": None})


@pytest.mark.parametrize(("name", "reason"), [("page.txt", "ends in .html"), ("nowhere/page.html", "make it first")])
def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["identify", str(tmp_path), "--store", str(tmp_path), "--report", str(tmp_path / name)]) == 1
    assert reason in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_draws_the_page_without_an_error(written: Written, tmp_path: Path) -> None:
    rows = [match(text, 0, 5, number, title=text, artist=text) for number, text in enumerate(HOSTILE, start=10)]
    written([*EVENING, batch(rows, **dict.fromkeys(HOSTILE, 5.0))])
    quietly = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    logging = ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [CHROMIUM, "--headless", *quietly, *logging, "--dump-dom", f"file://{tmp_path / 'page.html'}"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    assert "CONSOLE" not in done.stderr
    assert "<title>9 recordings, 8 songs</title>" in done.stdout
    drawn = [attributes.get("class") for _, attributes in Page(done.stdout).elements]
    assert drawn.count("recording") == 9
    assert sum((one or "").startswith("span") for one in drawn) == 4 + len(HOSTILE)
    assert "not named, 10 s" in done.stdout
