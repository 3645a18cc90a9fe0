# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The token files that a run trains on, as users list them, and what of them is checked before anything is built."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from nemo_elastic.data.indexed import check_prefix, count
from nemo_elastic.errors import bad

__all__ = [
    "SPLIT", "SPLITS", "Blend", "check_token_files", "empty_splits", "files_of", "is_there", "prefixes_of",
    "splits_of",
]  # fmt: skip

#: prefixes of Megatron's token files, with weights before them or not, or such lists by split
Blend = Sequence[str | float] | Mapping[str, Sequence[str | float]]
#: in Megatron's order
SPLITS = ("train", "validation", "test")
#: their shares of the data, where it is not given by split
SPLIT = "998,1,1"


def splits_of(data: Blend) -> Sequence[str | float] | dict[str, list[str | float]]:
    """Data as a user gives them: one list of which each split takes a share, or a list for each split.

    `["/data/a", "/data/b"]`, with weights `[0.7, "/data/a", 0.3, "/data/b"]`, or by split `{"train": […],
    "validation": […]}`, where test is the validation unless given. Prefixes of Megatron's .bin and .idx files; without
    splits, shares of 998, 1 and 1 are taken from each.
    """
    if not data or isinstance(data, str):
        raise bad("data", data, "a list of prefixes of token files, such as [0.7, /data/a, 0.3, /data/b]")
    if not isinstance(data, Mapping):
        parts, given = [data], list(data)
    else:
        if not {"train", "validation"} <= set(data) <= set(SPLITS):
            raise bad("data", sorted(data), "the splits train and validation, and optionally test")
        given = {"test": list(data["validation"])} | {split: list(entries) for split, entries in data.items()}
        parts = list(given.values())
    for part in parts:
        for prefix in prefixes_of(part):
            check_prefix("data", prefix)
    return given


def prefixes_of(entries: Iterable[object]) -> list[str]:
    """Prefixes of a blend; a command line has their weights as text, too."""
    return [entry for entry in entries if isinstance(entry, str) and number(entry) is None]


def files_of(data: Any) -> list[str]:
    """What a recipe's field of data names: a file or folder, several with weights or without, or lists by split."""
    if isinstance(data, Mapping):
        return [file for part in data.values() for file in files_of(part)]
    if isinstance(data, str | os.PathLike):
        data = [str(data)] if is_there(str(data)) else str(data).split()
    return prefixes_of(data or [])


def is_there(path: str) -> bool:
    """Whether a checkpoint, a folder or a pair of token files is on this machine."""
    return os.path.exists(path) or os.path.exists(f"{path}.idx")


def number(entry: str | float) -> float | None:
    """The weight that an entry of a blend is, None for a prefix."""
    try:
        return float(entry)
    except ValueError:
        return None


def check_token_files(
    paths: tuple[str, Sequence[str]], length: tuple[str, int], split: tuple[str, str | None]
) -> None:
    """Raise for text where token files are asked for, for files too short, and for shares that leave a split empty.

    megatron-core counts the epochs of a split without documents in a loop that never ends. Files that only a cluster
    has are judged by their names alone.

    Args:
        paths: the recipe's field, and the prefixes of token files in it.
        length: the same of the tokens of a sequence.
        split: the same of the shares of training, validation and test; None where files are not shared.
    """
    shares = [] if split[1] is None or not paths[1] else _shares(*split)
    for prefix in paths[1]:
        check_prefix(paths[0], prefix)
        if not Path(f"{prefix}.idx").is_file():
            continue
        tokens, documents = count(Path(prefix))
        if tokens <= length[1]:
            raise bad(*length, f"shorter sequences: {prefix} has {tokens} tokens")
        empty = empty_splits(shares, documents)
        if empty:
            allowed = f"shares that leave some of the {documents} documents of {prefix} for {empty[0]}, or 0 for it"
            raise bad(*split, allowed)


def _shares(where: str, split: object) -> list[float]:
    """What a recipe gives each split of the data; raise where megatron-core cannot read it, or training has none."""
    try:
        shares = [float(part) for part in str(split).split(",")]
    except ValueError:
        shares = []
    if not 0 < len(shares) <= len(SPLITS) or not all(0 <= share < math.inf for share in shares) or not shares[0]:
        raise bad(where, split, f"shares such as {SPLIT}: of training, above 0, then of validation and of test")
    return shares


def empty_splits(shares: Sequence[float], documents: int) -> list[str]:
    """The splits that get a share of a file's documents, and none of them when it is rounded as megatron-core does."""
    ends = [round(end * documents) for end in accumulate(share / sum(shares) for share in shares)]
    each = zip(SPLITS, shares, [0, *ends], ends)  # noqa: B905  (there may be fewer shares)
    return [name for name, share, start, end in each if share and end <= start]
