# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Memory, FLOPs and time per GPU of a training run in every parallel layout, from formulas.

Pure arithmetic on top of `cost.py`, without torch. Docstrings name the source of each formula. Parameters, and
activations and loss of small models on a CPU, are checked against real runs (`tests/plan/test_measured.py`). Times use
assumed rates (`machine.py`): trust their order more than their size.
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
