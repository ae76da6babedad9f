"""The package as users install it: built from its own source archive, and run where there is no repository."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path, target: Path) -> Path:
    """Build an archive from a folder, as pip and build do."""
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(target)]
    ran = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return target / ran.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("checkout")
    for folder in ("pipeline", "jobs", "contrib", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    return build("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source archive, so that nothing is missing there."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_source_archive_has_what_the_wheel_needs_and_no_tests(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt"} <= names
    assert "contrib/beetsplug/songprint.py" in names
    assert [name for name in names if name.startswith("tests")] == []


def test_the_wheel_has_every_module_and_data_file_and_nothing_else(wheel: Path) -> None:
    sources = {
        path.relative_to(ROOT).as_posix()
        for folder in ("pipeline", "jobs")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == sources


def test_the_metadata_say_what_an_index_shows(wheel: Path) -> None:
    found = metadata(wheel)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert found["Version"] == pipeline.__version__
    assert found["Requires-Python"]
    assert found["Summary"] == project["description"]
    assert found["License-Expression"] == "MIT"
    assert found["Description-Content-Type"] == "text/markdown"
    assert found["Keywords"].split(",") == project["keywords"]
    assert set(found.get_all("Classifier", [])) == set(project["classifiers"])
    assert set(found.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])


def test_no_package_that_an_extra_brings_is_required_without_it(wheel: Path) -> None:
    required = [line for line in metadata(wheel).get_all("Requires-Dist", []) if "extra ==" not in line]
    names = {line.partition(">")[0] for line in required}
    assert not names & {"bokeh", "duckdb", "s3fs", "gcsfs", "matplotlib", "sounddevice", "dask-jobqueue", "jupyterlab"}


@pytest.mark.timeout(900)  # half a minute on a machine without other load
def test_the_demo_runs_from_the_wheel_in_another_environment(wheel: Path, tmp_path: Path) -> None:
    """The packages that songprint needs are lent by this environment; `make package` installs them too."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*command, "--quiet", "--disable-pip-version-check"], check=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    lent = [path for path in sys.path if path.endswith("site-packages")]
    (site / "lent.pth").write_text("\n".join(lent))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    where = "import jobs, pipeline; print(jobs.__file__, pipeline.__file__, pipeline.__version__)"
    shown = subprocess.run([python, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert shown.stdout.split() == [
        str(site / "jobs" / "__init__.py"), str(site / "pipeline" / "__init__.py"), pipeline.__version__
    ]  # fmt: skip
    demo = [tmp_path / "venv" / "bin" / "songprint", "demo", "--workers", "2"]
    ran = subprocess.run(demo, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "13 of 13 clips are right" in ran.stdout
    assert (tmp_path / "demo" / "report.html").exists()
