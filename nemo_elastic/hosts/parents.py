# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that is named by the folder of its training: its newest whole checkpoint, whoever wrote it."""

from __future__ import annotations

import os
from pathlib import Path

from nemo_elastic.hosts.bridge.saved import BRIDGE
from nemo_elastic.hosts.common.checkpoints import choose_whole
from nemo_elastic.hosts.nemo.checkpoint.saved import NEMO
from nemo_elastic.io.outputs import absolute_if_there

__all__ = ["newest_of"]


def newest_of(given: str | os.PathLike[str] | None, name: str = "teacher") -> str | None:
    """The checkpoint that a run's `teacher` means, or what stage 2 goes on from.

    Args:
        given: a checkpoint; or what a training of NeMo's or Megatron-Bridge's has left, the folder with its
            `checkpoints`, or that folder.
        name: how a run spells it, for what is printed of a checkpoint that is passed over.

    Returns:
        A path from the root where it is there; as it was given where only a cluster has it, or it is neither.

    Raises:
        ElasticError: no checkpoint of the training is whole.
    """
    path = absolute_if_there(given)
    if path is None or not os.path.isdir(path):
        return path
    for folder in (Path(path), Path(path, "checkpoints")):
        for host, problem in ((BRIDGE, BRIDGE.problem_of_weights), (NEMO, NEMO.problem)):
            finished = host.finished(folder)
            if finished:
                chosen, passed = choose_whole(folder, finished, problem)
                for line in passed:
                    print(f"{name}: {folder}: {line.partition('; the run goes on')[0]}", flush=True)
                return str(chosen)
    return path
