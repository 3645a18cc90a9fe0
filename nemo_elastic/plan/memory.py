# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Memory per GPU: what a training step holds at its fullest moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from nemo_elastic.config import DistillConfig
from nemo_elastic.family import Parent
from nemo_elastic.layout import ROWS, Row, rows, shape

from .activations import HALF, SINGLE, Sharding, layer, saved

__all__ = ["Memory", "Stage", "local_parameters", "loss", "stage_memory", "stages", "transient"]

#: bytes per parameter in DistributedDataParallel's buffer: gradients are summed in fp32 (grad_reduce_in_fp32, as in
#: NeMo's recipes); every data-parallel rank holds all of it, also with a distributed optimizer
GRADIENT = 4
#: bytes per parameter of the distributed optimizer, shared out over data-parallel ranks: fp32 parameters and Adam's
#: two moments (megatron-core, use_distributed_optimizer, as in NeMo's recipes)
OPTIMIZER = 12


@dataclass(frozen=True)
class Stage:
    """One pipeline stage: the layer types it holds and whether it has the ends of the model."""

    kinds: tuple[str, ...]
    first: bool
    last: bool
    index: int


def stages(parent: Parent, pipeline: int) -> list[Stage]:
    """Equal runs of layers, as megatron-core's MambaStack deals them out."""
    size = parent.num_layers // pipeline
    return [Stage(parent.types[i * size : (i + 1) * size], i == 0, i == pipeline - 1, i) for i in range(pipeline)]


def _local(parent: Parent, stage: Stage, tensor: int) -> Iterator[tuple[Row, float]]:
    """(row, elements on one rank) of every tensor of a stage, from the layout table."""
    size = parent.num_layers // max(1, len(parent.types) // len(stage.kinds))
    start = stage.index * size
    for row, own in rows(parent, parent.full):
        if own is None:
            if not (stage.first if row.name == "embedding" else stage.last):
                continue
        elif not start <= own.index < start + len(stage.kinds):
            continue
        count = 1
        for n in shape(parent, row, parent.full, own):
            count *= n
        yield row, count / (tensor if row.parallel is not None else 1)
    if parent.tied and stage.last and not stage.first:  # the last stage has its own copy of a tied embedding
        yield next(r for r in ROWS if r.name == "embedding"), parent.vocab * parent.hidden / tensor


def local_parameters(parent: Parent, stage: Stage, tensor: int) -> int:
    """Parameters on one GPU. Exact: the layout table says which tensors are sharded and which are replicas.

    The router is left out: some ten thousand parameters, replicated, in fp32.
    """
    return round(sum(n for _, n in _local(parent, stage, tensor)))


def loss(parent: Parent, distill: DistillConfig, tokens: int, tensor: int) -> float:
    """Bytes of logits and of what the loss makes of them, on the last stage, for `tokens` of a micro-batch.

    v = vocabulary / t. Both models' logits are bf16. nn.kl.forward_kl keeps the gradient in the student's dtype, and
    works in fp32 on `chunk_tokens` at a time: student, teacher, its exponentials, and a mask of one byte.
    Cross-entropy (megatron-core's vocabulary-parallel one) keeps the softmax in fp32. It comes after the divergence;
    in mode trainable only the full member has it, which has no teacher.
    """
    mode = distill.mode
    chunk = min(distill.chunk_tokens, tokens) * (3 * SINGLE + 1)
    divergence = 0 if mode == "ce" else tokens * 3 * HALF + chunk
    cross_entropy = 0 if mode == "frozen" else tokens * (HALF + SINGLE)
    if mode == "frozen_ce":
        cross_entropy += tokens * 2 * HALF  # the teacher's logits and the divergence's gradient are still there
    return max(divergence, cross_entropy) * parent.vocab / tensor


def transient(
    parent: Parent, stage: Stage, shards: Sharding, tokens: int, *, recompute: bool, gated: bool, kernels: bool
) -> float:
    """Bytes that the backward pass of one layer, or of the head, takes for a moment. An upper estimate.

    Without recomputation the largest layer's gradients are counted as large as its activations; with it, both
    together as 1.5 times those (small models take 1.2 to 1.5, tests/plan/test_measured.py). Sequence
    parallelism gathers the stream whole, once for the weight and once for its gradient. A weight's gradient exists
    once in bf16 and once in fp32 before it is added to the buffer (megatron.linear.accumulate).
    """
    widest = max(layer(parent, k, shards, gated, kernels) for k in stage.kinds)
    gathered = 2 * HALF * parent.hidden if shards.sequence else 0
    pieces = (HALF + SINGLE) * max(n for _, n in _local(parent, stage, shards.tensor))
    return tokens * (widest * (1.5 if recompute else 1) + gathered) + pieces


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, the fullest of its pipeline.

    Attributes:
        weights: bf16 parameters.
        gradients: the fp32 buffer.
        optimizer: fp32 parameters and Adam's moments, a share per data-parallel rank.
        teacher: bf16 parameters of the frozen parent, on the last stage.
        activations: what is saved for the backward pass of all micro-batches in flight.
        loss: logits and what the loss makes of them.
        transient: what one layer's backward pass takes for a moment. It comes after the loss, not with it.
    """

    weights: float
    gradients: float
    optimizer: float
    teacher: float
    activations: float
    loss: float
    transient: float

    @property
    def total(self) -> float:
        """The fullest moment: everything that stays, and the larger of loss and backward pass."""
        stays = self.weights + self.gradients + self.optimizer + self.teacher + self.activations
        return stays + max(self.loss, self.transient)

    @property
    def largest(self) -> str:
        """Name of the largest part."""
        return max((f.name for f in fields(self)), key=lambda name: getattr(self, name))

    def to_json(self) -> dict[str, int]:
        """Whole bytes, total included."""
        return {f.name: round(getattr(self, f.name)) for f in fields(self)} | {"total": round(self.total)}


def stage_memory(
    parent: Parent,
    stage: Stage,
    distill: DistillConfig,
    shards: Sharding,
    *,
    data: int,
    in_flight: int,
    tokens: int,
    recompute: bool,
    gated: bool,
    kernels: bool,
) -> Memory:
    """Memory of the GPUs of one pipeline stage.

    Args:
        parent: shape of the whole model.
        stage: the stage.
        distill: the loss; decides about the teacher.
        shards: tensor and sequence parallelism.
        data: data-parallel size.
        in_flight: micro-batches whose activations are held at once (1F1B: stages to the end, itself included).
        tokens: tokens of one micro-batch.
        recompute: layers are checkpointed.
        gated: soft masks are in use.
        kernels: mamba_ssm's kernels are there.
    """
    count = local_parameters(parent, stage, shards.tensor)
    taught = stage.last and distill.mode in ("frozen", "frozen_ce")
    per_token = saved(
        parent, stage.kinds, shards, recompute=recompute, gated=gated, kernels=kernels, first=stage.first,
        last=stage.last,
    )  # fmt: skip
    return Memory(
        weights=HALF * count,
        gradients=GRADIENT * count,
        optimizer=OPTIMIZER * count / data,
        teacher=HALF * count if taught else 0.0,
        activations=per_token * tokens * in_flight,
        loss=loss(parent, distill, tokens, shards.tensor) if stage.last else 0.0,
        transient=transient(parent, stage, shards, tokens, recompute=recompute, gated=gated, kernels=kernels),
    )
