# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run on NeMo, as `hosts.common.checkpoints` treats them; readable without NeMo."""

from __future__ import annotations

import shutil
from pathlib import Path

from nemo_elastic.formats.megatron.torch_files import check_harmless
from nemo_elastic.hosts.common.checkpoints import Checkpoints, listed_step

__all__ = ["NEMO", "folder_of", "remove_unfinished"]

#: NeMo's mark, beside a checkpoint; what is marked when a run starts, NeMo itself removes
UNFINISHED = "-unfinished"


class NemoCheckpoints(Checkpoints):
    """`step=499-last` with `weights/` and `context/`, and a mark beside it until it is finished."""

    def finished(self, folder: Path) -> list[Path]:
        last = [path for path in folder.glob("*last") if self.is_finished(path)]
        return sorted(last, key=lambda path: (listed_step(path), path.lstat().st_mtime))

    def is_finished(self, checkpoint: Path) -> bool:
        return checkpoint.is_dir() and not _mark(checkpoint).exists()

    def differs(self, checkpoint: Path) -> None:
        check_harmless(checkpoint)

    def aside(self, checkpoint: Path) -> str:
        return f"{checkpoint.name}-damaged"


NEMO = NemoCheckpoints()


def folder_of(path: Path) -> Path:
    """The checkpoint of which NeMo names the folder, or that of its weights."""
    return path.parent if path.name == "weights" else path


def remove_unfinished(checkpoint: Path) -> None:
    """Remove what a save that failed has left, the mark last."""
    shutil.rmtree(checkpoint, ignore_errors=True)
    if not checkpoint.exists():
        _mark(checkpoint).unlink(missing_ok=True)


def _mark(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + UNFINISHED)
