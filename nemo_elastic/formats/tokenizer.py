# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are a Hugging Face tokenizer's, whatever its kind."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["TOKENIZER_FILES", "find_tokenizer"]

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
