# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""An ElasticMambaModel without trainer and data: its training step, on one process. For benchmarks and tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from nemo_elastic.core.family import Parent, Subnet
from tests.support.models import start


def settings(parent: Parent, length: int = 256) -> Any:
    """NeMo's config of a parent, for a CPU."""
    from nemo_elastic.formats.megatron.shape import stock_sizes
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH

    return TinyNemotronH(**stock_sizes(parent, parent.full), seq_length=length)


def elastic_model(
    parent: Parent, block: dict[str, Any], members: list[Subnet] | None = None, teacher: Path | None = None
) -> Any:
    """The model, built and loaded, at step 0 of a stage of 100 steps.

    Args:
        parent: shape of the parent.
        block: the elastic block.
        members: shapes, which are frozen where the block has no router.
        teacher: NeMo checkpoint of the parent.
    """
    from nemo_elastic.hosts.nemo.model import ElasticMambaModel
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start()
    tokenizer = SimpleNamespace(vocab_size=parent.vocab)
    path = None if teacher is None else str(teacher)
    model = ElasticMambaModel(settings(parent), block, teacher=path, stage_steps=100, tokenizer=tokenizer)
    with cuda_as_cpu():
        model.configure_model()
    if members is not None:
        model.members.put(members, frozen=model.members.router is None)
    model._trainer = SimpleNamespace(global_step=0)  # pyright: ignore[reportAttributeAccessIssue]
    return model.train()


def batch_of(parent: Parent, sequences: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tokens and labels; the loss of every fifth token does not count."""
    g = torch.Generator().manual_seed(seed)
    tokens, labels = torch.randint(0, parent.vocab, (2, sequences, length), generator=g)
    mask = torch.ones(sequences, length)
    mask[:, ::5] = 0
    return {"tokens": tokens, "labels": labels, "loss_mask": mask}


def run_schedule(model: Any, batches: list[dict[str, torch.Tensor]]) -> list[dict[str, Any]]:
    """Forward and backward of one step by megatron-core's schedule; what the loss reduction reported of each."""
    from megatron.core.num_microbatches_calculator import (
        destroy_num_microbatches_calculator,
        init_num_microbatches_calculator,
    )
    from megatron.core.pipeline_parallel.schedules import forward_backward_no_pipelining

    from nemo_elastic.megatron.cpu import cuda_as_cpu

    def forward_step(data: Any, _: Any) -> Any:
        batch = dict(next(data))
        return model.training_step(batch), lambda out: model.training_loss_reduction.forward(batch, out)

    count, (sequences, length) = len(batches), batches[0]["tokens"].shape
    init_num_microbatches_calculator(0, None, count * sequences, sequences, 1)
    try:
        with cuda_as_cpu():
            return forward_backward_no_pipelining(
                forward_step_func=forward_step, data_iterator=iter(batches), model=model.host.core,
                num_microbatches=count, seq_length=length, micro_batch_size=sequences,
            )  # fmt: skip
    finally:
        destroy_num_microbatches_calculator()
