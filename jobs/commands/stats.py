"""`songprint stats`: the size of a store, and how its hashes are spread."""

from __future__ import annotations

from jobs import options


def stats(store: options.StoreUrl, format_: options.TableFormat = "table") -> None:
    """Show a store's size, settings, and spread of hashes.

    Example: songprint stats --store ~/music.songprint --format json
    """
    from jobs.output import tables
    from pipeline.store import Store

    opened = Store.open(store)
    tables.write_object(opened.snapshot().stats() | {"settings": opened.settings.to_dict()}, format_)
