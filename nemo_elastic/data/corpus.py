# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The text that a family is trained on: the standard library of the Python that runs, or the user's files.

The standard library is the default because it is on every machine: real text, no download, and its licence lets it
be read in place. Every document is held out or not by the hash of its name alone, so the split of a file does not
change when other files come or go.
"""

from __future__ import annotations

import hashlib
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nemo_elastic.errors import ElasticError, bad

from .sources import MAX_BYTES, MAX_DOCUMENT, find_files, oversized, read_all, size_of

#: Share of the documents that is held out, in thousandths.
HELD_OUT_PER_MILLE = 60
#: Less text than this makes neither a tokenizer nor a validation set.
MIN_CHARS = 16_384

#: Below this many documents a split by file would be a lottery, so long ones are cut into blocks first.
FEW_DOCUMENTS = 20
_BLOCK_CHARS = 8192

# Installed packages are not the standard library; tests and lib2to3 are absent from many installations;
# encodings is tables of numbers, pydoc_data one huge file of help texts; config-* and _sysconfigdata* describe the
# machine and not Python.
_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib2to3"}
_LEFT_OUT |= {"encodings", "pydoc_data"}
_MACHINE = ("config-", "_sysconfigdata")


@dataclass(frozen=True)
class Document:
    """One piece of text.

    Attributes:
        name: Where it comes from, relative to its source; decides the split.
        text: The text itself.
        held_out: Whether it is kept away from training.
    """

    name: str
    text: str
    held_out: bool = False


@dataclass(frozen=True)
class Corpus:
    """All documents of one data set, in a fixed order.

    Attributes:
        kind: `python-stdlib` or `files`.
        documents: Both splits, in the order of their names.
    """

    kind: str
    documents: tuple[Document, ...]

    @property
    def train(self) -> list[Document]:
        """The documents to train on."""
        return [d for d in self.documents if not d.held_out]

    @property
    def held_out(self) -> list[Document]:
        """The documents kept for validation."""
        return [d for d in self.documents if d.held_out]

    @property
    def bytes(self) -> int:
        """Size of all texts as UTF-8."""
        return sum(len(d.text.encode()) for d in self.documents)

    @property
    def digest(self) -> str:
        """SHA-256 over names, texts and split: equal digests mean equal corpora."""
        total = hashlib.sha256()
        for d in self.documents:
            total.update(_as_bytes(f"{d.name}\0{int(d.held_out)}\0") + hashlib.sha256(d.text.encode()).digest())
        return total.hexdigest()


def read_corpus(sources: Sequence[str | Path] = ()) -> Corpus:
    """Read the user's sources, or the standard library when there are none.

    Args:
        sources: Files (`.txt`, `.md`, `.rst`, `.py`, or `.jsonl` with one object with a field `text` per line), or
            folders, which are searched for such files.

    Returns:
        The corpus, with at least one document in each split.

    Raises:
        ElasticError: If a source is missing, empty, not UTF-8, not of a known kind, or the whole is too short.
    """
    documents = _unique(_read_sources(sources) if sources else _read_stdlib())
    size = sum(len(d.text) for d in documents)
    if size < MIN_CHARS:
        raise bad("sources", f"{size} characters", f"give at least {MIN_CHARS} of text, or no source at all")
    if len(documents) < FEW_DOCUMENTS:
        documents = [block for d in documents for block in cut_in_blocks(d)]
    for d in documents:
        if len(d.text) > MAX_DOCUMENT:
            raise oversized(d.name)
    return Corpus("files" if sources else "python-stdlib", tuple(_split(documents)))


def _read_stdlib() -> Iterator[Document]:
    root = Path(sysconfig.get_paths()["stdlib"])
    count = 0
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if _LEFT_OUT & set(parts) or any(p.startswith(_MACHINE) for p in parts):
            continue
        try:
            with tokenize.open(path) as stream:  # honours a coding line, as Python itself does
                text = stream.read()
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue  # not the user's file and not worth stopping for; the digest records what was read
        count += 1
        yield Document("/".join(parts), text)
    if not count:
        raise ElasticError(f"{root}: this Python comes without the sources of its standard library; name some sources")


def _read_sources(sources: Sequence[str | Path]) -> Iterator[Document]:
    files, size = find_files(sources), 0
    for path, _ in files:
        size += size_of(path)
        if size > MAX_BYTES:
            raise ElasticError(
                f"{path}: with it there are {size >> 20} MiB of text; at most {MAX_BYTES >> 20} MiB are read"
            )
    for row in read_all(files):
        if row.chat is not None:
            raise ElasticError(f"{row.where}: a conversation; give --tokenizer, whose chat template says its text")
        yield Document(row.name, row.text)


def _unique(documents: Iterable[Document]) -> list[Document]:
    """Drop empty texts and repeats, as a copy in the other split would leak, and tell equal names apart."""
    texts: set[str] = set()
    names: dict[str, int] = {}
    kept = []
    for document in documents:
        if not document.text.strip() or document.text in texts:
            continue
        texts.add(document.text)
        names[document.name] = times = names.get(document.name, 0) + 1
        kept.append(document if times == 1 else replace(document, name=f"{document.name}~{times}"))
    return kept


def cut_in_blocks(document: Document) -> Iterator[Document]:
    """Cut a long text at line ends, if possible where a paragraph ends."""
    text, start, number = document.text, 0, 0
    while start < len(text):
        stop = len(text)
        if stop - start > _BLOCK_CHARS * 3 // 2:
            low, high = start + _BLOCK_CHARS // 2, start + _BLOCK_CHARS
            breaks = (text.rfind(mark, low, high) + len(mark) for mark in ("\n\n", "\n", " "))
            stop = next((at for at in breaks if at > low), high)
        yield replace(document, name=f"{document.name}#{number}", text=text[start:stop])
        start, number = stop, number + 1


def rank_of(name: str) -> int:
    """A number from 0 to 2**64 by which a document is held out or not, of its name alone."""
    return int.from_bytes(hashlib.sha256(b"held out: " + _as_bytes(name)).digest()[:8], "big")


def _as_bytes(name: str) -> bytes:
    """The bytes of a file's name, which need not be UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def _split(documents: list[Document]) -> list[Document]:
    ranks = [rank_of(d.name) for d in documents]
    limit = HELD_OUT_PER_MILLE * 2**64 // 1000
    # Small corpora can miss the held-out share altogether: then the lowest hash goes, and one always stays.
    limit = min(max(limit, min(ranks) + 1), max(ranks))
    return [replace(d, held_out=rank < limit) for d, rank in zip(documents, ranks, strict=True)]
