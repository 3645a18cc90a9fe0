# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the tiny recipe through the two entry points of Python, for test_entry_points.py, as a user's script would.

python entry_points_worker.py FOLDER: needs FOLDER/data and FOLDER/elastic.yaml; prints the parent's checkpoint.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(folder: Path) -> None:
    import nemo_run as run

    from nemo_elastic import ElasticConfig, ElasticPlugin, apply_elastic
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint, nemotron_elastic_tiny

    def recipe(out: str) -> run.Partial:
        return nemotron_elastic_tiny(
            str(folder / "data"), str(folder / out), steps=3, seq_length=64, micro_batch_size=2, global_batch_size=4
        )

    # first what runs in processes of its own: a run in this one leaves its rendezvous in the environment
    run.run(recipe("parent"), run.LocalExecutor(), tail_logs=True)
    teacher = str(last_checkpoint(folder / "parent"))
    block = folder / "elastic.yaml"
    run.run(recipe("plugin"), run.LocalExecutor(), plugins=[ElasticPlugin(str(block), teacher=teacher)])
    run.run(apply_elastic(recipe("python"), ElasticConfig.load(block), teacher=teacher))
    print(f"teacher {teacher}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
