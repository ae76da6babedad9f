"""songprint: audio fingerprinting of music libraries, in batches.

>>> import pipeline
>>> sorted(pipeline.__all__)  # doctest: +NORMALIZE_WHITESPACE
['Query', 'Settings', 'SongprintError', 'Store', 'compare', 'duplicates', 'evaluate', 'fingerprint', 'identify',
 'identify_samples', 'index', 'iter_matches', 'local_cluster']

`index` adds songs to a `Store`, `identify` finds the songs in recordings, `duplicates` the songs that are in a store
twice, `evaluate` how many clips are named rightly; the commands of the same names call them. `identify_samples` takes
samples in memory, `iter_matches` gives the rows of `identify` as they come. `fingerprint` gives the peaks and hashes of
one file, `compare` says whether two files hold the same recording. `local_cluster` opens workers for all of these. A
name is loaded when it is first used, so that the import itself costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pipeline.comparison import compare
    from pipeline.duplicate_detection import duplicates
    from pipeline.errors import SongprintError
    from pipeline.evaluation.experiment import evaluate
    from pipeline.execution.cluster import local_cluster
    from pipeline.fingerprinting.extract import fingerprint
    from pipeline.fingerprinting.settings import Settings
    from pipeline.identification import identify, identify_samples, iter_matches
    from pipeline.indexing import index
    from pipeline.matching.types import Query
    from pipeline.store import Store

__all__ = [
    "Query",
    "Settings",
    "SongprintError",
    "Store",
    "compare",
    "duplicates",
    "evaluate",
    "fingerprint",
    "identify",
    "identify_samples",
    "index",
    "iter_matches",
    "local_cluster",
]

_MODULES = {
    "Query": "matching.types",
    "Settings": "fingerprinting.settings",
    "SongprintError": "errors",
    "Store": "store",
    "compare": "comparison",
    "duplicates": "duplicate_detection",
    "evaluate": "evaluation.experiment",
    "fingerprint": "fingerprinting.extract",
    "identify": "identification",
    "identify_samples": "identification",
    "index": "indexing",
    "iter_matches": "identification",
    "local_cluster": "execution.cluster",
}


# PEP 562 by hand: the package lazy_loader would be one more dependency in place of these lines. A type checker does not
# see it: it knows the names from the imports above, and reports any other one.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
