"""Options that several commands share, each defined once."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from jobs.output.formats import FILES, PRINTED, RECORDINGS

if TYPE_CHECKING:
    _TableFormat: TypeAlias = str
    _MatchFormat: TypeAlias = str
else:  # typer takes choices as an enum, and mypy no enum that is made from a table
    _TableFormat = enum.StrEnum("_TableFormat", [(name, name) for name in PRINTED])
    _MatchFormat = enum.StrEnum("_MatchFormat", [(name, name) for name in [*PRINTED, *RECORDINGS]])

STORE_HELP = "Folder or URL of the store."
StoreUrl = Annotated[str, typer.Option("--store", envvar="SONGPRINT_STORE", metavar="STORE", help=STORE_HELP)]
Paths = Annotated[
    list[str],
    typer.Argument(metavar="PATH", help="Files or folders, searched recursively; local or URLs such as s3://…"),
]
Workers = Annotated[
    int,
    typer.Option("--workers", min=0, metavar="N", help="Local processes; one per core when 0.", show_default=False),
]
Scheduler = Annotated[
    str | None,
    typer.Option("--scheduler", metavar="ADDRESS", help="Use the Dask cluster at tcp://HOST:PORT instead."),
]
PerformanceReport = Annotated[
    Path | None, typer.Option("--performance-report", metavar="FILE.html", help="Write Dask's performance report.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no summary; errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print more messages.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Messages on standard error as one JSON object a line.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 when a file failed.")]
LimitS = Annotated[
    float | None,
    typer.Option(
        "--limit-s",
        min=0.1,
        metavar="SECONDS",
        help="Give up a file that takes longer (else: an hour, and more if it is large).",
    ),
]
Stream = Annotated[
    int | None,
    typer.Option(
        "--stream",
        min=1,
        metavar="N",
        help="Which audio stream of a film, from 1 (else: its default one, or the first with sound).",
        show_default=False,
    ),
]
Output = Annotated[
    str,
    typer.Option("--output", "-o", metavar="FILE", help=f"Write the table to a {', '.join(FILES)} file; - prints it."),
]
Bom = Annotated[bool, typer.Option("--bom", help="Begin a CSV with a byte order mark, for Excel.")]
TableFormat = Annotated[_TableFormat, typer.Option("--format", help="How the table is printed.")]
MatchFormat = Annotated[
    _MatchFormat,
    typer.Option("--format", help="How the matches are printed; cue, audacity, jams give a file for each recording."),
]
PitchRange = Annotated[
    float,
    typer.Option("--pitch-range", metavar="SEMITONES", help="Find songs whose pitch is up to so much higher or lower."),
]
TempoRange = Annotated[
    float,
    typer.Option("--tempo-range", metavar="PERCENT", help="Find songs whose tempo is up to so much faster or slower."),
]
FalsePositives = Annotated[
    float,
    typer.Option("--false-positives", metavar="SHARE", help="Share of out-of-library clips that may be named."),
]
