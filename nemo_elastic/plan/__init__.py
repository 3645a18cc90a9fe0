# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a training run takes per GPU: memory, FLOPs and time of every parallel layout, from formulas.

Pure arithmetic on top of `cost.py`; nothing here imports torch. Every formula's docstring says where it comes from.
What was checked against real runs: parameters, and the activations and the loss of small models on a CPU
(`tests/plan/test_measured.py`). Times rest on assumed rates (`machine.py`); their order means more than their size.
"""

from nemo_elastic.plan.candidate import Candidate
from nemo_elastic.plan.layouts import Duration, Layout, best, choose, duration, layouts
from nemo_elastic.plan.machine import GPUS, NODE, Gpu, RunShape
from nemo_elastic.plan.memory import Memory
from nemo_elastic.plan.presets import PRESETS, preset
from nemo_elastic.plan.stages import PAPER, Curriculum

__all__ = [
    "GPUS",
    "NODE",
    "PAPER",
    "PRESETS",
    "Candidate",
    "Curriculum",
    "Duration",
    "Gpu",
    "Layout",
    "Memory",
    "RunShape",
    "best",
    "choose",
    "duration",
    "layouts",
    "preset",
]
