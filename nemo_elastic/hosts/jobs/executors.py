# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where jobs run, when that is this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nemo_run as run

from nemo_elastic.errors import bad


def local_executor(nodes: int, devices: int) -> run.LocalExecutor:
    """torchrun on this machine; one process for a job without GPUs.

    Raises:
        ElasticError: more than one node.
    """
    if nodes != 1:
        raise bad("num_nodes", nodes, "1 on this machine; run_slurm.py has more")
    # torchrun lies beside python, also where the environment is not active
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return run.LocalExecutor(
        ntasks_per_node=max(1, devices),
        launcher="torchrun",
        env_vars={"PATH": path, "TOKENIZERS_PARALLELISM": "0"} | threads,
    )
