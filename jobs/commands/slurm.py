"""`songprint slurm`: a Dask cluster out of SLURM jobs, for `--scheduler`.

The scheduler runs in this process, on the login node or in a small job of its own; dask-jobqueue submits the workers'
jobs, and cancels them when this process ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import ClusterError

# A worker needs some 0.4 GB; the rest is for long recordings, merges and a store's hot parts.
LEAST_GB_PER_WORKER = 1.0
# Hours of music that a worker fingerprints in an hour, from a file server that keeps up.
X_REALTIME = 400
SONG_H = 4 / 60


def slurm(
    jobs: Annotated[int, typer.Option("--jobs", min=1, metavar="N", help="SLURM jobs to submit.")] = 4,
    cores: Annotated[int, typer.Option("--cores", min=1, metavar="N", help="Cores of each, one worker on each.")] = 16,
    memory_gb: Annotated[float, typer.Option("--memory-gb", metavar="GB", help="Memory of each job.")] = 32.0,
    walltime: Annotated[str, typer.Option("--walltime", metavar="HH:MM:SS", help="How long a job may run.")] = (
        "08:00:00"
    ),
    partition: Annotated[str | None, typer.Option("--partition", metavar="NAME", help="SLURM's partition.")] = None,
    account: Annotated[
        str | None, typer.Option("--account", metavar="NAME", help="SLURM's account, which pays.")
    ] = None,
    interface: Annotated[
        str | None, typer.Option("--interface", metavar="NAME", help="Network interface that nodes reach, as ib0.")
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option("--setup", metavar="LINE", help="Shell line before the workers start, as `module load …`."),
    ] = None,
    scheduler_file: Annotated[
        Path | None, typer.Option("--scheduler-file", metavar="FILE", help="Write the address here, for scripts.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be submitted, and submit nothing.")
    ] = False,
) -> None:
    """Start Dask workers as SLURM jobs, for `--scheduler`.

    Prints the address of their scheduler. Runs until Ctrl-C, which also ends the jobs. Needs the extra slurm:
    pip install '.[slurm]'.

    Example: songprint slurm --jobs 8 --cores 16 --memory-gb 32 --walltime 08:00:00 --dry-run
    """
    if memory_gb < LEAST_GB_PER_WORKER * cores:
        raise typer.BadParameter(
            f"{cores} workers need {LEAST_GB_PER_WORKER * cores:.0f} GB or more", param_hint="--memory-gb"
        )
    # `in_order` tries a task again alone before it fails, so two deaths are enough to suspect it.
    os.environ.setdefault("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "1")
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise ClusterError("songprint slurm needs dask-jobqueue: pip install 'songprint[slurm]'") from None

    seconds = _seconds(walltime)
    with SLURMCluster(
        cores=cores,
        processes=cores,  # one thread each: decoding holds Python's lock often enough that threads gain little
        memory=f"{memory_gb:g}GB",
        walltime=walltime,
        queue=partition,
        account=account,
        interface=interface,
        job_name="songprint",
        python=sys.executable,
        job_script_prologue=setup or [],
        # A worker ends before SLURM kills it, and its task goes to another. Workers do not end all at once.
        worker_extra_args=["--lifetime", f"{max(60, seconds - 300)}s", "--lifetime-stagger", "4m"],
        scheduler_options={"dashboard_address": ":0"},
    ) as cluster:
        if dry_run:
            _explain(jobs, cores, memory_gb, walltime, seconds, cluster.job_script())
            return
        if shutil.which("sbatch") is None:
            raise ClusterError("there is no sbatch here; run this on a machine that submits to SLURM")
        cluster.scale(jobs=jobs)
        if scheduler_file is not None:
            scheduler_file.write_text(f"{cluster.scheduler_address}\n", encoding="utf-8")
        print(f"{jobs} jobs submitted; squeue shows them, {cluster.dashboard_link} what they do. In another terminal:")
        print(f"  songprint index MUSIC --store STORE --scheduler {cluster.scheduler_address}")
        print("Ctrl-C here ends them all.", flush=True)
        signal.pause()


def _explain(jobs: int, cores: int, memory_gb: float, walltime: str, seconds: int, script: str) -> None:
    workers = jobs * cores
    hours = workers * X_REALTIME * seconds / 3600
    print(
        f"This would submit {jobs} SLURM jobs, {workers} workers in all. Each job, for at most {walltime}, has {cores} "
        f"workers of one thread and {memory_gb / cores:.1f} GB.\n"
        f"In that time they can fingerprint about {hours:,.0f} hours of music, {hours / SONG_H:,.0f} songs of four "
        "minutes, if the file server delivers\n"
        f"{workers * X_REALTIME * 24 / 1000:,.0f} MB/s of MP3 at 192 kbit/s.\n"
        f"The workers run {sys.executable}: it, songprint, the music and the store must be on file systems that the\n"
        "nodes share, under the same paths as here. A job that starts late is used as soon as it is there.\n"
        "\nThe script of each job, for sbatch:\n"
    )
    print(script)


def _seconds(walltime: str) -> int:
    try:
        hours, minutes, seconds = (int(part) for part in walltime.split(":"))
    except ValueError:
        raise typer.BadParameter(f"{walltime!r} is not HH:MM:SS", param_hint="--walltime") from None
    return hours * 3600 + minutes * 60 + seconds
