# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Conversations packed into sequences of one length, in the files that hosts read: .npy on NeMo, Parquet on Bridge.

A row of either has `input_ids`, `seq_start_id` (where conversations begin in it) and `loss_mask`, which says of each
token whether the *next* one counts, as in both hosts' packing.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nemo_elastic.extras import require

__all__ = ["NAMES", "NPY", "PARQUET", "pack", "packed_rows", "write_packed"]

NPY, PARQUET = "npy", "parquet"
#: endings of the files
NAMES = {NPY: ".npy", PARQUET: ".idx.parquet"}
#: rows of a Parquet file that are read together
_GROUP = 500


def pack(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """Which documents go into which sequence: each, from the longest, into the fullest that it fits in.

    Args:
        lengths: tokens of each document, at most `size`.
        size: of a sequence.
        seed: of the order of sequences, and of documents in each.

    Returns:
        Numbers of documents, for each sequence.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(lengths))
    packs: list[list[int]] = []
    spaces: list[int] = []  # tokens that are left in some pack, ascending
    packs_of: dict[int, list[int]] = {}  # tokens left -> packs
    for at in sorted(order.tolist(), key=lambda i: -lengths[i]):
        place = bisect_left(spaces, lengths[at])
        if place < len(spaces):
            left = spaces[place]
            number = packs_of[left].pop()
            if not packs_of[left]:
                del spaces[place], packs_of[left]
        else:
            left, number = size, len(packs)
            packs.append([])
        packs[number].append(at)
        left -= lengths[at]
        if left not in packs_of:
            insort(spaces, left)
        packs_of.setdefault(left, []).append(number)
    return [generator.permutation(packs[i]).tolist() for i in generator.permutation(len(packs))]


def packed_rows(
    packs: Sequence[Sequence[int]], documents: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[dict[str, list[int]]]:
    """The rows of a packed file.

    Args:
        packs: of `pack`.
        documents: token ids, and which of them count, of each document.
    """
    rows = []
    for numbers in packs:
        parts = [documents[i] for i in numbers]
        starts = np.cumsum([0, *(len(ids) for ids, _ in parts[:-1])])
        masks = [np.append(counts[1:], False).astype(int) for _, counts in parts]
        rows.append(
            {
                "input_ids": np.concatenate([ids for ids, _ in parts]).tolist(),
                "loss_mask": np.concatenate(masks).tolist(),
                "seq_start_id": starts.tolist(),
            }
        )
    return rows


def write_packed(path: Path, rows: list[dict[str, list[int]]], kind: str) -> None:
    """Write the rows of a packed file.

    Args:
        path: without its ending.
        rows: of `packed_rows`.
        kind: `npy` or `parquet`.
    """
    name = f"{path}{NAMES[kind]}"
    if kind == NPY:
        table: Any = np.empty(len(rows), dtype=object)
        table[:] = rows
        np.save(name, table, allow_pickle=True)
        return
    require("pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    types = {"input_ids": pa.int32(), "loss_mask": pa.int8(), "seq_start_id": pa.int32()}
    columns = {c: pa.array([row[c] for row in rows], type=pa.list_(of)) for c, of in types.items()}
    with open(name, "wb") as stream:  # the path need not be UTF-8
        parquet.write_table(pa.table(columns), stream, row_group_size=_GROUP)
