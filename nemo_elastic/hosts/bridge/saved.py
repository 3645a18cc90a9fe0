# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run on Megatron-Bridge, as `hosts.common.checkpoints` treats them; readable without Bridge."""

from __future__ import annotations

import zipfile
from pathlib import Path

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.metadata import ITERATION, RUN_CONFIG, TRACKER, last_iteration, weights_folder
from nemo_elastic.formats.megatron.torch_files import STATE, check_harmless
from nemo_elastic.hosts.common.checkpoints import Checkpoints, wrong_file
from nemo_elastic.io.atomic import atomic_write
from nemo_elastic.io.bounded import open_regular, read_bytes

__all__ = ["BRIDGE", "NEWEST_STATE", "mark", "name_newest", "step_of"]

#: of a run: steps and samples of the newest checkpoint, beside all of them
NEWEST_STATE = "latest_train_state.pt"
_MARK = "unfinished_"


class BridgeCheckpoints(Checkpoints):
    """`iter_0000500`, in which Bridge writes `run_config.yaml` last; trackers beside them name the newest.

    Bridge starts from what a tracker names, whatever is left of that. It counts and removes what begins as its own do,
    so other names begin otherwise. `unfinished_iter_…` marks one as long as it is written.
    """

    def finished(self, folder: Path) -> list[Path]:
        return [path for path in _iterations(folder) if self.is_finished(path)]

    def is_finished(self, checkpoint: Path) -> bool:
        if mark(checkpoint).exists():
            return False
        return (checkpoint / RUN_CONFIG).is_file() or checkpoint == last_iteration(checkpoint.parent)

    def half_written(self, folder: Path) -> list[Path]:
        return [path for path in _iterations(folder) if not self.is_finished(path)]

    def differs(self, checkpoint: Path) -> str | None:
        for name in (RUN_CONFIG, STATE):
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
        with open_regular(checkpoint / STATE) as file:
            if not zipfile.is_zipfile(file):
                return f"{STATE} is cut off"
        check_harmless(checkpoint, only_weights=True)
        return None

    def problem_of_weights(self, checkpoint: Path) -> str | None:
        """What is wrong with a checkpoint whose weights alone are read: it may be no run's, and say nothing of one."""
        try:
            if mark(checkpoint).exists():
                return "it was not written to its end"
            why = wrong_file(checkpoint)
            if why is None:
                check_harmless(weights_folder(checkpoint), only_weights=True)
        except (ElasticError, OSError) as exc:
            return str(exc).removeprefix(f"{checkpoint}/")
        return why

    def aside(self, checkpoint: Path) -> str:
        return f"damaged_{checkpoint.name}"

    def clear(self, folder: Path, start: Path | None) -> None:
        """Set broken checkpoints aside before Bridge loads one, and let the trackers name that.

        Args:
            folder: of the run's checkpoints. One rank calls it, when all know what they start from.
            start: that; None for no checkpoint of this run.
        """
        if self.broken(folder):
            if start is None:
                (folder / TRACKER).unlink(missing_ok=True)
                (folder / NEWEST_STATE).unlink(missing_ok=True)
            else:
                name_newest(start)
            self.set_aside(folder)
        for left in folder.glob(f"{_MARK}*"):
            left.unlink(missing_ok=True)


BRIDGE = BridgeCheckpoints()


def mark(checkpoint: Path) -> Path:
    """What stands beside a checkpoint as long as it is written."""
    return checkpoint.with_name(f"{_MARK}{checkpoint.name}")


def name_newest(checkpoint: Path) -> None:
    """Let the trackers name a checkpoint: Bridge starts from it."""
    folder = checkpoint.parent
    atomic_write(folder / TRACKER, str(step_of(checkpoint)))
    atomic_write(folder / NEWEST_STATE, read_bytes(checkpoint / STATE))


def step_of(checkpoint: Path) -> int:
    """Steps after which a checkpoint was saved, by its name."""
    return int(checkpoint.name.removeprefix(ITERATION))


def _iterations(folder: Path) -> list[Path]:
    own = [p for p in folder.glob(f"{ITERATION}*") if p.name.removeprefix(ITERATION).isdecimal() and p.is_dir()]
    return sorted(own, key=step_of)
