# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The user's text, row by row: plain files, JSONL of texts and of conversations, and folders of them.

A conversation is what NeMo's and Megatron-Bridge's chat datasets take: `messages` (or `conversation`) with roles and
contents, `conversations` as ShareGPT has them, or `input` and `output`.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.tokenizer import check_messages
from nemo_elastic.io.read import open_regular, read_text

#: Of a file of text, which is read whole.
MAX_BYTES = 2**30
#: Bytes of a line, and characters of a document: a tokenizer takes up to 200 bytes of memory for each.
MAX_DOCUMENT = 2**24
#: characters that are tokenised together
BATCH = 2**20
#: A document is held out if its rank, from 0 to 2**64, is below: six in a hundred.
HELD_OUT = 60 * 2**64 // 1000
#: maximum nesting of a conversation; JSON readers and writers fail at some hundreds
_NESTED = 64
# Installed packages are not the standard library; tests and lib2to3 are absent from many installations;
# encodings is tables of numbers, pydoc_data one huge file of help texts; config-* and _sysconfigdata* describe the
# machine and not Python.
_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib2to3"}
_LEFT_OUT |= {"encodings", "pydoc_data"}
_MACHINE = ("config-", "_sysconfigdata")
# All plain text but .jsonl, which has one document per line.
SUFFIXES = (".txt", ".md", ".rst", ".py", ".jsonl")
#: roles as data sets name them -> as chat templates do
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
#: of a row that are read; those that have turns, the first that is there counts
_TURNS = ("messages", "conversation", "conversations")
_FIELDS = ("text", *_TURNS, "input", "output", "system", "tools")
_NO_ROW = (
    "no object with a field 'text' that is a string, nor a conversation: 'messages', 'conversations', or 'input' and "
    "'output'"
)


Item = TypeVar("Item")


@dataclass(frozen=True)
class Chat:
    """A conversation.

    Attributes:
        messages: each with `role` and `content`.
        tools: the assistant's tools, if the row has them.
        pair: question and answer, where the row had no more than `input` and `output`.
    """

    messages: list[dict[str, Any]]
    tools: Any = None
    pair: tuple[str, str] | None = None

    @property
    def is_answered(self) -> bool:
        """Whether there is an assistant's message and no empty one."""
        answers = [m for m in self.messages if m["role"] == "assistant"]
        return bool(answers) and all(m["content"].strip() or m.get("tool_calls") for m in answers)


@dataclass(frozen=True)
class Row:
    """One document.

    Attributes:
        path: its file.
        name: its path relative to its source, and its line.
        line: its number in the file; 0 of a file that is one document.
        text: the document, where it is no conversation.
        chat: the conversation.
        end: bytes of the file up to the end of the row.
    """

    path: str
    name: str
    line: int = 0
    text: str = ""
    chat: Chat | None = None
    end: int = 0

    @property
    def where(self) -> str:
        """Its file and its line, for errors."""
        return f"{self.path} line {self.line}" if self.line else self.path


# ------------------------------------------------------------------ train and validation


def rank_of(key: str) -> int:
    """The hash of a key, from 0 to 2**64: a document or a question is held out if it is low."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()  # a file's name need not be UTF-8
    return int.from_bytes(digest[:8], "big")


def document_rank(key: str) -> int:
    """The rank of a document by its key."""
    return rank_of(f"held out: {key}")


def hold_out(
    documents: Iterable[Item], key: Callable[[Item], str], limit: int, held_out: list[Item]
) -> Iterator[Item]:
    """Give the training documents in order, and append those for validation, of ranks below the limit, to `held_out`.

    Where the ranks leave one of the two empty, it gets the last document of the other.
    """
    last: list[Item] = []
    for document in documents:
        if document_rank(key(document)) < limit:
            held_out.append(document)
        else:
            yield from last
            last = [document]
    if not last and len(held_out) > 1:
        last = [held_out.pop()]
    elif last and not held_out:
        held_out.append(last.pop())
    yield from last


def drawn(items: Sequence[Item], seed: int = 0) -> Iterator[Item]:
    """All items in an order that the seed draws, so that the first of them are a sample of all.

    The items may be filled in until the first is asked for.
    """
    for at in np.random.default_rng(seed).permutation(len(items)):
        yield items[at]


# ------------------------------------------------------------------ files


def find_files(sources: Iterable[str | Path]) -> list[tuple[Path, str]]:
    """The files that are meant, each with its name.

    Raises:
        ElasticError: a source is missing, of an unknown kind, or a folder without files of a known kind.
    """
    files: list[tuple[Path, str]] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = [p for p in sorted(source.rglob("*")) if _is_wanted(p, source)]
            if not inside:
                raise ElasticError(f"{source}: this folder has no {', '.join(SUFFIXES)} file")
            files += [(p, p.relative_to(source).as_posix()) for p in inside]
        elif source.is_file():
            if source.suffix.lower() not in SUFFIXES:
                raise bad("sources", str(source), f"use {', '.join(SUFFIXES)} files, or a folder of them")
            files.append((source, source.name))
        else:
            raise ElasticError(f"{source}: no such file or folder")
    return files


def _is_wanted(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(root).parts)
    return not hidden and path.is_file() and path.suffix.lower() in SUFFIXES


def size_of(path: Path) -> int:
    """Bytes of a file.

    Raises:
        ElasticError: the system does not say.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise ElasticError(f"{path}: cannot be read ({error.strerror})") from None


def holds_chat(files: Iterable[tuple[Path, str]]) -> bool:
    """Whether the first row of any .jsonl file is a conversation.

    Raises:
        ElasticError: it is no row.
    """
    rows = (next(read_rows(path, name), None) for path, name in files if path.suffix.lower() == ".jsonl")
    return any(row is not None and row.chat is not None for row in rows)


def read_rows(path: Path, name: str) -> Iterator[Row]:
    """The documents of a file, in order.

    Raises:
        ElasticError: a file is not UTF-8, or cannot be read; a line is not JSON, or no document.
    """
    try:
        if path.suffix.lower() == ".jsonl":
            yield from _read_lines(path, name)
        else:
            text = read_text(path, MAX_BYTES, "utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
            if text:
                yield Row(str(path), name, text=text, end=size_of(path))
    except UnicodeDecodeError as error:
        raise ElasticError(f"{path}: not UTF-8 at byte {error.start}; convert the file or leave it out") from None
    except OSError as error:
        raise ElasticError(f"{path}: cannot be read ({error.strerror})") from None


def read_all(files: Iterable[tuple[Path, str]]) -> Iterator[Row]:
    """The documents of files, in order; see `find_files` and `read_rows`."""
    return (row for path, name in files for row in read_rows(path, name))


def read_stdlib() -> Iterator[Row]:
    """The standard library of the Python that runs, a module a row."""
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
        yield Row(str(path), "/".join(parts), text=text)
    if not count:
        raise ElasticError(f"{root}: this Python comes without the sources of its standard library; name some sources")


def unique(rows: Iterable[Row]) -> Iterator[Row]:
    """Drop empty texts and repeats, as a copy in the other split would leak, and tell equal names apart."""
    texts: set[str] = set()
    names: dict[str, int] = {}
    for row in rows:
        if not row.text.strip() or row.text in texts:
            continue
        texts.add(row.text)
        names[row.name] = times = names.get(row.name, 0) + 1
        yield row if times == 1 else replace(row, name=f"{row.name}~{times}")


def _read_lines(path: Path, name: str) -> Iterator[Row]:
    with open_regular(path) as stream:
        number = end = 0
        while line := stream.readline(MAX_DOCUMENT + 1):
            encoding = "utf-8" if number else "utf-8-sig"
            number, end = number + 1, end + len(line)
            row = Row(str(path), f"{name}#{number}", number, end=end)
            if len(line) > MAX_DOCUMENT:
                raise oversized(row.where)
            try:
                text = line.decode(encoding)
            except UnicodeDecodeError as error:
                raise ElasticError(f"{row.where}: not UTF-8 at byte {error.start} of the line") from None
            if text.strip():
                yield _filled(row, text)


def oversized(where: str) -> ElasticError:
    """The error for a line or a text of more than `MAX_DOCUMENT`."""
    return ElasticError(
        f"{where}: longer than {MAX_DOCUMENT >> 20} MiB, the most for a document; split it into several documents"
    )


def grouped(items: Iterable[Item], size: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """Items in order, in groups that end where their sizes reach `most`."""
    group: list[Item] = []
    total = 0
    for item in items:
        group.append(item)
        total += size(item)
        if total >= most:
            yield group
            group, total = [], 0
    if group:
        yield group


def _filled(row: Row, line: str) -> Row:
    """The row with the record of its JSON line."""
    try:
        record = json.loads(line)
    except ValueError:
        raise ElasticError(f"{row.where}: not JSON") from None
    except RecursionError:
        raise ElasticError(f"{row.where}: nested too deep to be read") from None
    record = record if isinstance(record, Mapping) else {}
    try:
        for name in _FIELDS:
            _check_values(name, record.get(name))
        if isinstance(record.get("text"), str):
            return replace(row, text=record["text"])
        chat = _chat(record)
    except ElasticError as exc:
        raise exc.within(row.where) from None
    if chat is None:
        raise ElasticError(f"{row.where}: {_NO_ROW}")
    return replace(row, chat=chat)


def _chat(record: Mapping[str, Any]) -> Chat | None:
    """The conversation of a row; None where it has none."""
    turns = next((record[key] for key in _TURNS if record.get(key)), None)
    pair = record.get("input"), record.get("output")
    if turns is None and all(isinstance(part, str) for part in pair):
        turns = zip(("user", "assistant"), pair, strict=True)
        return Chat([{"role": role, "content": text} for role, text in turns], pair=(str(pair[0]), str(pair[1])))
    if turns is None:
        return None
    messages = check_messages([_message(turn) for turn in turns] if isinstance(turns, list) else turns)
    system = record.get("system")
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return Chat(messages, record.get("tools") or None)


def _check_values(name: str, value: Any, levels: int = _NESTED) -> None:
    """Refuse what cannot be written again: half of a surrogate pair, and values nested too deep."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise bad(name, value[exc.start : exc.end], "text that UTF-8 can write") from None
    elif isinstance(value, (Mapping, list)):
        if not levels:
            raise bad(name, value, f"at most {_NESTED} levels of lists and objects")
        for part in (*value, *value.values()) if isinstance(value, Mapping) else value:
            _check_values(name, part, levels - 1)


def _message(turn: Any) -> Any:
    """A turn with `role` and `content`, whatever the row calls them."""
    if not isinstance(turn, Mapping):
        return turn
    if "from" in turn and "value" in turn:
        turn = {"role": turn["from"], "content": turn["value"]}
    role = turn.get("role")
    if isinstance(role, str):
        turn = {**turn, "role": _ROLES.get(role.lower(), role.lower())}
    return {**turn, "content": ""} if turn.get("content") is None and turn.get("tool_calls") else turn
