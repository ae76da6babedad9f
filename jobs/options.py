"""Options that several commands share, each said once."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


class Format(enum.StrEnum):
    """How a table is printed on standard output."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class AnswerFormat(enum.StrEnum):
    """How the answers of `identify` are printed: as a `Format`, or as a sheet for one recording."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    CUE = "cue"
    AUDACITY = "audacity"


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
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more of what is going on.")]
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
Output = Annotated[
    str,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write the table to a .csv, .jsonl or .parquet file; - prints it."
    ),
]
TableFormat = Annotated[Format, typer.Option("--format", help="How the table is printed.")]
