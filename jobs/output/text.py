"""Texts for people: times as minutes, the names of songs, and nothing in them that steers a terminal."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from typing import Any


def printable(text: str) -> str:
    """The text with a replacement character for what would steer a terminal; wide East Asian spaces stay."""
    return "".join(
        letter if letter.isprintable() or unicodedata.category(letter) == "Zs" else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )


def count(n: int, noun: str, nouns: str = "") -> str:
    """A number with its noun.

    >>> count(1, "song"), count(2, "song"), count(0, "match", "matches")
    ('1 song', '2 songs', '0 matches')
    """
    return f"{n} {noun if n == 1 else nouns or f'{noun}s'}"


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same object without objects in it: their names are joined by a dot.

    >>> flat({"songs": 3, "settings": {"hop": 512}})
    {'songs': 3, 'settings.hop': 512}
    """
    names: dict[str, Any] = {}
    for name, value in row.items():
        names |= {f"{name}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {name: value}
    return names


def minutes(seconds: float) -> str:
    """A time as ``m:ss``, or ``h:mm:ss``.

    >>> minutes(61.4), minutes(3600)
    ('1:01', '1:00:00')
    """
    whole = round(seconds)
    hours, rest = divmod(abs(whole), 3600)
    sign = "-" if whole < 0 else ""
    return f"{sign}{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{sign}{rest // 60}:{rest % 60:02d}"


def song_title(row: Mapping[str, Any]) -> str:
    """The title of a match's song, or the name of its file without the suffix."""
    return str(row["title"] or os.path.splitext(os.path.basename(str(row["song_path"])))[0])


def song_name(row: Mapping[str, Any]) -> str:
    """What the song of a match is called: artist and title; of a gap, that it is unknown."""
    if row["status"] == "unknown":
        return "unknown"
    words = [row["artist"], song_title(row)]
    return printable(" - ".join(str(word) for word in words if word))
