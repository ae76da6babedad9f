"""`identify --report`: one page that shows the matches of a run in a browser, with nothing to install.

The page is `report.html` beside this file, with the rows as JSON in it. Names, tags and paths are untrusted data and
never become part of its HTML. It may run one script and one style sheet, known by their hashes, and load nothing at
all. Batches are written as they come, so that a page takes no more memory than a table does.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.output.summary import rows_by_clip
from jobs.output.tables import check_folder
from pipeline.errors import ParameterError
from pipeline.match_rows import BatchRows
from pipeline.matching.types import Query
from pipeline.store import Store

SUFFIXES = (".html", ".htm")
TEMPLATE = Path(__file__).with_name("report.html")
# The places in the template for the policy (what may run and be loaded) and for the data.
POLICY_HERE, DATA_HERE = "POLICY", "<!-- DATA -->\n"


@dataclass(slots=True)
class Totals:
    """What the summary of a page counts.

    Parameters
    ----------
    matched, unknown, failed
        Recordings.
    audio_s, named_s
        Seconds that were decoded, and those among them in which at least one song was named.
    songs
        Ids of the songs that were named.
    """

    matched: int = 0
    unknown: int = 0
    failed: int = 0
    audio_s: float = 0.0
    named_s: float = 0.0
    songs: set[int] = field(default_factory=set)

    def add(self, rows: BatchRows) -> None:
        """Count a batch; it has all rows of its recordings."""
        self.audio_s += rows.audio_s
        for _, of_recording in rows_by_clip([rows.table]):
            matches = [row for row in of_recording if row["status"] == "matched"]
            status = "matched" if matches else of_recording[0]["status"]  # a gap may come first
            setattr(self, status, getattr(self, status) + 1)
            named_until_s = 0.0
            for row in matches:  # by start: where two songs play at once, the time counts once
                self.named_s += max(0.0, row["clip_end_s"] - max(row["clip_start_s"], named_until_s))
                named_until_s = max(named_until_s, row["clip_end_s"])
                self.songs.add(row["song_id"])


def check_report(path: Path | None) -> None:
    """Refuse a page that cannot be written, before the work begins rather than after it."""
    if path is None:
        return
    if path.suffix not in SUFFIXES:
        raise ParameterError(f"{path}: --report takes a name that ends in {' or '.join(SUFFIXES)}")
    check_folder(str(path))


@contextlib.contextmanager
def page(path: Path | None, store: Store, query: Query) -> Iterator[Callable[[BatchRows], None]]:
    """Write a page batch by batch; it has its name only when it is complete.

    Parameters
    ----------
    path
        ``None`` writes nothing.
    store, query
        Where songs were looked up and how, for the summary.

    Yields
    ------
    callable
        To be called with each batch, in the order of the recordings.
    """
    if path is None:
        yield lambda rows: None
        return
    head, tail = _template()
    part = Path(f"{path}.part")
    totals = Totals()
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(head)

            def add(rows: BatchRows) -> None:
                totals.add(rows)
                file.write(_data("batch", {**rows.table.to_pydict(), "duration_s": rows.duration_s}))

            yield add
            about = {
                "made": time.strftime("%Y-%m-%d %H:%M"),
                "store": os.path.basename(store.url.rstrip("/")),  # its path may be private, the page is for others
                "songs_in_store": store.snapshot().n_songs,
                "false_positives": query.false_positives,
            }
            file.write(_data("summary", {**about, **dataclasses.asdict(totals), "songs": len(totals.songs)}))
            file.write(tail)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _template() -> tuple[str, str]:
    """The page up to its data and from there on, with a policy that allows its own script and styles alone."""
    text = TEMPLATE.read_text(encoding="utf-8")
    (style,), (script,) = (re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("style", "script"))
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head, tail = text.replace(POLICY_HERE, policy, 1).split(DATA_HERE)
    return head, tail


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data(name: str, value: dict[str, Any]) -> str:
    """A block of data that no browser runs; without `<` nothing in it can end the block or begin a comment."""
    text = json.dumps(_rounded(value), allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")
    return f'<script type="application/json" class="{name}">{text}</script>\n'


def _rounded(value: Any) -> Any:
    """The same with milliseconds, which halves the page, and without numbers that JSON does not know."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value
