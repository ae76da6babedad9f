"""Draw docs/peaks.png and docs/agreement.png, the README's pictures, from the demo's library: `make reference`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from pipeline import plots
from pipeline.audio import decoding
from pipeline.fingerprinting.extract import constellation
from pipeline.matching import search
from pipeline.matching.clip import Clip
from pipeline.matching.voting import TICKS, find_hits
from pipeline.simulation import acoustics, demo

FOLDER = Path(__file__).parent
SONG_ID, START_S, LENGTH_S = 3, 20.0, 8.0


def main() -> None:
    """Draw both pictures."""
    library = demo.open_store(FOLDER.parent / "demo").snapshot()
    settings = library.settings
    rate = settings.sample_rate
    path = library.songs(["song_id", "path"]).to_pylist()[SONG_ID - 1]["path"]
    song, _ = decoding.read(path, rate, START_S, START_S + LENGTH_S)
    ax = plots.spectrogram(song, settings, START_S)
    plots.constellation(constellation(iter([song]), settings), settings, START_S, ax)
    ax.set_title("Eight seconds of music and its peaks")
    plt.savefig(FOLDER / "peaks.png", dpi=80)

    clip = Clip(acoustics.recording(song, 5.0, 1, rate), settings)
    hashes = clip.query_hashes(search.FINE)
    hits = find_hits(hashes, library.postings(np.unique(hashes.hash)))
    n_hits = np.bincount(hits.song_id)
    n_hits[SONG_ID] = 0
    _, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained", sharey=True)
    for ax, song_id, name in zip(
        axes, (SONG_ID, int(n_hits.argmax())), ("the right song", "the next best song"), strict=True
    ):
        ticks = hits.delta[hits.song_id == song_id] + clip.lead * TICKS / settings.hop
        plots.agreement(ticks * settings.hop / TICKS / rate, ax)
        ax.set_title(f"Hits of a noisy clip in {name}")
    plt.savefig(FOLDER / "agreement.png", dpi=80)


if __name__ == "__main__":
    main()
