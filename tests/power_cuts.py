"""What a power cut can leave of a store: the changes of a job are recorded, and replayed with some of them lost.

The disk is that of POSIX and no better. The bytes of a file are safe after an fsync of the file; a name that was made,
replaced or deleted is safe after an fsync of its folder. Before that, any part of them may be lost, in any order.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fault_points import Call, Do, intercept

# What is on a disk: a file's bytes or `None` for a folder, by path in the store.
Tree = dict[str, bytes | None]


@dataclass(eq=False)
class _File:
    """A file, whatever its names are.

    Parameters
    ----------
    data, safe
        Its bytes as processes see them, and those that are on the disk.
    """

    data: bytes
    safe: bytes


@dataclass(frozen=True, eq=False)
class _Change:
    """A name that was given to a file or folder, or taken away: not yet on the disk.

    Parameters
    ----------
    names
        What each path is from now on: a file, `_FOLDER`, or `None` for nothing. A rename changes two at once.
    """

    names: dict[str, _File | str | None]


_FOLDER = "folder"


class Recorder:
    """Record what a job changes below a folder, and when it forces what to the disk."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)
        self.start = read_tree(self._root)
        self.calls: list[Any] = []

    def __call__(self, call: Call, do: Do) -> Any:
        before = read_logs(self._root) if call.name in ("delta create", "delta commit", "delta checkpoint") else {}
        path = os.path.relpath(call.path, self._root)
        if call.name == "mkdir" and os.path.exists(call.path):
            return do()
        result = do()
        if call.name.startswith("delta") and call.changes:
            # Delta writes each file under another name, does not sync it, and renames it
            for name, data in sorted(read_logs(self._root).items(), key=lambda item: ("/_last" in item[0], item[0])):
                if before.get(name, b"") != data:
                    self.calls += [("create", name), ("write", name, data)]
        elif call.name == "write":
            self.calls.append(("write", path, call.data))
        elif call.name == "rename":
            self.calls.append(("rename", path, os.path.relpath(call.to, self._root)))
        elif call.changes or call.name == "fsync":
            self.calls.append((call.name, path))
        return result


def read_tree(root: Path) -> Tree:
    """All files and folders below a folder."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None for path in root.rglob("*")
    }


def read_logs(root: Path) -> dict[str, bytes]:
    """The files of all logs."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("_delta_log/*")
        if "#" not in path.name
    }


@dataclass
class _Disk:
    """A disk during a job.

    Parameters
    ----------
    safe
        What each name is on the disk.
    seen
        What each name is to processes.
    pending
        Changes of names that are not on the disk, in their order.
    """

    safe: dict[str, _File | str]
    seen: dict[str, _File | str]
    pending: list[_Change] = field(default_factory=list)

    @classmethod
    def of(cls, tree: Tree) -> _Disk:
        names: dict[str, _File | str] = {
            name: _FOLDER if data is None else _File(data, data) for name, data in tree.items()
        }
        return cls(dict(names), dict(names))

    def change(self, names: dict[str, _File | str | None]) -> None:
        self.pending.append(_Change(names))
        apply(self.seen, names)

    def play(self, call: tuple[Any, ...]) -> None:
        name, path, *more = call
        if name == "create":
            self.change({path: _File(b"", b"")})
        elif name == "write":
            file = self.seen[path]
            assert isinstance(file, _File)
            file.data += more[0]
        elif name == "rename":
            self.change({path: None, more[0]: self.seen[path]})
        elif name == "mkdir":
            self.change({path: _FOLDER})
        elif name in ("unlink", "rmdir"):
            self.change({path: None})
        elif name == "fsync" and isinstance(file := self.seen.get(path), _File):
            file.safe = file.data
        elif name == "fsync":  # a folder: the names in it
            done = [
                change for change in self.pending if path in {os.path.dirname(name) or "." for name in change.names}
            ]
            for change in done:
                apply(self.safe, change.names)
            self.pending = [change for change in self.pending if change not in done]

    def cuts(self) -> Iterator[Tree]:
        """What may be left when the power fails now."""
        pending = self.pending
        subsets = [[], pending]
        subsets += [[one] for one in pending]
        subsets += [pending[:place] + pending[place + 1 :] for place in range(len(pending))]
        for some in subsets:
            names: dict[str, _File | str] = dict(self.safe)
            for change in some:
                apply(names, change.names)
            for share in (0.0, 0.5, 1.0):
                yield left(names, share)


def apply(names: dict[str, _File | str], changes: dict[str, _File | str | None]) -> None:
    for path, what in changes.items():
        if what is None:
            names.pop(path, None)
        else:
            names[path] = what


def left(names: dict[str, _File | str], share: float) -> Tree:
    """The tree of some names: what lies in a folder that is not there is lost, and so is a part of what is not safe."""
    tree: Tree = {}
    for path in sorted(names):
        folder = os.path.dirname(path)
        if folder and folder not in tree:
            continue
        what = names[path]
        if isinstance(what, _File):
            tree[path] = what.data[: len(what.safe) + int(share * (len(what.data) - len(what.safe)))]
        else:
            tree[path] = None
    return tree


def power_cuts(root: str, job: Callable[[], Any]) -> Iterator[tuple[str, Tree]]:
    """Run a job, and give each different tree that a power cut at any moment may leave, and the last call before."""
    recorder = Recorder(root)
    with intercept(root, recorder):
        job()
    disk = _Disk.of(recorder.start)
    known = set()
    for call in recorder.calls:
        disk.play(call)
        if call[0] == "write" and "/.tmp-" in f"/{call[1]}" and disk.seen[call[1]].safe == b"":
            continue  # the bytes of a temporary file matter when it is renamed
        for tree in disk.cuts():
            key = hash(tuple(sorted(item for item in tree.items() if ".tmp-" not in item[0])))
            if key not in known:
                known.add(key)
                yield f"{call[0]} {call[1]}", tree


def write_tree(root: str, tree: Tree) -> None:
    """Put files and folders in place of those that are there."""
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root)
    for name, data in sorted(tree.items()):
        path = os.path.join(root, name)
        if data is None:
            os.mkdir(path)
        else:
            with open(path, "wb") as file:
                file.write(data)
