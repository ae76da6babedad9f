"""Paths: URLs and local names, how they are printed, and what is opened."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

import pytest
from fsspec.registry import _registry

from pipeline.errors import AudioError, ParameterError, RemoteError
from pipeline.paths import (
    audio_error,
    filesystem,
    is_url,
    modified_s,
    open_regular,
    path_is_gone,
    path_text,
    printable_path,
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("s3://bucket/a", True), ("file:///a", True), ("a:b.mp3", False), ("http:x.mp3", False), ("C:/music", False)],
)
def test_a_url_has_a_scheme_and_two_slashes(path: str, expected: bool) -> None:
    assert is_url(path) == expected


@pytest.mark.parametrize("path", ["s3://", "file://", "s3:/bucket/music", "gs:/bucket"])
def test_a_url_that_is_not_whole_is_no_folder_of_that_name(path: str) -> None:
    with pytest.raises(ParameterError, match=r"store: .* is no whole URL; it looks like"):
        path_text(path, "store")


def test_printable_path_keeps_ordinary_names() -> None:
    assert printable_path("/Músïc/日本 ñ.mp3") == "/Músïc/日本 ñ.mp3"
    assert printable_path("a\ud800b") == "a\\ud800b"


def test_a_printed_path_is_found_again(tmp_path: Path) -> None:
    path = str(tmp_path / "caf\udce9.mp3")
    Path(path).touch()
    assert not path_is_gone(path)
    assert not path_is_gone(printable_path(path))
    os.unlink(path)
    assert path_is_gone(printable_path(path))


def test_an_error_of_a_file_is_one_printable_line() -> None:
    message = str(audio_error("caf\udce9\n.mp3", "\x1b[31mbad\nnews"))
    assert message == r"caf\xe9\n.mp3: \x1b[31mbad\nnews"


def test_only_regular_files_are_opened_and_the_descriptor_is_closed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    with open_regular(str(tmp_path / "a")) as (fd, size):
        assert (os.read(fd, 9), size) == (b"12345", 5)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    os.mkfifo(tmp_path / "pipe")
    for path, reason in ((tmp_path / "pipe", "only regular files"), (tmp_path, "a folder"), ("a\0b", "null byte")):
        with pytest.raises(AudioError, match=reason), open_regular(str(path)):
            pass


@pytest.mark.parametrize(
    ("info", "seconds"),
    [
        ({"LastModified": datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC)}, 86400.0),
        ({"created": 5, "mtime": 7.5}, 7.5),
        ({"size": 3}, 0.0),
        ({"mtime": "yesterday"}, 0.0),
    ],
)
def test_the_time_of_change_is_found_under_the_key_of_each_object_store(
    info: dict[str, object], seconds: float
) -> None:
    assert modified_s(info) == seconds


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nosuch://bucket/x", "unknown scheme nosuch://; give a local path, or a URL such as s3://"),
        ("s3://bucket/x", r"s3:// needs a package that is not installed: pip install 'songprint\[s3\]'"),
    ],
)
def test_a_url_that_nothing_here_reads_says_what_to_do(url: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(RemoteError, match=reason):
        filesystem(url)


def test_a_remote_file_systems_own_errors_are_translated_and_those_that_python_has_stay() -> None:
    files, _ = filesystem("http://127.0.0.1:9/x")
    with pytest.raises(RemoteError, match=r"http://127\.0\.0\.1:9/x: .*; check the URL"):
        files.cat_file("http://127.0.0.1:9/x")
    files, name = filesystem("memory://nothing/here")
    with pytest.raises(FileNotFoundError, match="nothing/here"):
        files.cat_file(name)
