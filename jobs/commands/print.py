"""`songprint print`: the fingerprint of a file, for other programs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from jobs import options


def print_(
    path: Annotated[str, typer.Argument(metavar="FILE", help="An audio file, local or a URL.")],
    limit_s: options.LimitS = None,
    stream: options.Stream = None,
) -> None:
    """Print the peaks and hashes of a file as JSON.

    No store is needed. `peaks` has a frame, a bin and a level for each peak, `hashes` a hash and the frame of its
    anchor for each landmark. A frame lasts `frame_s` seconds, a bin is `bin_hz` wide. The hashes are those that `index`
    would store.

    Example: songprint print song.flac | jq '.hashes.hash | length'
    """
    from pipeline import catalog
    from pipeline.fingerprinting.extract import fingerprint
    from pipeline.fingerprinting.settings import Settings
    from pipeline.paths import printable_path

    settings = Settings()
    with catalog.local_copy(path) as local:
        found = fingerprint(local, settings, limit_s, stream=stream)
    row: dict[str, Any] = {
        "path": printable_path(path),
        "duration_s": found.decoded.duration_s,
        "decoder": found.decoded.decoder,
        "sample_rate": found.decoded.sample_rate,
        "channels": found.decoded.channels,
        "decoded_share": found.decoded.decoded_share,
        "settings": settings.to_dict(),
        "frame_s": settings.frame_s,
        "bin_hz": settings.sample_rate / settings.window,
        "peaks": {name: getattr(found.peaks, name).tolist() for name in ("frame", "bin", "level")},
        "hashes": {"hash": found.hashes.hash.tolist(), "frame": found.hashes.offset.tolist()},
    }
    print(json.dumps(row))
