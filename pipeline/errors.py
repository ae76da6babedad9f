"""The exceptions of songprint, with one root: a caller catches `SongprintError` and prints its one sentence.

A message says what was found, what is allowed, where, and the next step. Any other exception that escapes is a bug, and
keeps its traceback.
"""

from __future__ import annotations


class SongprintError(Exception):
    """The root of everything that songprint raises on purpose."""


class ParameterError(SongprintError, ValueError):
    """An argument or a setting is out of range."""


class CatalogError(SongprintError):
    """A path given by the user leads to no audio file."""


class AudioError(SongprintError):
    """A file gives no usable samples; the message starts with its path."""


class NotTried(AudioError):
    """A file was not decoded for a reason that is not in it: it cannot be read, or no decoder starts."""


class StoreError(SongprintError):
    """A store is missing, damaged, or of a format that this version does not read."""


class ConfigMismatch(SongprintError):
    """The settings of a store and of a request differ."""


class RemoteError(SongprintError):
    """An object store or another remote file system cannot be used: a package is missing, or it does not answer."""


class ClusterError(SongprintError):
    """The scheduler or its workers cannot be reached, or cannot read the files."""
