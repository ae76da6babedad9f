"""Write docs/ARCHITECTURE.md: a picture of the map in the tests, and what each module is for.

`make reference` runs it. A test fails while the page and the map differ.
"""

from __future__ import annotations

import ast
from pathlib import Path

from tests.test_architecture import MAP, NAMES, part_of

PAGE = Path(__file__).with_name("ARCHITECTURE.md")
HEAD = """\
# Architecture

The modules and packages of `pipeline/`, and which of them each imports. All arrows point down. The picture is drawn
from the map in `tests/test_architecture.py`, which fails unless the map is equal to what the code imports (`make
reference` draws the picture again). An arrow is left out where a longer path of arrows connects the same two. `errors`
is left out too: every module may import it. The commands in `jobs/` are above all of these; only they print.

"""


def page() -> str:
    """The whole page: a Mermaid graph, then a table."""
    arrows = [f"    {part} --> {below}" for part in MAP for below in sorted(_direct(part))]
    graph = "\n".join(["```mermaid", "graph TD", *arrows, "```"])
    ordered = sorted((name for name in NAMES if name.startswith("pipeline.")), key=_order)
    rows = [f"| `{name.removeprefix('pipeline.')}` | {_purpose(name)} |" for name in ordered]
    commands = sorted(name for name in NAMES if name.startswith("jobs.") and "__" not in name)
    rows += [f"| `{name}` | {_purpose(name)} |" for name in commands]
    return HEAD + graph + "\n\n| module | purpose |\n|---|---|\n" + "\n".join(rows) + "\n"


def _order(name: str) -> tuple[int, str]:
    return list(MAP).index(part_of(name)), name


def _direct(part: str) -> set[str]:
    """What a part imports and no other part that it imports does, directly or not."""
    return MAP[part] - {further for below in MAP[part] for further in _all(below)}


def _all(part: str) -> set[str]:
    return MAP[part] | {further for below in MAP[part] for further in _all(below)}


def _purpose(name: str) -> str:
    """The first paragraph of a module's docstring."""
    path = NAMES[name]
    opening = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return " ".join(opening.split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
