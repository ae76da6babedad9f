"""A plugin for beets: name untagged files from your own songprint store.

``beet import`` asks the store about files without a title, before beets looks for them elsewhere; ``beet songprint``
does the same for files that are in the library already. contrib/README.md says how to install it.
"""

from __future__ import annotations

from collections.abc import Iterable
from optparse import Values
from typing import Any

from beets.importer import ImportSession, ImportTask
from beets.library import Item, Library
from beets.plugins import BeetsPlugin
from beets.ui import Subcommand, should_write

import pipeline

# The columns of a store's songs, and the fields of beets.
FIELDS = {
    "title": "title",
    "artist": "artist",
    "album": "album",
    "album_artist": "albumartist",
    "track": "track",
    "year": "year",
    "isrc": "isrc",
    "musicbrainz_recording_id": "mb_trackid",
}


class SongprintPlugin(BeetsPlugin):
    """Configured in the section ``songprint`` of beets' configuration.

    Parameters
    ----------
    store
        Folder or URL of the store.
    auto
        Whether ``beet import`` asks the store.
    false_positives
        Share of files with songs that the store does not have that may be named all the same.
    min_share
        Share of a file that the song must play in: a jingle inside a programme does not name the programme.
    """

    def __init__(self) -> None:
        super().__init__()
        self.config.add({"store": "", "auto": True, "false_positives": 0.001, "min_share": 0.5})
        if self.config["auto"].get(bool):
            self.register_listener("import_task_start", self.name_imported)

    def commands(self) -> list[Subcommand]:
        """``beet songprint [QUERY]``."""
        command = Subcommand("songprint", help="name files without a title from a songprint store")
        command.func = self.name_library
        return [command]

    def name_imported(self, task: ImportTask, session: ImportSession) -> None:
        """Fill in the tags of the files of an import, before beets looks for candidates."""
        for _ in self.name_items(task.items if task.is_album else [task.item]):
            pass

    def name_library(self, library: Library, options: Values, words: list[str]) -> None:
        """Fill in the tags of files in the library, and write them to the files if beets is set to."""
        for item in self.name_items(library.items(words)):
            item.store()
            if should_write():
                item.try_write()

    def name_items(self, items: Iterable[Item]) -> Iterable[Item]:
        """Name the items without a title; those that were named, one after the other."""
        untitled = {item.filepath: item for item in items if not item.title}
        if not untitled:
            return
        store = self.config["store"].as_filename()
        try:
            songs = pipeline.Store.open(store).snapshot()
            query = pipeline.Query(false_positives=self.config["false_positives"].get(float))
            rows = pipeline.identify(list(untitled), songs, query).to_pylist()
        except pipeline.SongprintError as error:
            self._log.warning("{}", error)
            return
        tags = {song.pop("song_id"): song for song in songs.songs(["song_id", *FIELDS]).to_pylist()}
        for path, item in untitled.items():
            matches = [row for row in rows if row["clip"] == str(path) and row["status"] == "matched"]
            if song_id := self.song_of(matches, item.length):
                fill(item, tags[song_id])
                self._log.info("{}: {} - {}", path, item.artist, item.title)
                yield item
            else:
                self._log.info("{}: no song of the store", path)

    def song_of(self, matches: list[dict[str, Any]], length_s: float) -> int | None:
        """The one song that plays in enough of a file."""
        played: dict[int, float] = {}
        for match in matches:
            span_s = match["clip_end_s"] - match["clip_start_s"]
            played[match["song_id"]] = played.get(match["song_id"], 0.0) + span_s
        longest = max(played, key=lambda song_id: played[song_id], default=None)
        enough_s = self.config["min_share"].get(float) * length_s
        return longest if longest is not None and played[longest] >= enough_s else None


def fill(item: Item, song: dict[str, Any]) -> None:
    """Copy what is known of a song into the fields that are empty."""
    for column, field in FIELDS.items():
        if song[column] and not item[field]:
            item[field] = song[column]
