# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Files of a Hugging Face tokenizer: which they are, opening one without transformers, rendering its chat template.

A template is a program in Jinja from elsewhere, and some tokenizers end the process that opens them. So both are tried
in a process apart (`io.apart`), which bounds time and memory. A template runs in Jinja's immutable sandbox, as in
transformers: it reaches no file, no module and no attribute of Python's. How much it says is bounded here.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.apart import apart
from nemo_elastic.io.bounded import read_bytes, read_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "TOKENIZER_FILES",
    "copy_tokenizer",
    "find_tokenizer",
    "load_tokenizer",
    "render",
    "rows_of",
    "what_differs",
]

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
#: without one of these a folder has no tokenizer
_ENOUGH = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
#: of a vocabulary: ids are kept in four bytes, with a sign
MAX_ROWS = 2**31
#: times that replacements may make a text longer; those of tokenizers that are in use keep its length
_GROWTH = 64
#: what a tokenizer is tried with, and seconds of computing for the largest
_SAMPLE = "Hello,  world! 3.14 <s> </s>\n\tnaïve 日本語 ﬁ \u0301 🦜 " + "a" * 100 + "!"
_SECONDS = 60
#: characters of a rendered text
_CHARACTERS = 2**26
#: around what `{% generation %}` marks while it is rendered: what no text and no template knows
_OPEN, _CLOSE = (f"\ue000{secrets.token_hex(16)}\ue001" for _ in range(2))
#: digests of what was tried
_tried: set[str] = set()


def find_tokenizer(folder: str | os.PathLike[str] | None) -> Path | None:
    """`folder`, if it holds a tokenizer, else None."""
    if folder is None or not any((Path(folder) / name).is_file() for name in _ENOUGH):
        return None
    return Path(folder)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Open the tokenizer of a folder, without transformers.

    The library ends its process where some files surprise it, so it tries the file in a process apart first.

    Raises:
        ElasticError: If there is none, or it is damaged.
    """
    from tokenizers import Tokenizer

    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ElasticError(f"{path}: no tokenizer here")
    try:
        text = read_text(path)
    except UnicodeDecodeError:
        raise ElasticError("not a tokenizer (no UTF-8 text)", path) from None
    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest not in _tried:
        try:
            apart("nemo_elastic.formats.tokenizer_files:try_tokenizer", text, seconds=_SECONDS)
        except ElasticError as exc:
            raise ElasticError(f"not a tokenizer ({exc.said.splitlines()[0]})", path) from None
        _tried.add(digest)
    return Tokenizer.from_str(text)


def rows_of(tokenizer: Tokenizer) -> int:
    """Rows of a model that knows every id of a tokenizer. Ids may have gaps: their number is no bound."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def what_differs(one: Path, other: Path) -> str | None:
    """What makes two tokenizers cut a text differently: `vocabulary` or `merges`; None where these are the same.

    Args:
        one, other: their folders.
    """
    if load_tokenizer(one).get_vocab() != load_tokenizer(other).get_vocab():
        return "vocabulary"
    return None if _merges(one) == _merges(other) else "merges"


def _merges(folder: Path) -> list[list[str]]:
    """From the file: a tokenizer with gaps between its ids prints all of them when it is asked for its text."""
    merges = json.loads(read_text(folder / "tokenizer.json"))["model"].get("merges") or []
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]  # as older files have them


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copy the files of a tokenizer into a new folder."""
    out.mkdir()
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            (out / name).write_bytes(read_bytes(folder / name))


def try_tokenizer(text: str) -> None:
    """Open a tokenizer, and let it read and say a little. Called in a process apart alone: it may not survive."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    if (rows := rows_of(tokenizer)) > MAX_ROWS:
        raise ElasticError(f"its largest id is {rows - 1}; at most {MAX_ROWS - 1}")
    if (growth := _growth(tokenizer)) > _GROWTH:
        raise ElasticError(f"its replacements make a text up to {growth:.0f} times as long; at most {_GROWTH} times")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with suppress(Exception):  # that it has no word for something is no damage; a panic of Rust's is no Exception
        tokenizer.encode(_SAMPLE, add_special_tokens=True)
    with suppress(Exception):
        tokenizer.decode(list(range(min(tokenizer.get_vocab_size(), 1000))))


def _growth(tokenizer: Tokenizer) -> float:
    """How many times as long a text may become by the replacements of a normalizer, one after the other."""

    def of(step: Mapping[str, Any]) -> float:
        if step["type"] == "Sequence":
            return math.prod(map(of, step["normalizers"]))
        if step["type"] != "Replace":
            return 1.0
        return max(1.0, len(step["content"]) / max(1, len(step["pattern"].get("String", ""))))

    return 1.0 if tokenizer.normalizer is None else of(json.loads(tokenizer.normalizer.__getstate__()))


# ------------------------------------------------------------------ chat templates


class _Refused(Exception):
    """A template says itself that it does not take these messages, or says too much."""


def render(text: str, names: Mapping[str, Any] | None) -> str | None:
    """What a template makes of some names. Called in a process apart alone.

    Args:
        text: Jinja.
        names: Messages and special tokens; None to see whether it is a template at all.

    Raises:
        ElasticError: it is no template, or it refuses, fails, or its text does not end.
    """
    return _rendered(text, names, False)


def render_marked(text: str, names: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]]]:
    """As `render`; also the characters from and to which `{% generation %}` marks it. Called in a process apart alone.

    Raises:
        ElasticError: as `render`; or the template does something to its text that the marks do not survive.
    """
    pieces, spans, begun, at = [], [], [], 0
    for piece in re.split(f"({_OPEN}|{_CLOSE})", _rendered(text, names, True) or ""):
        if piece == _OPEN:
            begun.append(at)
        elif piece == _CLOSE:
            spans.append((begun.pop() if begun else -1, at))
        else:
            pieces.append(piece)
            at += len(piece)
    said = "".join(pieces)
    if begun or any(start < 0 for start, _ in spans) or said != _rendered(text, names, False):
        raise ElasticError("its generation marks get lost in a filter or a variable")
    return said, spans


def _rendered(text: str, names: Mapping[str, Any] | None, marked: bool) -> str | None:
    try:
        template = _compiled(text, marked)
        if names is None:
            return None
        pieces, size = [], 0
        for piece in template.generate(**names):
            size += len(piece)
            if size > _CHARACTERS:
                raise _Refused("its text does not end")
            pieces.append(piece)
        return "".join(pieces)
    except MemoryError:
        raise
    except Exception as exc:  # a template from elsewhere can raise whatever an expression, or compiling one, can
        raise ElasticError(str(exc) or type(exc).__name__) from None


@lru_cache(maxsize=8)
def _compiled(text: str, marked: bool) -> Any:
    """A template in the environment that transformers renders chat templates in; its generation marks shown or not."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks for training what an assistant said; here it is its content."""

        tags: ClassVar[set[str]] = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            if marked:
                before, after = (nodes.Output([nodes.TemplateData(mark)]) for mark in (_OPEN, _CLOSE))
                body = [before, *body, after]
            return nodes.Scope(body, lineno=line)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = _today
    return made.from_string(text)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as it is: Jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: Any) -> Any:
    raise _Refused(str(message))


def _today(format: str) -> str:
    """The date, which some templates tell the model."""
    return time.strftime(format)
