# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the tiny recipe's experiment for test_tiny.py, fewer steps of everything, as a user's script would.

python -m tests.recipes.tiny_worker FOLDER; needs FOLDER/data and FOLDER/elastic.yaml.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_elastic.hosts.common.tiny import TINY

STEPS = (8, 6)
PARENT_STEPS = 4


def stage1(folder: Path, out: str, steps: int, ranks: int) -> Any:
    """Stage 1 of the family in FOLDER, for other workers; of the parent that this one has trained."""
    from nemo_elastic.hosts.nemo.tiny.family import TinyFamily
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH

    family = TinyFamily("tiny", TinyNemotronH, "nemotron-h-tiny", folder / "elastic.yaml", parent_steps=PARENT_STEPS)
    stage = replace(TINY.stage1, max_steps=steps, global_batch_size=4, micro_batch_size=4)
    return family.stage1_recipe(
        family.own_parent(str(folder / "tiny")), [str(folder / "data")], str(folder / out),
        curriculum=replace(TINY, stage1=stage), num_nodes=1, num_gpus_per_node=ranks,
    )  # fmt: skip


def main(folder: Path) -> None:
    import nemo_run as run
    from torchx.runner import Runner

    from nemo_elastic.hosts.common.experiment import local_executor
    from nemo_elastic.hosts.nemo.tiny.family import TinyFamily
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH
    from tests.recipes.recorder import StateRecorder

    class Recorded(TinyFamily):
        """With a callback in the jobs that train."""

        def build(self, job: str, own: Any) -> Any:
            task = super().build(job, own)
            if job.startswith("stage"):
                task.trainer.callbacks.append(run.Config(StateRecorder, folder=str(folder / "record")))
            return task

    wait = Runner.wait
    Runner.wait = lambda self, job, wait_interval=10: wait(
        self, job, min(0.2, wait_interval)
    )  # NeMo-Run looks every 2 s
    first = replace(TINY.stage1, max_steps=STEPS[0], global_batch_size=4, micro_batch_size=2)
    second = replace(TINY.stage2, max_steps=STEPS[1], seq_length=256, global_batch_size=2, micro_batch_size=2)
    block, dir = folder / "elastic.yaml", str(folder / "tiny")
    family = Recorded("tiny", TinyNemotronH, "nemotron-h-tiny", block, parent_steps=PARENT_STEPS)
    family.family_experiment(
        family.own_parent(dir), [str(folder / "data")], dir, local_executor, num_nodes=1, num_gpus_per_node=2,
        curriculum=replace(TINY, stage1=first, stage2=second, warmup_steps=2),
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
