# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A parent that is named by the folder of its training: its newest whole checkpoint, whoever wrote it."""

from __future__ import annotations

import os
from pathlib import Path

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.harmless import check_harmless
from nemo_elastic.formats.megatron.stored import weights_folder
from nemo_elastic.hosts.bridge import saved as of_bridge
from nemo_elastic.hosts.nemo.checkpoint import saved as of_nemo
from nemo_elastic.io.outputs import at_hand
from nemo_elastic.train.resume import choose_whole

__all__ = ["newest_of"]


def newest_of(teacher: str | os.PathLike[str] | None) -> str | None:
    """The checkpoint that a run's `teacher` means.

    Args:
        teacher: a checkpoint; or what a training of NeMo's or Megatron-Bridge's has left, the folder with its
            `checkpoints`, or that folder.

    Returns:
        A path from the root where it is at hand; as it was given where only a cluster has it, or it is neither.

    Raises:
        ElasticError: no checkpoint of the training is whole.
    """
    path = at_hand(teacher)
    if path is None or not os.path.isdir(path):
        return path
    for folder in (Path(path), Path(path, "checkpoints")):
        for found, problem in ((of_bridge.saved(folder), _problem), (of_nemo.saved(folder), of_nemo.problem)):
            if found:
                chosen, passed = choose_whole(folder, found, problem)
                for line in passed:
                    print(f"teacher: {folder}: {line.partition('; the run goes on')[0]}", flush=True)
                return str(chosen)
    return path


def _problem(checkpoint: Path) -> str | None:
    """What is wrong with the weights of a checkpoint of Bridge's: a teacher has no use for the rest."""
    try:
        check_harmless(weights_folder(checkpoint), only_weights=True)
    except (ElasticError, OSError) as exc:
        return str(exc).removeprefix(f"{checkpoint}/")
    return None
