# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The packed conversations that a run trains on: a folder of `nemo-elastic data` for the length of each stage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nemo_elastic.data.folder import CHAT_SPLITS, METADATA, ChatFolder
from nemo_elastic.data.packing import NAMES
from nemo_elastic.errors import bad

from .curriculum_run import CurriculumRun

__all__ = ["chat_folder", "packed_files"]


def chat_folder(run: CurriculumRun, job: str, packed: str) -> str:
    """The folder that a job of a run reads. One that only a cluster has is judged by its name alone.

    Args:
        run: of the curriculum.
        job: that runs a model.
        packed: `npy` or `parquet`, as its host reads it.

    Raises:
        ElasticError: not one folder, or one of sequences of another length or kind.
    """
    length, plan = run.stage(job).seq_length, run.curriculum
    of_its_own = length != plan.stage1.seq_length
    name, data = ("long_data", run.long_data) if of_its_own else ("data", run.text(job))
    wanted = f"--seq-length {length} --packed {packed}"
    entries = [] if isinstance(data, (str, Mapping)) else list(data or ())
    if len(entries) != 1 or not isinstance(entries[0], str):
        raise bad(name, data, f"[FOLDER], one of conversations, made by `nemo-elastic data` with {wanted}")
    folder = entries[0]
    if Path(folder).exists():
        made = ChatFolder.open(folder)
        if (made.length, made.packed) != (length, packed):
            raise bad(
                name, f"{folder}, made with --seq-length {made.length} --packed {made.packed}", f"one with {wanted}"
            )
    return folder


def packed_files(folder: str, packed: str) -> dict[str, str]:
    """Fields of a host's `PackedSequenceSpecs`: the files of a chat folder."""
    train, validation = (os.path.join(folder, f"{name}{NAMES[packed]}") for name in CHAT_SPLITS.values())
    files = {"packed_train_data_path": train, "packed_val_data_path": validation}
    return files | {"packed_metadata_path": os.path.join(folder, METADATA)}
