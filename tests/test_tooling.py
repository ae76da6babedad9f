"""What a fresh clone relies on: every dependency pinned, every target explained."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

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


def test_make_bench_measures_all_sizes_unless_told_otherwise() -> None:
    if shutil.which("make") is None:
        pytest.skip("no make")
    for words, sizes in ([], "1,10,100,400"), (["SIZES=1,10"], "1,10"):
        ran = subprocess.run(
            ["make", "-n", "bench", "MUSIC=folder", *words], cwd=ROOT, check=True, capture_output=True, text=True
        )
        assert f"benchmarks.querying folder --sizes {sizes}\n" in ran.stdout


def test_every_target_of_make_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    explained = set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE))
    assert set(phony[1].split()) == explained


@pytest.mark.parametrize(
    ("printed", "status", "message"),
    [
        ("No known vulnerabilities found", 0, "No known vulnerabilities found"),
        ("Name Version ID\nnumpy 1.0 PYSEC-1", 1, "make: some versions in constraints.txt have known weaknesses"),
        (
            "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed",
            1,
            "make: nothing is known .* could not be reached \\(.*vulnerability feed\\)",
        ),
        (
            "Traceback (most recent call last):\nrequests.exceptions.ConnectionError: no such host",
            1,
            "make: nothing is known .* could not be reached \\(.*no such host\\)",
        ),
    ],
)
def test_an_audit_that_could_not_be_made_says_so_and_does_not_pass(
    printed: str, status: int, message: str, tmp_path: Path
) -> None:
    if shutil.which("make") is None:
        pytest.skip("no make")
    shutil.copy(ROOT / "Makefile", tmp_path)
    pip_audit = tmp_path / ".venv" / "audit" / "bin" / "pip-audit"
    pip_audit.parent.mkdir(parents=True)
    for name in (
        "pyproject.toml",
        "constraints.txt",
        ".venv/run.stamp",
        ".venv/audit.stamp",
    ):  # each newer than the last
        (tmp_path / name).touch()
    pip_audit.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{printed}\nEND\nexit {status}\n")
    pip_audit.chmod(0o755)
    ran = subprocess.run(["make", "--no-print-directory", "audit"], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode != 0) == (status != 0)
    assert re.match(message, ran.stdout.splitlines()[-1])
