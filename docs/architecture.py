"""Writes docs/ARCHITECTURE.md: a picture of the map that the tests hold true, and what each room is for.

`make reference` runs it; a test fails while the page and the map disagree.
"""

from __future__ import annotations

import ast
from pathlib import Path

from tests.test_architecture import MAP, NAMES, part_of

PAGE = Path(__file__).with_name("ARCHITECTURE.md")
HEAD = """\
# Architecture

The modules and packages of `pipeline/`, and which of them each imports: arrows point down only. The picture is drawn
from the map in `tests/test_architecture.py`, which fails unless it is equal to what the code imports (`make reference`
draws it again). An arrow is left out where a longer way of arrows leads to the same place, and so is `errors`, which
everything may use. Above all stand the commands in `jobs/`, the only place that prints.

"""


def page() -> str:
    """The whole page: a Mermaid graph, then a table."""
    arrows = [f"    {part} --> {below}" for part in MAP for below in sorted(_direct(part))]
    graph = "\n".join(["```mermaid", "graph TD", *arrows, "```"])
    ordered = sorted((name for name in NAMES if name.startswith("pipeline.")), key=_order)
    rows = [f"| `{name.removeprefix('pipeline.')}` | {_purpose(name)} |" for name in ordered]
    commands = sorted(name for name in NAMES if name.startswith("jobs.") and "__" not in name)
    rows += [f"| `{name}` | {_purpose(name)} |" for name in commands]
    return HEAD + graph + "\n\n| module | what for |\n|---|---|\n" + "\n".join(rows) + "\n"


def _order(name: str) -> tuple[int, str]:
    return list(MAP).index(part_of(name)), name


def _direct(part: str) -> set[str]:
    """What a part imports and nothing that it imports imports."""
    return MAP[part] - {further for below in MAP[part] for further in _all(below)}


def _all(part: str) -> set[str]:
    return MAP[part] | {further for below in MAP[part] for further in _all(below)}


def _purpose(name: str) -> str:
    """The opening of a module's docstring."""
    path = NAMES[name]
    opening = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return " ".join(opening.split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
