# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pipes, devices and endless files under the name of a file: one line at once, never a wait."""

from __future__ import annotations

import os
import socket

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.bounded import SMALL, open_regular, read_bytes, read_text

READERS = (open_regular, read_bytes, read_text)


@pytest.mark.parametrize("read", READERS)
def test_only_regular_files_are_read(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "socket"))
    for path, word in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path / "link", "a pipe"),
        (tmp_path / "socket", "a socket"),
        ("/dev/zero", "a device"),
        ("/dev/tty", "a device"),
    ):
        with pytest.raises(ElasticError, match=rf"^{path}: is {word}; only regular files are read$"):
            read(path)
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


def test_what_becomes_a_pipe_while_it_is_opened_is_not_waited_for(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("x")
    regular = os.stat(file)
    file.unlink()
    os.mkfifo(file)
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)
    with pytest.raises(ElasticError, match="is a pipe"):
        open_regular(file)


@pytest.mark.parametrize("read", [read_bytes, read_text])
def test_a_large_file_is_not_read(tmp_path, read):
    file = tmp_path / "file"
    with open(file, "wb") as stream:
        stream.truncate(40 * 10**9)
    with pytest.raises(ElasticError, match="file: larger than 65536 KiB, which no such file is"):
        read(file)
    os.truncate(file, SMALL + 1)
    with pytest.raises(ElasticError, match="larger than"):
        read(file)
    os.truncate(file, 10)
    assert len(read(file)) == len(read(file, 10)) == 10
    with pytest.raises(ElasticError, match="larger than 0 KiB"):
        read(file, 9)


def test_a_file_without_a_size_is_bounded_too():
    """Files of /proc are regular ones that say 0 bytes."""
    assert read_bytes("/proc/self/status")
    with pytest.raises(ElasticError, match="larger than"):
        read_bytes("/proc/self/status", 10)


def test_text_is_as_it_is_written(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(file) == "\ufeffa\r\nb\rc\n" and read_text(file, encoding="utf-8-sig") == "a\r\nb\rc\n"
    file.write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(file)
