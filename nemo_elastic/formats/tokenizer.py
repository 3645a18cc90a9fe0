# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are a Hugging Face tokenizer's, whatever its kind, and opening one without transformers."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.apart import apart
from nemo_elastic.io.bounded import read_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["TOKENIZER_FILES", "find_tokenizer", "load_tokenizer"]

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
#: without one of these a folder has no tokenizer
_ENOUGH = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
#: what a tokenizer is tried with, and seconds of computing for the largest
_SAMPLE = "Hello,  world! 3.14 <s> </s>\n\tnaïve 日本語 ﬁ \u0301 🦜 " + "a" * 100 + "!"
_SECONDS = 60
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
            apart("nemo_elastic.formats.tokenizer:try_tokenizer", text, seconds=_SECONDS)
        except ElasticError as exc:
            raise ElasticError(f"not a tokenizer ({exc.said.splitlines()[0]})", path) from None
        _tried.add(digest)
    return Tokenizer.from_str(text)


def try_tokenizer(text: str) -> None:
    """Open a tokenizer, and let it read and say a little. Called in a process apart alone: it may not survive."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with suppress(Exception):  # that it has no word for something is no damage; a panic of Rust's is no Exception
        tokenizer.encode(_SAMPLE, add_special_tokens=True)
    with suppress(Exception):
        tokenizer.decode(list(range(min(tokenizer.get_vocab_size(), 1000))))
