# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tokenise large sources: in parts, over processes, with every finished part kept until the folder is written.

A part is so many bytes of the sources. Its file has a name of all that decides its content: the tokenizer, the
settings, and name, size and time of the files that it was read from. So a run that was killed goes on from what is
there, a corrected line makes its own part again, and the number of processes changes nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.tokenizer import FamilyTokenizer
from nemo_elastic.io.outputs import Output, is_empty, sign, why_kept
from nemo_elastic.io.write import atomic_write, remove

from .chat_folder import HALVES
from .corpus import Document, cut_in_blocks, rank_of
from .encoded import Encoded, Tally, encode_rows
from .indexed import token_dtype
from .sources import Piece, Row, grouped, read_rows

__all__ = ["PART", "Job", "Part", "tokenise"]

#: bytes of the sources in a part
PART = 2**25
#: of the form of a part's file
_VERSION = 1
UNFINISHED = Output(
    "an unfinished data folder", r"[0-9a-f]{32}\.npz|\.[0-9a-f]{32}\.npz\.[0-9a-f]{8}\.(?:lock|tmp|old)"
)


@dataclass(frozen=True)
class Job:
    """What is done with every row.

    Attributes:
        tokenizer: its folder.
        digest: of the tokenizer's files.
        vocab: size of its vocabulary.
        chat: whether rows are conversations; no other rows are taken then, and none of these otherwise.
        length: most tokens of a conversation; too_long: what is done with a longer one.
        held_out: documents of a million that are kept away from training.
        blocks: whether long texts are cut into documents: there are too few to hold some out.
    """

    tokenizer: str
    digest: str
    vocab: int
    chat: bool
    length: int
    too_long: str
    held_out: int
    blocks: bool

    def key(self, pieces: Sequence[Piece]) -> str:
        """The name of a part's file."""
        files = [(p.name, p.start, p.stop, os.stat(p.path).st_size, os.stat(p.path).st_mtime_ns) for p in pieces]
        settings = {name: value for name, value in asdict(self).items() if name != "tokenizer"}
        return hashlib.sha256(json.dumps([_VERSION, settings, files]).encode()).hexdigest()[:32]


class Part:
    """A finished part.

    Args:
        path: its file.

    Attributes:
        tally: what was left out.
        lengths: of each half, the tokens of each document.

    Raises:
        ElasticError: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        tally, *lengths = self._read("tally", *(f"{half}_lengths" for half in HALVES))
        self.tally: dict[str, Any] = json.loads(tally.tobytes())
        self.lengths: dict[str, np.ndarray] = dict(zip(HALVES, lengths, strict=True))

    def _read(self, *names: str) -> list[np.ndarray]:
        """Some of the arrays; the file does not stay open: there may be thousands."""
        try:
            with np.load(self._path, allow_pickle=False) as arrays:
                return [arrays[name] for name in names]
        except (OSError, ValueError, KeyError, BadZipFile) as exc:
            raise ElasticError(f"{self._path}: damaged ({exc}); remove it, and it is made again") from None

    def documents(self, half: str) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
        """Token ids, which of them count, and the row as JSON, of each document; the latter are empty for texts."""
        ids, counts, text = self._read(half, f"{half}_counts", f"{half}_rows")
        rows, end = text.tobytes().decode().split("\n"), 0
        for at, length in enumerate(self.lengths[half].tolist()):
            start, end = end, end + length
            yield ids[start:end], counts[start:end], rows[at] if len(rows) > at else ""


def tokenise(
    pieces: Sequence[Piece], job: Job, out: Path, workers: int, tell: Callable[[str, float], None]
) -> list[Part]:
    """Make the parts that are not there yet; the caller removes the folder when it has what it wants of them.

    Args:
        pieces: of the sources, none of more than `PART` bytes where it can be cut.
        job: what to do.
        out: the folder of the parts.
        workers: processes; with one it is done in this process.
        tell: called with what is done and the share of bytes.

    Returns:
        The parts, in the order of the pieces.

    Raises:
        ElasticError: a row is no document, or a process ended; the finished parts stay.
    """
    groups = list(grouped(pieces, lambda piece: piece.stop - piece.start, PART))
    paths = [out / f"{job.key(group)}.npz" for group in groups]
    _make(out)
    sizes = [sum(p.stop - p.start for p in group) for group in groups]
    total, done = sum(sizes), sum(s for path, s in zip(paths, sizes, strict=True) if path.is_file())
    tell("tokenising", done / max(total, 1))
    missing = [(g, path, s) for g, path, s in zip(groups, paths, sizes, strict=True) if not path.is_file()]
    try:
        for size in _each(missing, job, min(workers, len(missing))):
            done += size
            tell("tokenising", done / total)
    except BrokenProcessPool:
        raise ElasticError(
            "a process that tokenises has ended, as for want of memory; the same command goes on from what is done, "
            "with fewer --workers in less memory"
        ) from None
    finally:
        if not any(path.is_file() for path in paths):
            remove(out)
    return [Part(path) for path in paths]


def _make(out: Path) -> None:
    if os.path.lexists(out) and not is_empty(out):
        if (why := why_kept(out, UNFINISHED)) is not None:
            raise ElasticError(f"{out}: {why}; move it away, finished parts are kept there")
        return
    out.mkdir(parents=True, exist_ok=True)
    sign(out, UNFINISHED, whole=False)


def _each(missing: Sequence[tuple[list[Piece], Path, int]], job: Job, workers: int) -> Iterator[int]:
    """Make parts, and give the bytes of each that is done."""
    if workers <= 1:
        _open(job)
        for group, path, size in missing:
            _make_part(group, path)
            yield size
        return
    context = multiprocessing.get_context("spawn")  # the tokenizer's threads do not survive a fork
    with ProcessPoolExecutor(workers, context, _open_worker, (job,)) as pool:
        running = {pool.submit(_make_part, group, path): size for group, path, size in missing}
        try:
            for done in as_completed(running):
                done.result()
                yield running[done]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


#: of this process: the job and its tokenizer
_opened: list[Any] = []


def _open(job: Job) -> None:
    _opened[:] = [job, FamilyTokenizer.read(Path(job.tokenizer))]


def _open_worker(job: Job) -> None:
    """A worker tokenises in one thread, leaves Ctrl-C to the process that started it, and ends when that has ended."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    _open(job)


def _make_part(pieces: Sequence[Piece], path: Path) -> None:
    """Tokenise a part and write its file, whole or not at all."""
    job, tokenizer = _opened
    tally = Tally()
    halves: dict[str, list[Encoded]] = {half: [] for half in HALVES}
    limit = job.held_out * 2**64 // 10**6
    for made in encode_rows(_rows(pieces, job), tokenizer, tokenizer.end_id, tally, job.length, job.too_long):
        assert made.row is not None
        halves["val" if rank_of(made.row.name) < limit else "train"].append(made)
    arrays: dict[str, Any] = {"tally": np.frombuffer(json.dumps(tally.to_json()).encode(), np.uint8)}
    for half, documents in halves.items():
        arrays[half] = _joined([d.ids for d in documents], token_dtype(job.vocab))
        arrays[f"{half}_lengths"] = np.array([len(d.ids) for d in documents], dtype=np.int64)
        arrays[f"{half}_counts"] = _joined([d.counts for d in documents if d.counts is not None], np.dtype(bool))
        rows = "\n".join(_as_json(d.row) for d in documents if d.row is not None and d.row.chat is not None)
        arrays[f"{half}_rows"] = np.frombuffer(rows.encode("utf-8", "replace"), np.uint8)
    content = io.BytesIO()
    np.savez(content, **arrays)
    atomic_write(path, content.getvalue())


def _joined(parts: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)


def _rows(pieces: Sequence[Piece], job: Job) -> Iterator[Row]:
    for piece in pieces:
        for row in read_rows(piece):
            if (row.chat is not None) != job.chat:
                here, there = ("a text", "conversations") if job.chat else ("a conversation", "texts")
                raise ElasticError(f"{row.where}: {here} among {there}; make a folder of each")
            if job.blocks and row.chat is None:
                blocks = cut_in_blocks(Document(row.name, row.text))
                yield from (Row(replace(piece, name=block.name), text=block.text) for block in blocks)
            else:
                yield row


def _as_json(row: Row) -> str:
    """A conversation as both hosts' chat datasets read it."""
    assert row.chat is not None
    tools = {"tools": row.chat.tools} if row.chat.tools else {}
    return json.dumps({"messages": row.chat.messages, **tools}, ensure_ascii=False)
