# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The two streams of a pipeline, the student's and the teacher's.

The teacher is cut as the student is, and runs beside it on every rank. A rank passes on both hidden states as one
tensor [s, b, 2D], the student's first, as ModelOpt's distillation for Megatron does: megatron-core's schedule knows
one tensor per micro-batch and asks how its shape differs from the model's. Gradients come back in the same shape; the
teacher's half of them is zero and ends where it came from.
"""

from __future__ import annotations

import torch

Shapes = list[tuple[int, ...]]


def twice_as_wide(received: Shapes, sent: Shapes) -> tuple[Shapes, Shapes]:
    """The shapes of what a rank receives and sends, with room for both streams."""
    both = [[(*shape[:-1], 2 * shape[-1]) for shape in shapes] for shapes in (received, sent)]
    return both[0], both[1]


def join(student_sbd: torch.Tensor, teacher_sbd: torch.Tensor) -> torch.Tensor:
    """What a rank passes on, [s, b, 2D]."""
    return torch.cat([student_sbd, teacher_sbd.detach().to(student_sbd.dtype)], -1)


def part(received: torch.Tensor | None, width: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The student's and the teacher's half of what a rank has received; None where there is none."""
    if received is None or received.shape[-1] == width:
        return received, None
    return received[..., :width], received[..., width:].detach()
