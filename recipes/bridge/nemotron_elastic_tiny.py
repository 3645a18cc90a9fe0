# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A Nemotron-H of 1.6M parameters → 1.1M and 0.8M on Megatron-Bridge, on a CPU: parent, rank, both stages, slice.

    python recipes/bridge/nemotron_elastic_tiny.py --dir runs/bridge

One process, some minutes. Without TransformerEngine, which a CPU cannot have, Bridge cannot be imported; `make
demo-bridge` puts something in its place.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

BLOCK = Path(__file__).resolve().parents[2] / "conf" / "elastic_tiny.yaml"
PARENT_STEPS = 120


def family(dir: str, data: str | None = None, parent_steps: int = PARENT_STEPS, scale: float = 1.0) -> None:
    """All jobs, one after the other.

    Args:
        dir: folder for everything, an absolute path.
        data: folder made by `nemo-elastic data`; the standard library's text is tokenized where absent.
        parent_steps: steps of the parent's own training.
        scale: of the steps of both stages.
    """
    from megatron.bridge.training.gpt_step import forward_step
    from megatron.bridge.training.pretrain import pretrain

    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.data.build import build_data
    from nemo_elastic.hosts.bridge.curriculum import job_of, slice_job
    from nemo_elastic.hosts.bridge.platform import bridge_on_this_machine
    from nemo_elastic.hosts.bridge.tiny import tiny_config
    from nemo_elastic.plan.curriculum import Curriculum, Stage

    if data is None:
        data = str(Path(dir, "data"))
        if not Path(data).exists():
            build_data(data, vocab=1024)
    parent = tiny_config(data, Path(dir, "parent"), steps=parent_steps, micro_batch_size=8, warmup_steps=5)
    with bridge_on_this_machine(parent):
        pretrain(parent, forward_step)
    steps = [max(2, round(n * scale)) for n in (60, 30)]
    plan = Curriculum(
        Stage(128, 16, steps[0], micro_batch_size=16), Stage(512, 4, steps[1], (0.5, 0.3, 0.2), micro_batch_size=4),
        lr=3e-3, warmup_steps=min(5, steps[0] - 1),
    )  # fmt: skip
    for job in ("rank", "stage1", "stage2"):
        stage = plan.stage(2 if job == "stage2" else 1)
        config = tiny_config(
            data, Path(dir, job), steps=stage.max_steps, seq_length=stage.seq_length,
            micro_batch_size=stage.micro_batch_size, global_batch_size=stage.global_batch_size,
            split="train_long" if job == "stage2" else "train", eval_iters=1,
        )  # fmt: skip
        block = ElasticConfig.load(BLOCK)
        job_of(config, block, job, parent=str(Path(dir, "parent", "checkpoints")), dir=dir, curriculum=plan).pretrain()
    slice_job(dir)


def main(argv: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default="runs/bridge", help="folder for everything")
    parser.add_argument("--data", help="folder made by nemo-elastic data")
    parser.add_argument("--scale", type=float, default=1.0, help="of the steps, to see it run")
    args = parser.parse_args(argv)
    from nemo_elastic.errors import exit_in_one_line

    with exit_in_one_line():
        family(str(Path(args.dir).resolve()), args.data, max(2, round(PARENT_STEPS * args.scale)), args.scale)


if __name__ == "__main__":
    main()
