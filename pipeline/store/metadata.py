"""Store metadata: the file songprint.json with format version and settings, which makes a folder a store."""

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
        found = json.loads(location.read(NAME))
        version, settings, folder = found["format"], Settings.from_dict(found["settings"]), found.get("tables", "")
        if folder not in ("", UPGRADED_FOLDER):
            raise ValueError(f"tables in {folder!r}")
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{location.url}: there is no store here; `songprint index` makes one") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(found := _read_json(location), dict) and found.get("format") not in (None, FORMAT):
            version = found["format"]  # another format may have other settings
        else:
            what = f"not what songprint writes ({error})"
            raise StoreError(f"{location.path(NAME)}: {what}; `songprint check --repair` restores it") from error
    if version != FORMAT:
        next_step = "index the music again into a new store"
        if version == UPGRADABLE:
            next_step = f"`songprint upgrade --store {location.url}` converts it, without the music"
        elif isinstance(version, int) and version > FORMAT:
            next_step = "use the songprint that made it, or a newer one"
        raise StoreError(f"{location.url}: the store has format {version}, this songprint reads {FORMAT}; {next_step}")
    return settings, tables_in(location, folder)


def read_upgradable(location: Location) -> Settings | None:
    """The settings of a store of the format that can be converted; ``None`` if it has this one.

    Raises
    ------
    StoreError
        If there is no store, or one of a format that can be neither read nor converted.
    """
    found = _read_json(location) if location.exists(NAME) else None
    if isinstance(found, dict) and found.get("format") == UPGRADABLE:
        return Settings.from_dict(found["settings"])
    read(location)
    return None


def tables_in(location: Location, folder: str) -> Location:
    """Where the tables of a store lie."""
    return Location(f"{location.url}/{folder}") if folder else location


def _read_json(location: Location) -> object:
    """The contents of the file; ``None`` if it is not JSON."""
    try:
        return json.loads(location.read(NAME))
    except ValueError:
        return None


def write(location: Location, settings: Settings, folder: str = "") -> None:
    """Write the store metadata; readers see the whole file or none."""
    found: dict[str, object] = {"format": FORMAT, "settings": settings.to_dict()}
    if folder:
        found["tables"] = folder
    location.write(NAME, json.dumps(found, indent=2).encode() + b"\n")
