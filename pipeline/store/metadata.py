"""The small file that makes a folder a store: format version and settings, as JSON, written once."""

from __future__ import annotations

import json

from pipeline.errors import StoreError
from pipeline.fingerprinting.settings import Settings
from pipeline.store.storage import Location

NAME = "songprint.json"
FORMAT = 3
# The format that `songprint upgrade` converts.
UPGRADABLE = 2
# Where the tables of a store lie that was converted: beside the old ones, until those are deleted.
UPGRADED_FOLDER = "format-3"


def read(location: Location) -> tuple[Settings, Location]:
    """The settings of a store, and where its tables lie.

    Raises
    ------
    StoreError
        If there is no store, or one of another format.
    """
    try:
        told = json.loads(location.read(NAME))
        version, settings, folder = told["format"], Settings.from_dict(told["settings"]), told.get("tables", "")
        if folder not in ("", UPGRADED_FOLDER):
            raise ValueError(f"tables in {folder!r}")
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{location.url}: there is no store here; `songprint index` makes one") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(told := _anything(location), dict) and told.get("format") not in (None, FORMAT):
            version = told["format"]  # another format may have other settings
        else:
            what = f"not what songprint writes ({error})"
            raise StoreError(f"{location.path(NAME)}: {what}; `songprint check --repair` restores it") from error
    if version != FORMAT:
        way_out = "index the music again into a new store"
        if version == UPGRADABLE:
            way_out = f"`songprint upgrade --store {location.url}` converts it, without the music"
        elif isinstance(version, int) and version > FORMAT:
            way_out = "use the songprint that made it, or a newer one"
        raise StoreError(f"{location.url}: the store has format {version}, this songprint reads {FORMAT}; {way_out}")
    return settings, tables_in(location, folder)


def read_upgradable(location: Location) -> Settings | None:
    """The settings of a store of the format that can be converted; ``None`` if it has this one.

    Raises
    ------
    StoreError
        If there is no store, or one of a format that can be neither read nor converted.
    """
    told = _anything(location) if location.exists(NAME) else None
    if isinstance(told, dict) and told.get("format") == UPGRADABLE:
        return Settings.from_dict(told["settings"])
    read(location)
    return None


def tables_in(location: Location, folder: str) -> Location:
    """Where the tables of a store lie."""
    return Location(f"{location.url}/{folder}") if folder else location


def _anything(location: Location) -> object:
    try:
        return json.loads(location.read(NAME))
    except ValueError:
        return None


def write(location: Location, settings: Settings, folder: str = "") -> None:
    """Write the file; it appears whole or not at all."""
    told: dict[str, object] = {"format": FORMAT, "settings": settings.to_dict()}
    if folder:
        told["tables"] = folder
    location.write(NAME, json.dumps(told, indent=2).encode() + b"\n")
