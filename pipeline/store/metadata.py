"""The small file that makes a folder a store: format version and settings, as JSON, written once."""

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
        face = json.loads(location.read(NAME))
        version, settings = face["format"], Settings.from_dict(face["settings"])
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{location.url}: there is no store here; `songprint index` makes one") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(face := _anything(location), dict) and face.get("format") not in (None, FORMAT):
            version = face["format"]  # another format may have other settings
        else:
            what = f"not what songprint writes ({error})"
            raise StoreError(f"{location.path(NAME)}: {what}; `songprint check --repair` restores it") from error
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        way_out = (
            "use the songprint that made it, or a newer one" if newer else "index the music again into a new store"
        )
        raise StoreError(f"{location.url}: the store has format {version}, this songprint reads {FORMAT}; {way_out}")
    return settings


def _anything(location: Location) -> object:
    try:
        return json.loads(location.read(NAME))
    except ValueError:
        return None


def write(location: Location, settings: Settings) -> None:
    """Write the face; it appears whole or not at all."""
    location.write(NAME, json.dumps({"format": FORMAT, "settings": settings.to_dict()}, indent=2).encode() + b"\n")
