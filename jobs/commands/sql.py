"""`songprint sql`: a store as tables of a database."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options


def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help='In DuckDB\'s SQL, such as "SELECT … FROM songs".')],
    store: options.StoreUrl,
    output: options.Output = "-",
    format_: options.TableFormat = "table",
    bom: options.Bom = False,
) -> None:
    """Select from the songs, postings and peaks of a store.

    The views are `songs`, `postings` (hash, song_id, "offset") and `constellations`, as data/README.md describes them,
    of the present version. Files can be joined by their names. Needs the extra `sql`: pip install 'songprint[sql]'.

    Example: songprint sql "SELECT artist, count(*) AS songs FROM songs GROUP BY artist" --store ~/music.songprint
    """
    from jobs.output import tables
    from pipeline.sql import connect, select
    from pipeline.store import Store

    tables.check_output(output)
    tables.check_bom(bom, format_ if output == "-" else output)
    schema, rows = select(connect(Store.open(store)), query)
    tables.write(rows, schema, output, format_, bom=bom)
