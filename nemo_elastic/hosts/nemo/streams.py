# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Both streams of `megatron.two_streams` through NeMo's pipeline: its steps make room for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from nemo.lightning.megatron_parallel import MegatronStep

from nemo_elastic.megatron.cpu import cuda_as_cpu
from nemo_elastic.megatron.two_streams import join, twice_as_wide
from nemo_elastic.megatron.vocabulary import Output
from nemo_elastic.nn.gates import Choice

if TYPE_CHECKING:
    from .model import ElasticMambaModel


class TwoStreams(MegatronStep):
    """NeMo's step over a pipeline whose stages pass on both streams."""

    @property
    def adjust_tensor_shapes_fn(self) -> Callable:
        return twice_as_wide


def with_teacher(step: MegatronStep, model: Any) -> MegatronStep:
    """A step of a training or a validation, with room for the teacher's stream where stages pass one on."""
    if not getattr(model, "validates_in_pipeline" if step.forward_only else "teaches_in_pipeline", False):
        return step
    return TwoStreams(**{field.name: getattr(step, field.name) for field in fields(MegatronStep)})


@torch.no_grad()
def evaluate(
    model: ElasticMambaModel,
    batches_bs: Sequence[torch.Tensor],
    choice: Choice,
    measure: Callable[[int, Output, Output | None], Any],
    taught: bool = True,
) -> list[Any]:
    """Run batches forward through all pipeline stages in eval mode, without a step, a sample or a gradient.

    Every rank of a model replica calls it with the same batches and choice. Without a pipeline it is a plain loop.

    Args:
        model: the elastic model.
        batches_bs: token ids, all of one shape.
        choice: what the student runs.
        measure: (number of the batch, student, teacher) -> what is wanted of it; called where the head is.
        taught: run the block's teacher too; without, and where the block has none, `measure` gets None.

    Returns:
        What `measure` returned on the last pipeline stage, in order; [] on all others.
    """
    taught = taught and model.elastic_config.distill.taught
    last = parallel_state.is_pipeline_last_stage()
    numbers = iter(range(len(batches_bs)))

    def forward(batches: Any, _: Any) -> tuple[torch.Tensor, Callable[..., Any]]:
        number, tokens = next(numbers), next(batches)
        teacher = model.host.teacher(tokens) if taught else None
        student = model.host.student(tokens, choice)
        sent = student[1] if teacher is None or last else join(student[1], teacher[1])
        return sent, lambda *_, **__: measure(number, student, teacher)

    was_training = model.training
    model.eval()
    staged = parallel_state.get_pipeline_model_parallel_world_size() > 1
    try:
        with cuda_as_cpu():
            return get_forward_backward_func()(
                forward_step_func=forward,
                data_iterator=iter(batches_bs),
                model=model,
                num_microbatches=len(batches_bs),
                seq_length=batches_bs[0].shape[1],
                micro_batch_size=batches_bs[0].shape[0],
                forward_only=True,
                collect_non_loss_data=True,
                adjust_tensor_shapes_fn=twice_as_wide if taught and staged else None,
            )
    finally:
        model.train(was_training)
