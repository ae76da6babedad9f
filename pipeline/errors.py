"""What can go wrong, as one tree: a caller catches `SongprintError` and shows one sentence.

Anything else that escapes is a bug of ours and keeps its traceback. A message says what was found, what was
allowed, where, and the next step.
"""

from __future__ import annotations


class SongprintError(Exception):
    """The root of everything that songprint raises on purpose."""


class ParameterError(SongprintError, ValueError):
    """An argument or a setting is outside what it may be."""


class CatalogError(SongprintError):
    """A path given by the user does not lead to any song."""


class AudioError(SongprintError):
    """A file does not give usable samples; the message starts with its path."""


class StoreError(SongprintError):
    """A store is missing, damaged, or of a format that this version does not read."""


class ConfigMismatch(SongprintError):
    """The settings of a store and of a request differ."""


class ClusterError(SongprintError):
    """The scheduler or its workers cannot be reached, or do not see the files."""
