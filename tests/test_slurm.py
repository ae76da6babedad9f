"""The SLURM recipe as a newcomer tries it: what would it submit?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.dask_cluster import ROOT


def slurm(*options: str, name: str = "jobs.slurm") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *name.split(), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_dry_run_explains_what_it_would_submit() -> None:
    options = ["--jobs", "8", "--cores", "4", "--memory-gb", "12", "--walltime", "02:00:00", "--partition", "long"]
    ran = slurm(*options, "--setup", "module load python", "--dry-run")
    assert ran.returncode == 0, ran.stderr
    for word in (
        "8 SLURM jobs, 32 workers",
        "4 workers of one thread and 3.0 GB",
        "25,600 hours of music",
        sys.executable,
    ):
        assert word in ran.stdout
    script = ran.stdout[ran.stdout.index("#!/usr/bin/env bash") :].splitlines()
    for line in ("#SBATCH -p long", "#SBATCH --cpus-per-task=4", "#SBATCH -t 02:00:00", "module load python"):
        assert line in script
    assert "--nthreads 1" in script[-1] or "--nthreads 1" in script[-2]


def test_the_command_and_the_module_are_the_same(tmp_path: Path) -> None:
    ran = [
        slurm("--dry-run", "--jobs", "2", name=name).stdout.splitlines()[:6] for name in ("jobs.slurm", "jobs slurm")
    ]
    assert ran[0] == ran[1]
    assert "2 SLURM jobs" in ran[0][0]


def test_without_sbatch_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = slurm("--jobs", "1", name="jobs slurm")
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("ClusterError: there is no sbatch here")


@pytest.mark.parametrize("options", [["--walltime", "soon"], ["--memory-gb", "1"]], ids=lambda options: options[0])
def test_what_cannot_be_submitted_is_wrong_usage(options: list[str]) -> None:
    ran = slurm(*options, "--dry-run")
    assert ran.returncode == 2
    assert options[0] in ran.stderr
