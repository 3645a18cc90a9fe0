# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Ranks a tiny parent as a job of its own; is killed by SIGKILL in the middle of a save, if one is named.

python -m tests.hosts.nemo.rank_worker FOLDER OUT [SAVE]; the first one builds data and parent, too.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.texts import library_text

BLOCK = {
    "budgets": [{"name": "full"}, {"name": "small", "ratio": 0.8}],
    "axes": {"hidden": [128, 112, 96], "mamba_head_dim": [16, 12], "depth": [12, 11, 10, 9]},
    "importance": {"samples": 8, "depth_samples": 4},
    "search": None,
    "router": None,
}


def main(folder: Path, out: Path, save: int) -> None:
    import fiddle
    import nemo_run as run
    import torch
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.data.build import build_data
    from nemo_elastic.demo.quiet import quiet
    from nemo_elastic.hosts.nemo.curriculum.rank import rank_only
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint, tiny_recipe
    from nemo_elastic.ranking import unfinished

    quiet()
    torch.set_num_threads(1)
    unfinished.EVERY = 0.0
    replace, left = os.replace, [save]

    def killed(source: Any, target: Any, **options: Any) -> None:
        left[0] -= "ranking.unfinished-tp1-dp1-0" in Path(target).name
        if save and not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target, **options)

    os.replace = killed

    def recipe(out: Path) -> run.Partial:
        r = tiny_recipe(folder / "data", out, steps=2, seq_length=64, micro_batch_size=2, global_batch_size=4,
                        label="", eval_every=0)  # fmt: skip
        r.model.config.vocab_size = 512
        return r

    if not (folder / "data").exists():
        build_data(folder / "data", [library_text(folder / "text")], vocab=512, held_out_problems=4)
        fiddle.build(recipe(folder / "parent"))()
        destroy_num_microbatches_calculator()
    job = rank_only(
        recipe(out),
        ElasticConfig.from_dict(BLOCK),
        parent=str(last_checkpoint(folder / "parent")),
        out=str(out / "elastic"),
        checkpoint=str(out / "ranked"),
    )
    fiddle.build(job)()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(*sys.argv[3:4]) if sys.argv[3:] else 0)
