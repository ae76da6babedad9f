"""SQL over one version of a store, with DuckDB: the tables as views.

The views read the Parquet files that belong to the version. Rows that belong to no song of the library are left out, as
data/README.md says that every reader must.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.arguments import snapshot_of
from pipeline.errors import ParameterError
from pipeline.paths import filesystem
from pipeline.store import Snapshot, Store
from pipeline.store.schema import CONSTELLATIONS, INDEXED, POSTINGS, SCHEMAS, SONGS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Rows of songs that were removed, or that a job which died has left, belong to no song.
OF_A_SONG = "SELECT * FROM {files} WHERE song_id IN (SELECT song_id FROM songs)"
# The frames of songs lie end to end: a posting has a position in place of a song and an offset.
BY_POSITION = """
    SELECT hash, song_id, (position - first_frame)::INTEGER AS "offset"
    FROM {files} AS posting ASOF JOIN songs
        ON posting.shard = songs.shard AND posting.position >= songs.first_frame
    WHERE position < first_frame + n_frames
"""
# Columns were added to the songs table later: not every file has them, and those of an old store have none.
OF_THE_LIBRARY = f"""
    SELECT * FROM songs_columns UNION ALL BY NAME SELECT * FROM {{files}} WHERE status = '{INDEXED}'
"""
VIEWS = {
    SONGS: OF_THE_LIBRARY,
    POSTINGS: BY_POSITION,
    CONSTELLATIONS: OF_A_SONG,
}
COLUMNS = SCHEMAS | {POSTINGS: pa.schema([(name, pa.int32()) for name in ("hash", "song_id", "offset")])}


def connect(store: Store | Snapshot) -> DuckDBPyConnection:
    """Open a database in memory with the views ``songs``, ``postings`` and ``constellations``.

    Parameters
    ----------
    store
        A store, or one version of it (`Store.snapshot`); later changes of the store do not change the views.

    Returns
    -------
    duckdb.DuckDBPyConnection
        ``songs`` and ``constellations`` have the columns of data/README.md, ``postings`` always has ``hash``,
        ``song_id`` and ``offset``. Other files can be read beside them.

    Raises
    ------
    ParameterError
        If the package duckdb is not installed, or ``store`` is something else.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ParameterError("SQL needs the package duckdb: pip install 'songprint[sql]'") from error
    snapshot = snapshot_of(store)
    connection = duckdb.connect()
    connection.register("songs_columns", SCHEMAS[SONGS].empty_table())
    if not snapshot.location.local:
        connection.register_filesystem(filesystem(snapshot.url)[0].unwrapped)
    for table, view in VIEWS.items():
        if files := [snapshot.location.path(name) for name in snapshot.files(table)]:
            in_folders = table == POSTINGS  # their shard stands in the name of the folder
            options = f"hive_partitioning = {in_folders}, union_by_name = {table == SONGS}"
            source = f"read_parquet([{', '.join(map(_quoted, files))}], {options})"
            connection.execute(f"CREATE VIEW {table} AS {view.format(files=source)}")
        else:
            connection.register(table, COLUMNS[table].empty_table())
    return connection


def select(connection: DuckDBPyConnection, query: str) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """The rows of a query as they come, in types that every output has.

    Returns
    -------
    schema, tables
        Columns of one name are numbered; decimal numbers, such as sums of integers, become int64 or float64.

    Raises
    ------
    ParameterError
        If the query cannot be run, or a column has a type that no output has.
    """
    import duckdb

    try:
        relation = connection.sql(query)
        if relation is None:  # a statement without a result
            return pa.schema([]), iter(())
        reader = relation.to_arrow_reader()
    except duckdb.Error as error:
        raise _query_error(error) from error
    names = _numbered(reader.schema.names)
    schema = pa.schema([(name, _plain(name, field.type)) for name, field in zip(names, reader.schema, strict=True)])

    def tables() -> Iterator[pa.Table]:
        try:
            for batch in reader:
                yield pa.Table.from_batches([batch]).rename_columns(names).cast(schema)
        except (duckdb.Error, OSError, pa.ArrowException) as error:
            raise _query_error(error) from error

    return schema, tables()


def _query_error(error: Exception) -> ParameterError:
    """DuckDB's message in one line, without the copy of the query that follows it."""
    return ParameterError(f"query: {' '.join(str(error).partition('LINE 1:')[0].split())}")


def _numbered(names: Sequence[str]) -> list[str]:
    """Names of which no two are the same."""
    found: list[str] = []
    for name in names:
        number = itertools.count(1)
        unique = name
        while unique in found:
            unique = f"{name}_{next(number)}"
        found.append(unique)
    return found


def _plain(name: str, type_: pa.DataType) -> pa.DataType:
    if pa.types.is_decimal(type_):
        return pa.int64() if type_.scale == 0 else pa.float64()
    if pa.types.is_dictionary(type_):
        return type_.value_type
    if pa.types.is_binary(type_) or pa.types.is_duration(type_) or pa.types.is_interval(type_):
        raise ParameterError(f"query: column {name} is a {type_}, which no output has; cast it: {name}::VARCHAR")
    return type_


def _quoted(text: str) -> str:
    """A text as SQL writes it."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
