# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are a Hugging Face tokenizer's, whatever its kind, and opening one without transformers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.bounded import read_text
from nemo_elastic.io.inside import check_inside

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["TOKENIZER_FILES", "find_tokenizer", "load_tokenizer"]

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
#: without one of these a folder has no tokenizer
_ENOUGH = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def find_tokenizer(folder: str | os.PathLike[str] | None) -> Path | None:
    """`folder`, if it holds a tokenizer, else None."""
    if folder is None or not any((Path(folder) / name).is_file() for name in _ENOUGH):
        return None
    return Path(folder)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Open the tokenizer of a folder, without transformers.

    Raises:
        ElasticError: If there is none, or it is damaged.
    """
    from tokenizers import Tokenizer

    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ElasticError(f"{path}: no tokenizer here")
    try:
        return Tokenizer.from_str(read_text(check_inside(path)))
    except ElasticError:
        raise
    except Exception as exc:  # tokenizers raises nothing narrower
        raise ElasticError(f"{path}: not a tokenizer ({str(exc).splitlines()[0]})") from None
