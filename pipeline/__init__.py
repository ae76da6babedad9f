"""songprint: audio fingerprinting of music libraries, in batches.

>>> import pipeline
>>> sorted(pipeline.__all__)  # doctest: +NORMALIZE_WHITESPACE
['Query', 'Settings', 'SongprintError', 'Store', 'fingerprint', 'identify', 'index']

`index` adds songs to a `Store`, `identify` finds the songs in recordings; the commands of the same names call them.
`fingerprint` gives the peaks and hashes of one file. A name is loaded when it is first used, so that the import itself
costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.errors import SongprintError
    from pipeline.fingerprinting.extract import fingerprint
    from pipeline.fingerprinting.settings import Settings
    from pipeline.identification import identify
    from pipeline.indexing import index
    from pipeline.matching.types import Query
    from pipeline.store import Store

__all__ = ["Query", "Settings", "SongprintError", "Store", "fingerprint", "identify", "index"]

_MODULES = {
    "Query": "matching.types",
    "Settings": "fingerprinting.settings",
    "SongprintError": "errors",
    "Store": "store",
    "fingerprint": "fingerprinting.extract",
    "identify": "identification",
    "index": "indexing",
}


# PEP 562 by hand: the package lazy_loader would be one more dependency in place of these lines.
def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
