# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Opening what others wrote: regular files, and no more of them than any has.

A pipe under the name of a file would keep a reader waiting for ever, a device may have no end, and a sparse file of
many gigabytes takes no room on the disk, but all of the memory. Links are followed: shared file systems and Hugging
Face's cache are made of them.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from nemo_elastic.errors import ElasticError

__all__ = ["check_no_holes", "open_regular", "read_bytes", "read_text"]

#: bytes of a file that is written for people or made of names: a tokenizer of a large vocabulary has half of it
SMALL = 64 * 2**20
#: a file of so many bytes is nobody's if fewer than one in so many are on the disk: holes read as zeros
_LARGE, _HOLES = 2**30, 4
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading, without waiting and without touching what is no regular file: all but our own are.

    Args:
        path: The file, or a link to one.

    Returns:
        The open file, in bytes.

    Raises:
        ElasticError: A pipe, a socket or a device.
        OSError: It is missing, a folder, or cannot be read.
    """
    _check_regular(path, os.stat(path).st_mode)  # first: to open a device can do something
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_regular(path, os.fstat(handle).st_mode)  # it may have been replaced since
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _check_regular(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise ElasticError(f"is {_KINDS.get(stat.S_IFMT(mode), 'no file')}; only regular files are read", path)


def check_no_holes(path: str | os.PathLike[str], status: os.stat_result, large: int = _LARGE) -> int:
    """Check that a file has the bytes that it says it has, before there is room for them.

    Args:
        path: The file, for the error.
        status: What the system says of it.
        large: Bytes up to which it may have holes.

    Returns:
        Its bytes.

    Raises:
        ElasticError: It is mostly holes.
    """
    held = status.st_blocks * 512  # none where a file system does not say
    if status.st_size > large and 0 < held * _HOLES < status.st_size:
        raise ElasticError(f"is mostly holes: {held} of its {status.st_size} bytes are on the disk", path)
    return status.st_size


def read_bytes(path: str | os.PathLike[str], most: int = SMALL) -> bytes:
    """Read a file that has to be small, whole.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        ElasticError: It is larger, or no regular file.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
    if content is None or len(content) > most:  # it may have grown since
        raise ElasticError(f"larger than {most >> 10} KiB, which no such file is", path)
    return content


def read_text(path: str | os.PathLike[str], most: int = SMALL, encoding: str = "utf-8") -> str:
    """Read a text file that has to be small; newlines stay as they are.

    Args:
        path: The file.
        most: Bytes that it may have.
        encoding: `utf-8`, or `utf-8-sig` where a byte order mark may begin it.

    Raises:
        ElasticError: It is larger, or no regular file.
        OSError: It cannot be read.
        UnicodeDecodeError: It is not in that encoding.
    """
    return read_bytes(path, most).decode(encoding)
