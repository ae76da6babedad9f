"""Store metadata: the file songprint.json with format version and settings, which makes a folder a store."""

from __future__ import annotations

import json

from pipeline.errors import StoreError
from pipeline.fingerprinting.settings import Settings
from pipeline.store.storage import Location

NAME = "songprint.json"
FORMAT = 2


def read(location: Location) -> Settings:
    """The settings of a store.

    Raises
    ------
    StoreError
        If there is no store, or one of another format.
    """
    try:
        found = json.loads(location.read(NAME))
        version, settings = found["format"], Settings.from_dict(found["settings"])
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{location.url}: there is no store here; `songprint index` makes one") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(found := _read_json(location), dict) and found.get("format") not in (None, FORMAT):
            version = found["format"]  # another format may have other settings
        else:
            what = f"not what songprint writes ({error})"
            raise StoreError(f"{location.path(NAME)}: {what}; `songprint check --repair` restores it") from error
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        next_step = (
            "use the songprint that made it, or a newer one" if newer else "index the music again into a new store"
        )
        raise StoreError(f"{location.url}: the store has format {version}, this songprint reads {FORMAT}; {next_step}")
    return settings


def _read_json(location: Location) -> object:
    """The contents of the file; ``None`` if it is not JSON."""
    try:
        return json.loads(location.read(NAME))
    except ValueError:
        return None


def write(location: Location, settings: Settings) -> None:
    """Write the store metadata; readers see the whole file or none."""
    location.write(NAME, json.dumps({"format": FORMAT, "settings": settings.to_dict()}, indent=2).encode() + b"\n")
