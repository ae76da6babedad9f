"""What a fresh clone relies on: every dependency pinned, every target explained."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def plain(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_has_a_pin_and_no_pin_names_a_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [*project["project"]["optional-dependencies"].values()]
    # atheris has wheels for each Python in another version, so no one pin would do.
    groups += [group for name, group in project["dependency-groups"].items() if name != "fuzz"]
    wanted = [*project["project"]["dependencies"], *(requirement for group in groups for requirement in group)]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    pinned = {plain(line.split("==")[0]) for line in pins}
    assert {plain(re.split(r"[\s\[<>=!~;]", requirement)[0]) for requirement in wanted} <= pinned


def test_every_extra_is_among_the_newest_that_make_constraints_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = ",".join(sorted(project["optional-dependencies"]))
    assert f"'.[{extras}]'" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_every_target_of_make_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    explained = set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE))
    assert set(phony[1].split()) == explained
