"""The typer app: every command by name, and how errors become one line and an exit code.

The modules of the commands import what is heavy inside their functions, so that `songprint --help` and a single
query do not pay for what they do not use.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import time
from typing import Annotated

import typer

from jobs.commands.check import check
from jobs.commands.compact import compact
from jobs.commands.demo import demo
from jobs.commands.duplicates import duplicates
from jobs.commands.evaluate import evaluate
from jobs.commands.identify import identify
from jobs.commands.index import index
from jobs.commands.listen import listen
from jobs.commands.print import print_
from jobs.commands.remove import remove
from jobs.commands.same import same
from jobs.commands.slurm import slurm
from jobs.commands.songs import songs
from jobs.commands.sql import sql
from jobs.commands.stats import stats
from jobs.commands.upgrade import upgrade
from jobs.output.text import printable
from pipeline.errors import SongprintError
from pipeline.execution.process import block_pandas_import

INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 and the number of the signal, which typer gives."""

TERMINATED = 143
"""The exit code after SIGTERM, which `kill`, systemd and SLURM send."""

KILLED_S = 2.0
"""How long to wait for processes that were killed, so that Python can free what it shared with them."""

MACHINE_ERRORS = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EMFILE", "ENFILE", "ENOMEM", "EIO")
    if hasattr(errno, name)
)
"""Errors of the machine: they become one sentence. Any other error is a bug and keeps its traceback."""

KEPT = {"index": "what was finished is in the store", "slurm": "the jobs are cancelled"}
"""What is said of an interrupted command; of others, that the store is whole."""

RETRY_HINT = "what was finished is in the store; put that right and run the same command again"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from pipeline.version import version_with_digest

        print(f"songprint {version_with_digest()}")
        raise typer.Exit


@app.callback()
def songprint(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Audio fingerprinting in batches: index a music library, name the songs in recordings, verify every match."""


app.command()(index)
app.command()(identify)
app.command()(songs)
app.command()(remove)
app.command()(compact)
app.command()(check)
app.command()(upgrade)
app.command()(stats)
app.command()(sql)
app.command()(duplicates)
app.command()(evaluate)
app.command()(same)
app.command("print")(print_)
app.command()(listen)
app.command()(demo)
app.command()(slurm)


def main() -> None:
    """Run the command line; exit with 0, 1 (an error of ours, one sentence), 2 (wrong usage), 130 (Ctrl-C) or 143
    (SIGTERM).

    A script's shell starts a command in the background with SIGINT ignored, and Python keeps it so: Ctrl-C then stops
    the script, and the command goes on.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # it may be closed, or replaced by a program that calls this
            stream.reconfigure(errors="backslashreplace")  # what a terminal's encoding does not have
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, _interrupt)
    code = run(sys.argv[1:])
    processes = sys.modules.get("multiprocessing")
    until = time.monotonic() + KILLED_S
    while processes and processes.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    if processes and processes.active_children():
        # They hang in the kernel, where SIGKILL does not reach them, and Python would wait for them. All results are
        # written.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class _Interrupt(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. Python would end with SIGINT itself after some that were `KeyboardInterrupt` alone."""


def _interrupt(number: int, frame: object) -> None:
    raise _Interrupt(number)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    block_pandas_import()
    try:
        app(arguments, prog_name="songprint")  # raises SystemExit; wrong usage was explained by then
    except SystemExit as stop:
        if stop.code != INTERRUPTED:
            return stop.code if isinstance(stop.code, int) else 0
        kept = KEPT.get(" ".join(arguments[:1]), "the store is whole")
        print(f"Interrupted; {kept}. Run the same command again to go on.", file=sys.stderr)
        by = stop.__context__
        while by is not None and not isinstance(by, _Interrupt):
            by = by.__context__
        return TERMINATED if by is not None and by.args == (signal.SIGTERM,) else INTERRUPTED
    except SongprintError as error:
        print(f"{type(error).__name__}: {printable(str(error))}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        from pipeline.store.storage import reason

        where = f"{error.filename}: " if error.filename else ""
        print(f"{type(error).__name__}: {printable(where + reason(error))}; {RETRY_HINT}", file=sys.stderr)
        return 1
    return 0
