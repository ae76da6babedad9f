"""The Containerfile: what it copies is there, its user is not root; a builder that has the base image builds it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")
IGNORED = [line for line in (ROOT / ".containerignore").read_text().splitlines() if line and not line.startswith("#")]


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, with their words; what stands above the first stage is left out."""
    lines = re.sub(r"^#.*\n", "", TEXT, flags=re.M).replace("\\\n", " ").splitlines()
    instructions = [(name, words.strip()) for name, _, words in (line.partition(" ") for line in lines if line)]
    found: list[list[tuple[str, str]]] = []
    for name, words in instructions:
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, words))
    return found


def is_sent(path: str) -> bool:
    """Whether the builder gets a path: the last line of the ignore file that fits decides."""
    sent = True
    for line in IGNORED:
        if fnmatch(path, line.removeprefix("!")) or path.startswith(f"{line.removeprefix('!')}/"):
            sent = line.startswith("!")
    return sent


def test_what_is_copied_is_there_and_sent_and_nothing_else_is() -> None:
    copied = {word for stage in stages() for name, words in stage if name == "COPY" for word in words.split()[:-1]}
    copied |= set(re.findall(r"--mount=type=bind,source=([^,]+)", TEXT))
    assert all((ROOT / path).exists() for path in copied)
    sent = {path.name for path in ROOT.iterdir() if is_sent(path.name)}
    assert sent == copied
    assert not is_sent("pipeline/__pycache__")


def test_the_image_runs_songprint_as_a_user_who_is_not_root_in_one_layer_of_wheels() -> None:
    build, image = stages()
    assert [name for name, _ in image] == ["FROM", "RUN", "ENV", "USER", "WORKDIR", "ENTRYPOINT"]
    last = dict(image)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])
    assert json.loads(last["ENTRYPOINT"]) == ["songprint"]
    assert last["RUN"].count("pip install") == 1
    assert "--only-binary=:all:" in last["RUN"]
    assert "--no-deps" in dict(build)["RUN"]
    assert {words.split(":")[0] for stage in stages() for name, words in stage if name == "FROM"} == {"python"}


def test_hadolint_finds_nothing() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("no hadolint")
    ran = subprocess.run(["hadolint", "Containerfile"], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == ""
    assert ran.returncode == 0


@pytest.mark.timeout(1800)  # it installs some sixty wheels
def test_the_image_is_built_and_runs_the_command() -> None:
    builder = next((name for name in ("podman", "docker") if shutil.which(name)), None)
    (version,) = re.findall(r"^ARG PYTHON=(.*)", TEXT, re.M)
    base = f"python:{version}-slim"
    if builder is None or subprocess.run([builder, "image", "inspect", base], capture_output=True).returncode != 0:
        pytest.skip(f"no podman or docker that has {base}")
    command = [builder, "build", "--quiet", "--file", "Containerfile", "."]
    image = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()[-1]
    shown = subprocess.run([builder, "run", "--rm", image, "--version"], check=True, capture_output=True, text=True)
    assert shown.stdout.startswith("songprint ")
