"""The map of the project: it must be equal to what the code imports.

A test fails for a module or package that is not on the map, for an arrow that no import makes, and for an import that
the map does not have. So a drawing of the map is a drawing of the code.
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top down: the modules and packages of `pipeline`, and which others each imports (besides `errors`).
MAP: dict[str, set[str]] = {
    "plots": {"evaluation", "fingerprinting"},
    "evaluation": {
        "arguments",
        "audio",
        "catalog",
        "execution",
        "fingerprinting",
        "matching",
        "overlap",
        "paths",
        "progress",
        "simulation",
        "store",
    },
    "simulation": {"indexing", "store"},
    "sql": {"arguments", "paths", "store"},
    "indexing": {"arguments", "audio", "catalog", "execution", "fingerprinting", "paths", "progress", "store"},
    "identification": {
        "arguments",
        "audio",
        "catalog",
        "execution",
        "match_rows",
        "matching",
        "paths",
        "progress",
        "shard_search",
        "store",
    },
    "shard_search": {"execution", "fingerprinting", "matching", "store"},
    "match_rows": {"matching", "paths", "store"},
    "monitoring": {"audio", "live", "matching"},
    "live": {"matching"},
    "comparison": {"audio", "catalog", "fingerprinting", "matching", "overlap", "paths"},
    "duplicate_detection": {"arguments", "fingerprinting", "overlap", "store"},
    "overlap": {"fingerprinting", "matching"},
    "arguments": {"matching", "store"},
    "store": {"audio", "fingerprinting", "paths"},
    "matching": {"audio", "fingerprinting"},
    "fingerprinting": {"audio", "paths"},
    "catalog": {"audio", "paths"},
    "audio": {"execution", "paths"},
    "progress": {"execution"},
    "execution": {"paths", "version"},
    "paths": set(),
    "version": set(),
    "errors": set(),
}

# Third-party libraries that only some modules or packages import; every other library may be imported anywhere.
LIBRARIES: dict[str, set[str]] = {
    "IPython": {"pipeline.progress"},
    "audioread": {"pipeline.audio.ffmpeg"},
    "dask": {"pipeline.execution.dask_executor"},
    "deltalake": {"pipeline.store.delta_log"},
    "distributed": {"pipeline.execution.cluster", "pipeline.execution.dask_executor"},
    "duckdb": {"pipeline.sql"},
    "fsspec": {"pipeline.paths"},
    "imageio_ffmpeg": {"pipeline.audio.ffmpeg", "pipeline.simulation.encoding"},
    "matplotlib": {"pipeline.plots"},
    "mutagen": {"pipeline.audio.tags"},
    "pandas": {"pipeline.evaluation.metrics"},
    "pyarrow.parquet": {"pipeline.store", "jobs.output"},
    "pyroomacoustics": {"pipeline.simulation.acoustics"},
    "rich": {"pipeline.progress"},
    "scipy": {
        "pipeline.duplicate_detection",
        "pipeline.fingerprinting.spectrogram",
        "pipeline.matching.calibration",
        "pipeline.simulation.acoustics",
    },
    "sounddevice": {"pipeline.live"},
    "soundfile": {"pipeline.audio.libsndfile", "pipeline.simulation.encoding"},
    "soxr": {"pipeline.audio.resampling"},
    "typer": {"jobs"},
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def part_of(name: str) -> str:
    """The first name below the package: a module, or a package of modules."""
    return name.split(".")[1] if "." in name else "__init__"


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


NAMES = {name_of(path): path for path in modules("pipeline") + modules("jobs")}


def modules_used(path: Path) -> set[str]:
    """The modules of this project that a file imports; of a package and a module in it, the module."""
    used = imports(path) & set(NAMES) - {name_of(path)}
    return {name for name in used if not any(other.startswith(f"{name}.") for other in used)}


def parts_used(part: str) -> set[str]:
    """Which other parts of `pipeline` a part imports."""
    files = [path for name, path in NAMES.items() if name.startswith("pipeline.") and part_of(name) == part]
    used = {part_of(name) for path in files for name in modules_used(path) if name.startswith("pipeline.")}
    return used - {part, "errors"}


def test_the_map_is_what_the_code_imports() -> None:
    parts = {part_of(name) for name in NAMES if name.startswith("pipeline.")}
    assert {part: parts_used(part) for part in sorted(parts)} == {part: MAP[part] for part in sorted(MAP)}


def test_the_map_points_down() -> None:
    order = list(MAP)
    for part, below in MAP.items():
        upward = {other for other in below if order.index(other) <= order.index(part)}
        assert not upward, f"{part} is below {upward}"


def test_no_modules_import_each_other() -> None:
    graph = {name: modules_used(path) for name, path in NAMES.items() if name != "pipeline"}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle


def test_the_pipeline_does_not_import_the_commands() -> None:
    for path in modules("pipeline"):
        assert not {name for name in imports(path) if name.split(".")[0] == "jobs"}, path.name


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_where_the_map_says(library: str) -> None:
    users = {
        name
        for name, path in NAMES.items()
        if any(used == library or used.startswith(f"{library}.") for used in imports(path))
    }
    places = LIBRARIES[library]
    assert {next((place for place in places if f"{name}.".startswith(f"{place}.")), name) for name in users} == places


def test_only_the_commands_print() -> None:
    for path in modules("pipeline"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"], (
            path.name
        )
