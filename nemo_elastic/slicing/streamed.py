# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Forward passes of models that are larger than memory: their layers are read from the files, one after the other.

In memory at a time are one layer, embedding and head, a batch's activations in that layer, and the streams of all
sequences that go through it before the next is read (`STREAMS`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import bad
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.functional import cast_dtype
from nemo_elastic.nn.loss_head import Head, head_loss
from nemo_elastic.nn.rows import Rows
from nemo_elastic.nn.weights import streamed
from nemo_elastic.ranking import Ranking, RankOptions
from nemo_elastic.ranking.measure import rank
from nemo_elastic.ranking.scores import through_together

from .cutting import cut

__all__ = ["Sequences", "rank_streamed", "untrained_loss"]

#: sequences of a forward pass
BATCH = 8
#: elements of streams that are in memory between layers: 2 GiB in bfloat16. More sequences read the layers again.
STREAMS = 2**30


@dataclass(frozen=True)
class Sequences:
    """Training sequences on which a parent is ranked and members are measured.

    Attributes:
        rows: one sequence each, with the label of its last token.
        provenance: JSON values for the ranking: which data, how many and how long.
        device: where the model runs.
        progress: called with (phase, done, total): phase "widths", "depth" or "search".
    """

    rows: Sequence[Rows]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    device: str | torch.device = "cpu"
    progress: Callable[[str, int, int], None] | None = None

    def batches(self, tokens: int | None = None) -> Iterator[Rows]:
        """Inputs of the first sequences with so many tokens that count; of all where there are fewer, or with None."""
        counted, at = 0.0, 0
        while at < len(self.rows) and (tokens is None or counted < tokens):
            batch = Rows.joined(self.rows[at : at + BATCH]).inputs()
            at, counted = at + BATCH, counted + batch.counted
            counts_bl = None if batch.counts_bl is None else batch.counts_bl.to(self.device)
            yield Rows(batch.ids_bl.to(self.device), counts_bl)


def rank_streamed(source: Checkpoint, sequences: Sequences, options: RankOptions) -> Ranking:
    """Rank an opened parent by forward passes over sequences; see `ranking.measure.rank`."""
    tell, total = sequences.progress, len(sequences.rows)
    return rank(
        _layers(source, source.subnet, sequences.device),
        source.parent,
        sequences.batches(),
        options,
        progress=None if tell is None else lambda phase, done, of: tell(phase, done, of or total),
        provenance=sequences.provenance,
        together=STREAMS // source.parent.hidden,
    )


def untrained_loss(source: Checkpoint, sequences: Sequences, tokens: int) -> Callable[[Subnet], float]:
    """Divergence of members from an opened parent, in nats per token, reading members' weights from their files.

    Args:
        source: the parent, with sorted weights.
        sequences: the first of them are measured on.
        tokens: that count, at least, as far as there are so many.
    """
    batches = list(sequences.batches(tokens))
    counted = sum(rows.counted for rows in batches)
    if not counted:
        raise bad("data", f"{len(sequences.rows)} sequences", "sequences in which tokens count, to search on")
    size = max(1, STREAMS // (source.parent.hidden * batches[0].ids_bl.numel()))

    def normed(model: Layers) -> Iterator[torch.Tensor]:
        for at in range(0, len(batches), size):
            yield from through_together(model, model.indices, batches[at : at + size])

    with torch.no_grad():
        whole = _layers(source, source.subnet, sequences.device)
        taught, head_vd = [*normed(whole)], whole.weights.head
        del whole

    @torch.no_grad()
    def loss(member: Subnet) -> float:
        model, total = _layers(source, member, sequences.device), 0.0
        for rows, hidden, theirs in zip(batches, normed(model), taught, strict=True):
            student, teacher = Head(hidden.flatten(0, 1), model.weights.head), Head(theirs.flatten(0, 1), head_vd)
            weights_t = None if rows.counts_bl is None else rows.counts_bl.flatten()
            kl, _ = head_loss(student, teacher, weights_t=weights_t)
            total += float(kl)
        return total / counted

    return loss


def _layers(source: Checkpoint, member: Subnet, device: str | torch.device) -> Layers:
    """A member of an opened folder, whose layers are read when their turn comes."""
    return Layers(streamed(source.parent, member, _Read(cut(source, member), device)))


@dataclass(frozen=True)
class _Read(Mapping[str, torch.Tensor]):
    """Weights by name, copied from the file on access, in a dtype that torch computes with."""

    member: Checkpoint
    device: str | torch.device

    def __getitem__(self, name: str) -> torch.Tensor:
        if name in self.member.storage:
            read = self.member.torch(name)
        else:
            t = self.member.tensors[name]
            # rows, not the mapped file, whose pages would stay
            read = Tensor.of_words(t.dtype, t.rows(0, t.count).reshape(t.shape)).torch(copy=False)
        dtype = torch.bfloat16 if read.dtype.itemsize == 1 else read.dtype
        return read.to(self.device, cast_dtype(name, dtype))

    def __iter__(self) -> Iterator[str]:
        return iter(self.member.names)

    def __len__(self) -> int:
        return len(self.member.names)
