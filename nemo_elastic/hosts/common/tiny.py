# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the tiny families of both hosts train on."""

from __future__ import annotations

from pathlib import Path

from nemo_elastic.data.build import build_data
from nemo_elastic.plan.stages import Curriculum, Stage

from .curriculum_run import job_folder

__all__ = ["PARENT_STEPS", "TINY", "tiny_data"]

#: the large recipes' curriculum, scaled down: 2048 tokens a step, stage 2 at four times the length of stage 1
TINY = Curriculum(
    Stage(128, 16, 60, micro_batch_size=16), Stage(512, 4, 30, (0.5, 0.3, 0.2), micro_batch_size=4),
    lr=3e-3, warmup_steps=5,
)  # fmt: skip
#: steps of a parent's own training
PARENT_STEPS = 120


def tiny_data(dir: str, data: str | None = None) -> str:
    """A folder of `nemo-elastic data`: the given one, or DIR/data, made of the standard library's text."""
    if data is None:
        data = job_folder(dir, "data")
        if not Path(data).exists():
            build_data(data, vocab=1024)
    return data
