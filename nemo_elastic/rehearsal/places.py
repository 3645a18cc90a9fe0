# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where a rehearsal keeps what it makes, in its folder, whoever trains."""

from __future__ import annotations

import os

from nemo_elastic.data.build import build_data

__all__ = ["FROM", "SEQUENCES", "START", "data_dir", "make_data", "text_of", "watch_dir"]

#: files of a watched start: the state it began with, and the checkpoint that it was to begin with
START, FROM = "start", "from"
#: sequences on which members and their cuts are compared
SEQUENCES = 4


def watch_dir(dir: str, job: str) -> str:
    """Where the starts of a training job are told."""
    return os.path.join(dir, "watched", job)


def data_dir(dir: str) -> str:
    """Where text and tokenizer are made."""
    return os.path.join(dir, "data")


def text_of(dir: str, split: str = "train") -> dict[str, list[str]]:
    """The text that a job trains and validates on, as recipes take it."""
    return {"train": [os.path.join(data_dir(dir), split)], "validation": [os.path.join(data_dir(dir), "val")]}


def make_data(out: str, vocab: int) -> None:
    """Text of Python's standard library, and a tokenizer, unless they are there."""
    if not os.path.exists(out):
        build_data(out, vocab=vocab)
