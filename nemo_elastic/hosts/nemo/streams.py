# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Both streams of `megatron.megatron_host` through NeMo's pipeline: its steps make room for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from nemo.lightning.megatron_parallel import MegatronStep

from nemo_elastic.megatron.megatron_host import twice_as_wide


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
