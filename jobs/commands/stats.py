"""`songprint stats`: the size of a store, and how its hashes are spread."""

from __future__ import annotations

from jobs import options


def stats(store: options.StoreUrl, format_: options.TableFormat = "table") -> None:
    """Show how large a store is, and how evenly its hashes are spread.

    Example: songprint stats --store ~/music.songprint --format json
    """
    from jobs.output import tables
    from pipeline.store import Store

    tables.write_object(Store.open(store).snapshot().stats(), format_)
