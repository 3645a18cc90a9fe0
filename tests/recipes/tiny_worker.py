# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the tiny recipe's experiment for test_tiny.py, fewer steps of everything, as a user's script would.

python -m tests.recipes.tiny_worker FOLDER; needs FOLDER/data and FOLDER/elastic.yaml.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
STEPS = (8, 6)


def main(folder: Path) -> None:
    from dataclasses import replace

    import nemo_run as run
    import nemotron_elastic_tiny as tiny
    from torchx.runner import Runner

    from tests.recipes.recorder import StateRecorder

    wait = Runner.wait
    Runner.wait = lambda self, job, wait_interval=10: wait(
        self, job, min(0.2, wait_interval)
    )  # NeMo-Run looks every 2 s
    tiny.BLOCK = folder / "elastic.yaml"
    plan = tiny.curriculum()
    plan = replace(
        plan,
        stage1=replace(plan.stage1, max_steps=STEPS[0], global_batch_size=4, micro_batch_size=2),
        stage2=replace(plan.stage2, max_steps=STEPS[1], seq_length=256, global_batch_size=2, micro_batch_size=2),
        warmup_steps=2,
    )
    tiny.family_experiment(
        str(folder / "tiny"),
        str(folder / "data"),
        parent_steps=4,
        plan=plan,
        callbacks=[run.Config(StateRecorder, folder=str(folder / "record"))],
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
