# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Going on where a run stopped, whatever stopped it: the newest whole checkpoint, and no other, with the same block.

NeMo marks a checkpoint as unfinished until it is whole. Its own classes refuse to start beside one that a kill left as
the only one, and write the last checkpoint of a run again over itself; these do neither.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo import lightning as nl
from nemo.lightning.ckpt_utils import ckpt_to_dir
from nemo.utils.app_state import AppState
from nemo.utils.get_rank import is_global_rank_zero
from torch.distributed.checkpoint import CheckpointException

from nemo_elastic.errors import ElasticError, shown

from .context import read_context
from .stored import first_line

#: settings that say how the rest of a run trains, not what it is: a resumed run takes the new ones and says so
STEERING = (
    "sampling",
    "budgets_per_batch",
    "nonfinite",
    "distill.temperature",
    "distill.alpha",
    "distill.top_k",
    "distill.chunk_tokens",
    "distill.teacher_precision",
)
#: what the second stage has to share with the first, whose router and members it takes
FAMILY = ("budgets", "axes", "router")


@dataclass(kw_only=True)
class ElasticResume(nl.AutoResume):
    """AutoResume that passes over unfinished checkpoints, and compares the elastic block with the checkpoint's."""

    def _find_trainer_ckpt_path(self) -> Path | None:
        folder = self.resume_from_directory or (AppState().log_dir and Path(AppState().log_dir) / "checkpoints")
        if folder and not whole_checkpoints(Path(folder)):
            return None  # the base class does not start where there are unfinished ones alone
        return super()._find_trainer_ckpt_path()

    def setup(self, trainer: Any, model: Any = None) -> None:
        """As the base class, after the block has been compared.

        Raises:
            ElasticError: the run would go on with another family.
        """
        super().setup(trainer, model)
        block = getattr(model, "elastic_config", None)
        if block is None:
            return
        if trainer.ckpt_path:
            weights = Path(trainer.ckpt_path)
            start = weights.parent if weights.name == self.WEIGHTS_PATH else weights
        elif model.stage == 2 and self.restore_config is not None:
            start = Path(self.restore_config.path)
        else:
            return

        def may_change(name: str) -> bool:
            return within(name, STEERING) if trainer.ckpt_path else not within(name, FAMILY)

        changes = check_same_family(read_context(start).elastic, block.to_dict(), start, may_change)
        for line in changes if is_global_rank_zero() else ():
            print(f"  resume: {line}", flush=True)


class ElasticCheckpoint(nl.ModelCheckpoint):
    """ModelCheckpoint that never overwrites a whole checkpoint of the same step, and leaves nothing half-written."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.ckpt_path:
            self._last_global_step_saved = trainer.global_step

    def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
        if self._last_global_step_saved == trainer.global_step > 0 and is_whole(ckpt_to_dir(filepath)):
            return
        before = self._last_global_step_saved
        try:
            super()._save_checkpoint(trainer, filepath)
        except (Exception, CheckpointException) as error:  # the latter is none of the former
            self._last_global_step_saved = before
            target = ckpt_to_dir(filepath)
            if is_global_rank_zero():
                remove_unfinished(target)
            free = shutil.disk_usage(target.parent).free / 1e9
            why = f"{first_line(error)}; {free:.1f} GB are free there"
            raise ElasticError(f"checkpoint: {target}: cannot be written ({why}); {newest(target.parent)}") from error


def whole_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run's folder from which it can go on, the newest last."""
    found = [p for p in folder.glob("*") if p.is_dir() and p.match("*last") and is_whole(p)]
    return sorted(found, key=lambda p: p.lstat().st_mtime)


def is_whole(checkpoint: Path) -> bool:
    """Whether there is a checkpoint without the mark of an unfinished one."""
    marker = nl.ModelCheckpoint.format_checkpoint_unfinished_marker_path(checkpoint)
    return (checkpoint / "weights" / "metadata.json").is_file() and not marker.exists()


def remove_unfinished(checkpoint: Path) -> None:
    """Remove what a save that failed has left, the mark last."""
    shutil.rmtree(checkpoint, ignore_errors=True)
    if not checkpoint.exists():
        nl.ModelCheckpoint.format_checkpoint_unfinished_marker_path(checkpoint).unlink(missing_ok=True)


def newest(folder: Path) -> str:
    """What the next start will go on from, in words."""
    found = whole_checkpoints(folder)
    return f"the next start goes on from {found[-1]}" if found else "there is no whole checkpoint yet"


def check_same_family(
    old: Mapping[str, Any] | None, new: Mapping[str, Any], where: Any, may_change: Callable[[str], bool]
) -> list[str]:
    """Hold the block of a run against that of the checkpoint from which it goes on.

    Args:
        old, new: blocks as JSON values (`ElasticConfig.to_dict`).
        where: the checkpoint.
        may_change: whether a setting, by its dotted name, may have another value from here on.

    Returns:
        One line per setting that has.

    Raises:
        ElasticError: another change, with all of them shown; or the checkpoint is not elastic.
    """
    if old is None:
        raise ElasticError(f"resume: {where} is not elastic; give a log directory of its own to the elastic run")
    changes = list(differences(old, new))
    refused = [text for name, text in changes if not may_change(name)]
    if refused:
        raise ElasticError(
            f"resume: {where} belongs to another elastic block: {'; '.join(refused)}; "
            "take the old values, or another log directory"
        )
    return [f"{text}, from here on" for _, text in changes]


def within(name: str, known: Sequence[str]) -> bool:
    """Whether a dotted name is one of some settings, or inside of one."""
    return any(name == k or name.startswith(f"{k}.") for k in known)


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, "elastic.name: old -> new") of everything that differs; what one side lacks is null there."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    elif old != new:
        yield name, f"elastic.{name}: {shown(old)} -> {shown(new)}"
