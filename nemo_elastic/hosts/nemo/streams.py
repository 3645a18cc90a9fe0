# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Two streams through a pipeline: the teacher is cut as the student is, and runs beside it on every stage.

A stage passes on both hidden states as one tensor [s, b, 2D], the student's first, as ModelOpt's distillation for
Megatron does: megatron-core's schedule knows one tensor per micro-batch and asks how its shape differs from the
model's. Gradients come back in the same shape; the teacher's half of them is zero and ends where it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from nemo.lightning.megatron_parallel import MegatronStep

from nemo_elastic.hosts.nemo.platform.device import cuda_as_cpu
from nemo_elastic.nn.gates import Choice

from .loss import Output

if TYPE_CHECKING:
    from .model import ElasticMambaModel

Shapes = list[tuple[int, ...]]


def twice_as_wide(received: Shapes, sent: Shapes) -> tuple[Shapes, Shapes]:
    """The shapes of what a stage receives and sends, with room for both streams."""
    both = [[(*shape[:-1], 2 * shape[-1]) for shape in shapes] for shapes in (received, sent)]
    return both[0], both[1]


class TwoStreams(MegatronStep):
    """NeMo's step over a pipeline whose stages pass on both streams."""

    @property
    def adjust_tensor_shapes_fn(self) -> Callable:
        return twice_as_wide


def with_teacher(step: MegatronStep, model: Any) -> MegatronStep:
    """A step of a training or a validation, with room for the teacher's stream where stages pass one on."""
    if not getattr(model, "validates_in_stages" if step.forward_only else "teaches_in_stages", False):
        return step
    return TwoStreams(**{field.name: getattr(step, field.name) for field in fields(MegatronStep)})


def join(student_sbd: torch.Tensor, teacher_sbd: torch.Tensor) -> torch.Tensor:
    """What a stage passes on, [s, b, 2D]."""
    return torch.cat([student_sbd, teacher_sbd.detach().to(student_sbd.dtype)], -1)


def part(received: torch.Tensor | None, width: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The student's and the teacher's half of what a stage has received; None where there is none."""
    if received is None or received.shape[-1] == width:
        return received, None
    return received[..., :width], received[..., width:].detach()


@torch.no_grad()
def evaluate(
    model: ElasticMambaModel,
    batches_bs: Sequence[torch.Tensor],
    choice: Choice,
    measure: Callable[[int, Output, Output | None], Any],
    taught: bool = True,
) -> list[Any]:
    """Run batches forward through all pipeline stages in eval mode, without a step, a draw or a gradient.

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
