# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of checkpoints as a run of either host leaves them, written by torch alone, and what happens to them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nemo_elastic.hosts.common.checkpoints import BRIDGE, NEMO, NEWEST_STATE, Checkpoints, write_list
from tests.hosts.nemo.checkpoints import store
from tests.hosts.nemo.cutting import PARENT, random_tensors

#: files of values beside the weights, in a folder of these
STATE = "train_state.pt"


@dataclass(frozen=True)
class Saves:
    """What a host leaves.

    Attributes:
        host: the adapter.
        name: of a checkpoint, by its steps.
        weights: folder of weights in it.
        aside: its name where it is damaged.
    """

    host: Checkpoints
    name: Callable[[int], str]
    weights: str
    aside: Callable[[str], str]

    def save(self, original: Path, folder: Path, step: int, listed: bool = True) -> Path:
        """A checkpoint as a run leaves it, with a list of its files or, as a host alone leaves it, without."""
        checkpoint = folder / self.name(step)
        if self.host is NEMO:
            shutil.copytree(original, checkpoint)
        else:
            shutil.copytree(original / "weights", checkpoint)
            (checkpoint / "run_config.yaml").write_text("model: {}\n")
            torch.save({"step": torch.tensor(step)}, checkpoint / STATE)
            shutil.copy(checkpoint / STATE, folder / NEWEST_STATE)
            (folder / "latest_checkpointed_iteration.txt").write_text(str(step))
        if listed:
            write_list(checkpoint, step)
        return checkpoint

    def cut_short(self, original: Path, folder: Path, step: int) -> Path:
        """One that a kill has interrupted while it was written."""
        checkpoint = self.save(original, folder, step, listed=False)
        self.host.mark(checkpoint).touch()
        return checkpoint


HOSTS = {
    "nemo": Saves(NEMO, lambda step: f"step={step}-last", "weights/", lambda name: f"{name}-damaged"),
    "bridge": Saves(BRIDGE, lambda step: f"iter_{step:07d}", "", lambda name: f"damaged_{name}"),
}


def original_of(folder: Path) -> Path:
    """A whole checkpoint of NeMo's, in a folder that is not there yet."""
    store(folder, PARENT, PARENT.full, random_tensors(PARENT))
    torch.save({"a": 1}, folder / "weights" / "common.pt")
    return folder


def cut(path: Path) -> None:
    """As a full disk, or a copy that was stopped, leaves a file."""
    os.truncate(path, path.stat().st_size // 2)
