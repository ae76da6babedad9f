"""The arguments that the public functions have in common, checked: an error names the argument."""

from __future__ import annotations

from pipeline.errors import ParameterError
from pipeline.matching.types import Query
from pipeline.store import Snapshot, Store


def require_store(store: Store) -> Store:
    """The same store.

    Raises
    ------
    ParameterError
        If it is another object, such as the path of a store.
    """
    if not isinstance(store, Store):
        raise ParameterError(
            f"store: {store!r:.80} is a {type(store).__name__}; give a pipeline.Store, such as Store.open returns"
        )
    return store


def snapshot_of(store: Store | Snapshot) -> Snapshot:
    """The current version of a store, or the version that is given.

    Raises
    ------
    ParameterError
        As `require_store`.
    """
    return store if isinstance(store, Snapshot) else require_store(store).snapshot()


def query_of(query: Query | None) -> Query:
    """The query that is given, or the defaults.

    Raises
    ------
    ParameterError
        If it is another object.
    """
    if query is None:
        return Query()
    if not isinstance(query, Query):
        raise ParameterError(f"query: {query!r:.80} is a {type(query).__name__}; give a pipeline.Query")
    return query
