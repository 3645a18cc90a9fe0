# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron's .bin/.idx pair in numpy: the tokens of many documents end to end, and an index of where each starts.

Reading needs no Megatron, so evaluation and ranking run where it is not installed; writing gives the very bytes of
megatron-core's IndexedDatasetBuilder (a test compares them), in a tenth of the time that importing it takes.

Layout of .idx, little endian: magic, version (uint64) 1, code of the token type (uint8), number of sequences (uint64),
number of document marks (uint64), lengths (int32), byte offsets (int64), document marks (int64, from 0).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.read import open_regular

__all__ = ["Index", "check_prefix", "count", "digest_of", "open_tokens", "read_index", "token_dtype", "write_indexed"]

#: endings of files that people name in place of a prefix
NO_PREFIX = {".arrow", ".bin", ".csv", ".gz", ".idx", ".json", ".jsonl", ".parquet", ".txt", ".zst"}
_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
#: Megatron's codes of the types that tokens are stored in.
_DTYPES = {4: np.dtype("<i4"), 8: np.dtype("<u2")}
#: tokens that are looked at together
_LOOK = 2**24
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Index:
    """Content of an .idx file.

    Attributes:
        dtype: Type of a token in the .bin file.
        lengths: Tokens of each sequence.
        documents: Marks between documents, as numbers of sequences; one more than there are documents.
    """

    dtype: np.dtype
    lengths: np.ndarray
    documents: np.ndarray

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return int(self.lengths.sum(dtype=np.int64))


def token_dtype(vocab: int) -> np.dtype:
    """dtype in which Megatron stores tokens of a vocabulary of this size."""
    return np.dtype("<u2") if vocab < 65_500 else np.dtype("<i4")


def write_indexed(prefix: Path, documents: Iterable[np.ndarray], vocab: int) -> None:
    """Write `prefix.bin` and `prefix.idx`, one sequence per document, as they come.

    Args:
        prefix: Path without suffix.
        documents: Token ids of each document, the end-of-document token included.
        vocab: Size of the vocabulary; decides the type of a token.
    """
    dtype, each = token_dtype(vocab), []
    with open(f"{prefix}.bin", "wb") as stream:
        for document in documents:
            stream.write(np.asarray(document, dtype=dtype).tobytes())
            each.append(len(document))
    lengths = np.array(each, dtype="<i4")
    offsets = np.zeros(len(each), dtype="<i8")
    np.cumsum(lengths[:-1], out=offsets[1:], dtype=np.int64)
    with open(f"{prefix}.idx", "wb") as stream:
        stream.write(_HEADER.pack(_MAGIC, 1, _CODES[dtype], len(each), len(each) + 1))
        for part in (lengths, offsets * dtype.itemsize, np.arange(len(each) + 1, dtype="<i8")):
            stream.write(part.tobytes())


def digest_of(prefix: Path) -> str:
    """SHA-256 (hex) of `prefix.bin`, for files that we wrote."""
    total = hashlib.sha256()
    with open(f"{prefix}.bin", "rb") as stream:
        while block := stream.read(2**24):
            total.update(block)
    return total.hexdigest()


def read_index(prefix: Path) -> Index:
    """Read and check `prefix.idx` against the size of `prefix.bin`.

    Raises:
        ElasticError: If a file is missing, or they are not a sound pair.
    """
    path, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    for file in (path, data):
        if not file.is_file():
            raise ElasticError(f"{file}: no such file")
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        dtype, sequences, marks = _header(path, stream.read(_HEADER.size))
        raw = np.memmap(stream, np.uint8, mode="r")
    missing = _HEADER.size + 12 * sequences + 8 * marks - size
    if missing > 0:
        raise ElasticError(f"{path}: cut short")
    if -missing not in (0, sequences):  # a mode of each sequence may follow, of multimodal data; nothing here needs it
        raise ElasticError(f"{path}: longer than the {sequences} sequences of its header")
    start = _HEADER.size
    lengths = np.frombuffer(raw, "<i4", sequences, start)
    offsets = np.frombuffer(raw, "<i8", sequences, start + 4 * sequences)
    documents = np.frombuffer(raw, "<i8", marks, start + 12 * sequences)
    ends = np.cumsum(lengths, dtype=np.int64) * dtype.itemsize
    sound = sequences and marks and (lengths >= 0).all() and (np.diff(documents) >= 0).all()
    sound = sound and documents[0] == 0 and documents[-1] == sequences
    sound = sound and offsets[0] == 0 and (offsets[1:] == ends[:-1]).all() and ends[-1] == data.stat().st_size
    if not sound:
        raise ElasticError(f"{path}: does not fit {data.name}; one of the two is damaged or from another build")
    return Index(dtype, lengths, documents)


def check_prefix(where: str, prefix: str) -> None:
    """Raise for a file where the prefix of a pair of token files is asked for; on a cluster, by its name alone.

    Raises:
        ElasticError: it is text, or one of the two.
    """
    path = Path(prefix)
    if path.suffix in NO_PREFIX or (path.is_file() and not Path(f"{prefix}.idx").is_file()):
        allowed = "the prefix of Megatron's token files, which end in .bin and .idx; text must be converted first"
        raise bad(where, prefix, allowed)


def count(prefix: Path) -> tuple[int, int]:
    """Numbers of tokens and sequences, from the header of `prefix.idx` and the size of `prefix.bin`.

    The rest of the index is not read: a corpus has gigabytes.

    Raises:
        ElasticError: If a file is missing, or the header is not Megatron's.
    """
    path, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    if not data.is_file():
        raise ElasticError(f"{data}: no such file")
    with open_regular(path) as stream:
        dtype, sequences, _ = _header(path, stream.read(_HEADER.size))
    return data.stat().st_size // dtype.itemsize, sequences


def _header(path: Path, raw: bytes) -> tuple[np.dtype, int, int]:
    """Type of a token, number of sequences, number of document marks."""
    if len(raw) < _HEADER.size or not raw.startswith(_MAGIC):
        raise ElasticError(f"{path}: not a Megatron index")
    _, version, code, sequences, marks = _HEADER.unpack_from(raw)
    if version != 1 or code not in _DTYPES:
        raise ElasticError(f"{path}: version {version}, token type {code}; only version 1 of uint16 or int32 is read")
    return _DTYPES[code], sequences, marks


def open_tokens(prefix: Path, vocab: int | None = None) -> np.ndarray:
    """All tokens of a pair, end to end, as a read-only memory map of uint16 or int32.

    Args:
        prefix: Path without suffix.
        vocab: Size of the vocabulary; if given, every token is checked against it.

    Raises:
        ElasticError: If a file is missing, they are not a sound pair, or a token is not in the vocabulary.
    """
    index = read_index(prefix)
    if not index.tokens:
        raise ElasticError(f"{prefix}.bin: empty")
    with open_regular(f"{prefix}.bin") as stream:
        tokens = np.memmap(stream, dtype=index.dtype, mode="r")
    if vocab is None:
        return tokens
    for at in range(0, len(tokens), _LOOK):
        part = tokens[at : at + _LOOK]
        low, high = int(part.min()), int(part.max())
        if low < 0 or high >= vocab:
            raise bad(f"{prefix}.bin", low if low < 0 else high, f"tokens are 0 to {vocab - 1}; the data is damaged")
    return tokens
