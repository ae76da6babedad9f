"""Slow, plain twins of the fast functions; this file imports nothing from the package."""


def postings(
    contents: dict[int, list[tuple[int, int]]], hashes: set[int], most: int | None = None
) -> list[tuple[int, int, int]]:
    """All (hash, song_id, offset) of some hashes, from each song's list of (hash, offset), sorted."""
    every = sorted((h, song_id, offset) for song_id, pairs in contents.items() for h, offset in pairs if h in hashes)
    counts: dict[int, int] = {}
    for h, _, _ in every:
        counts[h] = counts.get(h, 0) + 1
    return [row for row in every if most is None or counts[row[0]] <= most]
