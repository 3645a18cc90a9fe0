# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""On-policy micro-batches: a member goes on from the data's prompts, and its teacher judges what it wrote.

Generalized knowledge distillation (Agarwal et al., arXiv 2306.13649): the student samples the continuation, the loss
is the reverse divergence KL(student || teacher) of each token that it wrote, and no gradient passes through the
sampling. The runtime writes on slices of the weights in training. What is written replaces the rest of a document in
its row, so shapes and the bounds of documents stay.

b: rows, s: their length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch

from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.weights import Weights
from nemo_elastic.runtime.member_model import MemberModel

__all__ = ["MicroBatch", "Prompt", "prompts_of", "seed_of", "write"]


class MicroBatch(NamedTuple):
    """A micro-batch: token ids, their targets and the loss mask, all [b, s]."""

    tokens_bs: torch.Tensor
    labels_bs: torch.Tensor
    mask_bs: torch.Tensor


@dataclass(frozen=True)
class Prompt:
    """The beginning of a document, behind which a member writes.

    Attributes:
        row: of the micro-batch.
        start, end: of the document in it.
        last: position of the prompt's last token, whose target is the first that is written.
    """

    row: int
    start: int
    last: int
    end: int


def prompts_of(mask_bs: torch.Tensor, documents: Documents | None = None) -> list[Prompt]:
    """One of each document with a token that counts.

    The prompt is what precedes the first target that counts; of a document that counts from its first token, as plain
    text does, its first half.

    Args:
        mask_bs: loss mask.
        documents: in the rows, where they are kept apart; None for one in each.
    """
    ends = ((mask_bs.shape[1],),) * len(mask_bs) if documents is None else documents.ends
    counts_bs, out = (mask_bs > 0).cpu(), []
    for row, bounds in enumerate(ends):
        for start, end in pairwise((0, *bounds)):
            counted = counts_bs[row, start:end].nonzero()[:, 0]
            if len(counted):
                before = int(counted[0]) or max(1, (end - start) // 2) - 1
                out.append(Prompt(row, start, start + before, end))
    return out


def seed_of(*what: int | Sequence[Sequence[int]]) -> int:
    """A seed of `Sampling` for numbers and prompts: ranks, which have other prompts, sample something else."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:8], "big") >> 1


def write(
    weights: Weights, rows: MicroBatch, documents: Documents | None, stop_ids: Iterable[int], *turn: int
) -> MicroBatch:
    """The rows with what a member writes; only that counts in the new mask.

    Args:
        weights: of the member, as they are now.
        rows: of the data; left as they are.
        documents: in them, where they are kept apart.
        stop_ids: tokens with which it may end; else it writes to the end of the document.
        turn: numbers that fix what is sampled, with the prompts.
    """
    prompts = prompts_of(rows.mask_bs, documents)
    tokens_bs, labels_bs, mask_bs = rows.tokens_bs.clone(), rows.labels_bs.clone(), torch.zeros_like(rows.mask_bs)
    if not prompts:
        return MicroBatch(tokens_bs, labels_bs, mask_bs)
    ids = [tokens_bs[p.row, p.start : p.last + 1].tolist() for p in prompts]
    limits, seed = [p.end - p.last for p in prompts], seed_of(*turn, ids)
    said = MemberModel(None, weights).generate(ids, limits, stop_ids, temperature=1.0, seed=seed)
    for p, new in zip(prompts, said, strict=True):
        new_n = torch.tensor(new, dtype=tokens_bs.dtype, device=tokens_bs.device)
        labels_bs[p.row, p.last : p.last + len(new)] = new_n
        mask_bs[p.row, p.last : p.last + len(new)] = 1
        inside_n = new_n[: p.end - p.last - 1]  # what is written last may have no place but as a target
        tokens_bs[p.row, p.last + 1 : p.last + 1 + len(inside_n)] = inside_n
    return MicroBatch(tokens_bs, labels_bs, mask_bs)
