# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The user's text, row by row: plain files, JSONL of texts and of conversations, and folders of them.

A conversation is what NeMo's and Megatron-Bridge's chat datasets take: `messages` (or `conversation`) with roles and
contents, `conversations` as ShareGPT has them, or `input` and `output`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.tokenizer import check_messages
from nemo_elastic.io.read import open_regular, read_text

#: Of a file of text, which is read whole.
MAX_BYTES = 2**30
#: Bytes of a line, and characters of a document: a tokenizer takes up to 200 bytes of memory for each.
MAX_DOCUMENT = 2**24
#: characters that are tokenised together
BATCH = 2**20
#: lists and objects of a conversation in each other; what reads and writes JSON ends at some hundreds
_NESTED = 64
# All plain text but .jsonl, which has one document per line.
SUFFIXES = (".txt", ".md", ".rst", ".py", ".jsonl")
#: names that data sets have for who speaks -> those of chat templates
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
        tools: what the assistant may call, if the row has that.
        pair: question and answer, where the row had no more than `input` and `output`.
    """

    messages: list[dict[str, Any]]
    tools: Any = None
    pair: tuple[str, str] | None = None

    @property
    def is_answered(self) -> bool:
        """Whether every assistant's message says something, and there is one."""
        answers = [m for m in self.messages if m["role"] == "assistant"]
        return bool(answers) and all(m["content"].strip() or m.get("tool_calls") for m in answers)


@dataclass(frozen=True)
class Piece:
    """A file, or of a .jsonl file the lines that begin from byte `start` to before byte `stop`."""

    path: str
    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Row:
    """One document.

    Attributes:
        piece: where it is from.
        line: its number in the piece; 0 of a file that is one document.
        text: what it says, where it is no conversation.
        chat: the conversation.
    """

    piece: Piece
    line: int = 0
    text: str = ""
    chat: Chat | None = None

    @property
    def name(self) -> str:
        """Where it comes from, relative to its source; decides the split."""
        at = f"@{self.piece.start}" if self.piece.start else ""
        return f"{self.piece.name}{at}#{self.line}" if self.line else self.piece.name

    @property
    def where(self) -> str:
        """Its file, and its line as the file counts them, for errors: what is before a piece is read for it."""
        return f"{self.piece.path} line {_lines_before(self.piece) + self.line}" if self.line else self.piece.path


def find_files(sources: Iterable[str | Path]) -> list[tuple[Path, str]]:
    """The files that are meant, each with its name.

    Raises:
        ElasticError: a source is missing, of no known kind, or a folder without such files.
    """
    files: list[tuple[Path, str]] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = [p for p in sorted(source.rglob("*")) if _is_wanted(p, source)]
            if not inside:
                raise ElasticError(f"{source}: this folder has no {', '.join(SUFFIXES)} file")
            files += [(p, f"{source.resolve().name}/{p.relative_to(source).as_posix()}") for p in inside]
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


def cut_in_pieces(files: Iterable[tuple[Path, str]], most: int) -> Iterator[Piece]:
    """Files as pieces of at most so many bytes where they are .jsonl files, which alone can be cut."""
    for path, name in files:
        size = size_of(path)
        step = most if path.suffix.lower() == ".jsonl" else max(size, 1)
        for start in range(0, size, step):
            yield Piece(str(path), name, start, min(start + step, size))


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
    jsonl = [Piece(str(path), name, 0, size_of(path)) for path, name in files if path.suffix.lower() == ".jsonl"]
    return any(row.chat is not None for piece in jsonl for row in [next(read_rows(piece), None)] if row is not None)


def read_rows(piece: Piece) -> Iterator[Row]:
    """The documents of a piece, in order.

    Raises:
        ElasticError: a file is not UTF-8, or cannot be read; a line is not JSON, or no document.
    """
    path = Path(piece.path)
    try:
        if path.suffix.lower() == ".jsonl":
            yield from _read_lines(piece)
        else:
            text = read_text(path, MAX_BYTES, "utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
            yield Row(piece, text=text)
    except UnicodeDecodeError as error:
        raise ElasticError(f"{path}: not UTF-8 at byte {error.start}; convert the file or leave it out") from None
    except OSError as error:
        raise ElasticError(f"{path}: cannot be read ({error.strerror})") from None


def read_all(files: Iterable[tuple[Path, str]]) -> Iterator[Row]:
    """The documents of files, in order; see `find_files` and `read_rows`."""
    return (row for piece in cut_in_pieces(files, MAX_BYTES) for row in read_rows(piece))


def _read_lines(piece: Piece) -> Iterator[Row]:
    with open_regular(piece.path) as stream:
        if piece.start:  # what began before is of the piece before
            stream.seek(piece.start - 1)
            while (line := stream.readline(MAX_DOCUMENT)) and not line.endswith(b"\n"):
                pass
        number, at = 0, stream.tell()
        while at < piece.stop and (line := stream.readline(MAX_DOCUMENT + 1)):
            encoding = "utf-8" if at else "utf-8-sig"
            number, at = number + 1, at + len(line)
            if line == b"\n":
                continue
            row = Row(piece, number)
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
    return ElasticError(f"{where}: longer than {MAX_DOCUMENT >> 20} MiB, which no document is")


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


def _lines_before(piece: Piece) -> int:
    """How many lines of its file begin before a piece."""
    count, left = 0, piece.start - 1
    with open_regular(piece.path) as stream:
        while left > 0 and (block := stream.read(min(left, 2**24))):
            count += block.count(b"\n")
            left -= len(block)
    return count + 1 if piece.start else 0


def _filled(row: Row, line: str) -> Row:
    """The row with what its line says."""
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
        said = zip(("user", "assistant"), pair, strict=True)
        return Chat([{"role": role, "content": text} for role, text in said], pair=(str(pair[0]), str(pair[1])))
    if turns is None:
        return None
    messages = check_messages([_message(turn) for turn in turns] if isinstance(turns, list) else turns)
    system = record.get("system")
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return Chat(messages, record.get("tools") or None)


def _check_values(name: str, value: Any, room: int = _NESTED) -> None:
    """Refuse what cannot be written again: half of a surrogate pair, and values nested too deep."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise bad(name, value[exc.start : exc.end], "text that UTF-8 can write") from None
    elif isinstance(value, (Mapping, list)):
        if not room:
            raise bad(name, value, f"at most {_NESTED} lists and objects in each other")
        for part in (*value, *value.values()) if isinstance(value, Mapping) else value:
            _check_values(name, part, room - 1)


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
