"""The map of the project, held true: which room may use which, and which rooms know which library.

A room that is not on the map fails the test: put it where it belongs, below everything that uses it.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top down: a room may import only what stands further down, and of that only what is listed.
ROOMS: dict[str, set[str]] = {
    "plots": {"config", "constellation", "evaluation", "landmarks"},
    "demo": {"indexing", "store", "synthesis"},
    "indexing": {"audio", "catalog", "config", "errors", "executor", "fingerprinting", "store"},
    "identification": {"audio", "catalog", "errors", "executor", "recognise", "recording", "store"},
    "evaluation": {
        "audio",
        "catalog",
        "config",
        "constellation",
        "duplicates",
        "errors",
        "landmarks",
        "recognise",
        "store",
        "synthesis",
    },
    "duplicates": {"constellation", "landmarks", "store", "timeline"},
    "listening": {"errors", "recognise", "recording"},
    "recording": {"calibration", "constellation", "match", "recognise", "timeline", "verify"},
    "timeline": {"recognise"},
    "cluster": {"errors", "executor"},
    "executor": set(),
    "recognise": {"calibration", "config", "constellation", "errors", "fingerprinting", "landmarks", "match", "verify"},
    "calibration": {"match", "verify"},
    "verify": {"config", "constellation", "errors", "landmarks", "match"},
    "match": {"config", "constellation", "errors", "landmarks"},
    "store": {"config", "constellation", "errors", "landmarks"},
    "fingerprinting": {"audio", "config", "constellation", "errors", "landmarks"},
    "landmarks": {"config", "constellation", "errors"},
    "constellation": {"config", "errors"},
    "catalog": {"audio", "errors"},
    "audio": {"errors"},
    "synthesis": {"errors"},
    "config": {"errors"},
    "errors": set(),
}

# Libraries that only some rooms know; everything else may be imported anywhere.
KEEPERS: dict[str, set[str]] = {
    "dask": {"pipeline.cluster"},
    "distributed": {"pipeline.cluster"},
    "deltalake": {"pipeline.store"},
    "pyarrow.parquet": {"pipeline.store", "jobs.tables", "jobs.parts"},
    "audioread": {"pipeline.audio"},
    "soxr": {"pipeline.audio", "pipeline.recognise"},
    "soundfile": {"pipeline.audio", "pipeline.synthesis"},
    "imageio_ffmpeg": {"pipeline.audio", "pipeline.synthesis"},
    "sounddevice": {"pipeline.listening"},
    "mutagen": {"pipeline.catalog", "pipeline.audio"},
    "pyroomacoustics": {"pipeline.synthesis"},
    "matplotlib": {"pipeline.plots"},
    "typer": {"jobs"},
    "click": {"jobs"},
    "rich": {"jobs"},
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def room_of(path: Path) -> str:
    """The first name below the package: a room may be a module or a folder of modules."""
    return path.relative_to(ROOT).with_suffix("").parts[1]


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute here"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def rooms_used(path: Path) -> set[str]:
    used = {name.split(".")[1] for name in imports(path) if name.startswith("pipeline.")}
    return used & rooms_there() - {room_of(path)}


def rooms_there() -> set[str]:
    return {room_of(path) for path in modules("pipeline")} - {"__init__"}


def test_the_map_points_down() -> None:
    order = list(ROOMS)
    for room, below in ROOMS.items():
        upward = {other for other in below if order.index(other) <= order.index(room)}
        assert not upward, f"{room} stands below {upward}"


def test_every_room_is_on_the_map() -> None:
    assert rooms_there() <= set(ROOMS)


@pytest.mark.parametrize("path", modules("pipeline"), ids=lambda path: ".".join(path.parts[-2:]))
def test_a_room_uses_only_what_the_map_allows(path: Path) -> None:
    if room_of(path) != "__init__":  # the front door shows what is inside
        assert rooms_used(path) <= ROOMS[room_of(path)]


def test_the_pipeline_knows_nothing_of_the_commands() -> None:
    for path in modules("pipeline"):
        assert not {name for name in imports(path) if name.split(".")[0] == "jobs"}, path.name


@pytest.mark.parametrize("path", modules("pipeline") + modules("jobs"), ids=lambda path: ".".join(path.parts[-2:]))
def test_a_library_is_known_only_to_its_keepers(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for library, keepers in KEEPERS.items():
        uses = any(name == library or name.startswith(f"{library}.") for name in imports(path))
        assert not uses or {package, f"{package}.{room_of(path)}"} & keepers, f"{path.name} imports {library}"


def test_only_the_commands_print() -> None:
    for path in modules("pipeline"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"], (
            path.name
        )
