"""Writes docs/ARCHITECTURE.md: a picture of the map that the tests hold true, and what each room is for.

`make reference` runs it; a test fails while the page and the map disagree.
"""

from __future__ import annotations

import ast
from pathlib import Path

from tests.test_architecture import ROOMS, ROOT

PAGE = Path(__file__).with_name("ARCHITECTURE.md")
HEAD = """\
# Architecture

Every room of `pipeline/`, and which it uses: arrows point down only. The picture is drawn from the map in
`tests/test_architecture.py`, which fails when code imports what the map does not allow (`make reference` draws it
again); uses that follow from others are left out, and so is `errors`, which everything may use. Above all rooms stand
the commands in `jobs/`, the only place that prints.

"""


def page() -> str:
    """The whole page: a Mermaid graph, then a table."""
    arrows = [f"    {room} --> {below}" for room in ROOMS for below in sorted(_direct(room)) if below != "errors"]
    rows = [f"| `{room}` | {_purpose(room)} |" for room in ROOMS]
    graph = "\n".join(["```mermaid", "graph TD", *arrows, "```"])
    return HEAD + graph + "\n\n| room | what for |\n|---|---|\n" + "\n".join(rows) + "\n"


def _direct(room: str) -> set[str]:
    """What a room uses and nothing that it uses uses."""
    return ROOMS[room] - {further for below in ROOMS[room] for further in _all(below)}


def _all(room: str) -> set[str]:
    return ROOMS[room] | {further for below in ROOMS[room] for further in _all(below)}


def _purpose(room: str) -> str:
    path = ROOT / "pipeline" / f"{room}.py"
    path = path if path.exists() else ROOT / "pipeline" / room / "__init__.py"
    opening = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return " ".join(opening.split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
