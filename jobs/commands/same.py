"""`songprint same`: whether two files hold the same recording."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options
from jobs.runtime import log, messages

DIFFERENT = 3
"""The exit code when they do not."""

SHOWN = ("kind", "share", "start_s", "end_s", "other_share", "other_start_s", "other_end_s", "peaks_share", "speed")


def same(
    path: Annotated[str, typer.Argument(metavar="A", help="An audio file, local or a URL.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    speed_range: Annotated[
        float, typer.Option("--speed-range", metavar="PERCENT", help="B may be so much faster or slower than A.")
    ] = 6.0,
    stream: Annotated[
        int | None,
        typer.Option(
            "--stream",
            min=1,
            metavar="N",
            help="Which audio stream of A, if it is a film, from 1 (else: its default one, or the first with sound).",
            show_default=False,
        ),
    ] = None,
    other_stream: Annotated[
        int | None,
        typer.Option("--other-stream", min=1, metavar="N", help="The same of B.", show_default=False),
    ] = None,
    output: options.Output = "-",
    format_: options.TableFormat = "table",
    bom: options.Bom = False,
    quiet: options.Quiet = False,
) -> None:
    """Say whether two files hold the same recording, and where.

    No store is needed. Exits with 0 when they do, also in part, and with 3 when not. One row per span that both have,
    with the shares of A and of B that coincide, and the speed of B over that of A. A common intro or jingle is shown
    too, but makes no same recording.

    Example: songprint same album/07.flac single.mp3
    """
    messages(quiet, False, False)
    from jobs.output import tables
    from pipeline.comparison import SPANS, compare

    tables.check_output(output)
    tables.check_bom(bom, format_ if output == "-" else output)
    found = compare(path, other, speed_range, stream=stream, other_stream=other_stream)
    tables.write([found.spans], SPANS, output, format_, SHOWN, bom=bom)
    if not found.same:
        log.info("not the same recording%s", f": {found.kind}" if found.kind else "")
        raise typer.Exit(DIFFERENT)
