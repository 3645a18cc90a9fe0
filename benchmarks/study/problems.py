# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Generated problems, for a small parent that answers them: a ground of several studies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

import torch

from benchmarks.study.results import REPORTED, TUNED
from nemo_elastic.core.family import Parent
from nemo_elastic.data.reasoning import Problem, mixture

#: (task, level) -> how often
PROBLEMS = {("chain_sum", 1): 1.0, ("chain_sum", 2): 3.0, ("gcd", 1): 1.0}
#: a token each; the first ends a text
ALPHABET = ["<end>", *"\n %+-0123456789:=abcdefghijklmnopqrstuvwxyz"]
END, LENGTH, BATCH = 0, 48, 32
PARENT = Parent("M-M*-M-", 96, len(ALPHABET), 256, 8, 16, 2, 16, 4, 4, 2, 24, ffn_stripes=8)
AXES = {"hidden": [96, 80, 64, 48], "ffn": [256, 192, 128, 64], "mamba_heads": [8, 6, 4], "depth": [7, 6, 5]}
PARENT_STEPS, LR = 1500, 1e-3


class MicroBatch(NamedTuple):
    """A micro-batch: token ids, their targets and the loss mask, all [b, s]."""

    tokens_bs: torch.Tensor
    labels_bs: torch.Tensor
    mask_bs: torch.Tensor


def encode(text: str) -> list[int]:
    return [ALPHABET.index(c) for c in text]


def problems(seed: int, held_out: bool | str) -> Iterator[Problem]:
    """Problems without end; `TUNED` and `REPORTED` are the two parts of those that are held out."""

    def wanted(problem: Problem) -> bool:
        part = (TUNED, REPORTED)[crc32(problem.text.encode()) % 2]
        return problem.held_out == bool(held_out) and held_out in (False, True, part) and len(problem.text) < LENGTH

    return filter(wanted, mixture(PROBLEMS, seed))


def batches(seed: int, held_out: bool | str = False) -> Iterator[MicroBatch]:
    """Problems with the prompt masked out, each a row, filled up with the token that ends it."""
    source = problems(seed, held_out)
    while True:
        ids = torch.full((BATCH, LENGTH + 1), END)
        mask = torch.zeros(BATCH, LENGTH)
        for row in range(BATCH):
            problem = next(source)
            text, prompt = encode(problem.text), len(problem.prompt)
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, prompt - 1 : len(text)] = 1
        yield MicroBatch(ids[:, :-1], ids[:, 1:], mask)
