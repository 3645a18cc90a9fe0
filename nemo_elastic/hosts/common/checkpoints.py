# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One policy for a run's checkpoints: which are whole, from which one a start resumes, what becomes of the others.

A checkpoint is whole if its host has finished it, every file that it was saved with is there in its size
(`elastic_files.json`, written last), and its metadata fits its files. One that was saved without the list, by a host
alone, is compared with its metadata only. A damaged one is passed over and gets another name.

How each host names its checkpoints stands here, too: a folder is looked at where no host is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.megatron.context_files import read_context
from nemo_elastic.formats.megatron.metadata import ITERATION, RUN_CONFIG, TRACKER, last_iteration, weights_folder
from nemo_elastic.formats.megatron.stored import ELASTIC, Stored, first_line
from nemo_elastic.formats.megatron.torch_files import STATE, check_harmless
from nemo_elastic.io.read import open_regular, read_bytes, read_json
from nemo_elastic.io.terminal import say
from nemo_elastic.io.write import absolute_if_there, atomic_write

from .same_family import check_same_family, other_steps

__all__ = ["BRIDGE", "LIST", "NEMO", "NEWEST_STATE", "Checkpoints", "newest_of", "on_first", "remove", "report",
           "step_of", "write_list"]  # fmt: skip

#: of a checkpoint: its files and their sizes
LIST = "elastic_files.json"
#: Megatron-Bridge's file with steps and samples of the newest checkpoint, in the folder of all checkpoints
NEWEST_STATE = "latest_train_state.pt"
#: before the name of a checkpoint that is being removed
_REMOVED = ".removed_"
_CUT_SHORT = "it was not written to its end"


class Checkpoints(ABC):
    """Which checkpoints a run resumes from and keeps; a host adds their names and its own checks.

    Attributes:
        steps_field: the host's field with the steps of a stage.
    """

    steps_field: str

    # ------------------------------------------------------------------ of a host

    @abstractmethod
    def finished(self, folder: Path) -> list[Path]:
        """Checkpoints in a run's folder that were written to their end once, the newest last."""

    @abstractmethod
    def is_finished(self, checkpoint: Path) -> bool:
        """Whether a folder is one, by whatever name."""

    @abstractmethod
    def mark(self, checkpoint: Path) -> Path:
        """The file that exists while a checkpoint is being written."""

    @abstractmethod
    def metadata_problem(self, checkpoint: Path, weights: bool) -> str | None:
        """What is wrong with a checkpoint's metadata, None for nothing; it may raise an ElasticError too."""

    @abstractmethod
    def damaged_name(self, checkpoint: Path) -> str:
        """The name of a damaged one: the host neither finds it under that nor removes it."""

    def step(self, checkpoint: Path) -> int:
        """Steps of its stage after which a checkpoint was saved, by its list of files; -1 where that is missing."""
        try:
            step = read_json(checkpoint / LIST)["step"]
        except (ElasticError, OSError, TypeError, KeyError):
            return -1
        return step if isinstance(step, int) else -1

    def half_written(self, folder: Path) -> list[Path]:
        """Those that a kill cut short, the newest last, as far as the host does not remove them itself."""
        return []

    # ------------------------------------------------------------------ which are whole

    def problem(self, checkpoint: Path, weights: bool = False) -> str | None:
        """What is wrong with a checkpoint, as far as sizes say; None for a whole one.

        Args:
            weights: they alone are read; the checkpoint may be no run's, and say nothing of one.
        """
        try:
            if self.mark(checkpoint).exists():
                return _CUT_SHORT
            return _wrong_file(checkpoint) or self.metadata_problem(checkpoint, weights)
        except (ElasticError, OSError) as exc:
            return str(exc).removeprefix(f"{checkpoint}/")

    def is_whole(self, checkpoint: Path) -> bool:
        """Whether a run can resume from a checkpoint."""
        return self.is_finished(checkpoint) and self.problem(checkpoint) is None

    def whole(self, folder: Path) -> list[Path]:
        """All from which a run can resume, the newest last."""
        return [checkpoint for checkpoint in self.finished(folder) if self.problem(checkpoint) is None]

    def newest(self, folder: Path) -> str:
        """What the next start resumes from, in words."""
        finished = self.finished(folder)
        whole = next((one for one in reversed(finished) if self.problem(one) is None), None)
        if whole is not None:
            return f"the next start resumes from {whole}"
        return "there is no whole checkpoint" + ("" if finished else " yet")

    def choose(self, folder: Path, weights: bool = False) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint of a run, and a line for each newer one that is passed over.

        Raises:
            ElasticError: there are finished checkpoints, and none is whole: a start from the beginning would lose them
                silently.
        """
        chosen, passed = None, []
        for checkpoint in reversed(self.finished(folder)):
            why = self.problem(checkpoint, weights)
            if why is None:
                chosen = checkpoint
                break
            passed.append(f"{checkpoint.name} is passed over: {why}")
        if passed and chosen is None:
            raise ElasticError(f"checkpoints: {folder}: {'; '.join(passed)}; no other is whole; to start from the "
                               "beginning, give another log directory")  # fmt: skip
        cut_short = [f"{one.name} is passed over: {_CUT_SHORT}" for one in reversed(self.half_written(folder))]
        goes_on = f"the run resumes from {chosen.name}" if chosen else "the run starts from the beginning"
        return chosen, [f"{line}; {goes_on}" for line in (*cut_short, *passed)]

    def check_start(
        self, start: Path, config: ElasticConfig | None, stage: int, resumed: bool, steps: int | None = None
    ) -> list[str]:
        """Refuse to start from a damaged checkpoint or from another family's; `start` may be another run's.

        Args:
            config: the run's block; None for a run that is not elastic.
            stage, resumed: see `check_same_family`.
            steps: of the stage, where it trains.

        Returns:
            Where a resumed run starts, and a line for each setting that has another value from here on.
        """
        why = self.problem(start, weights=True)
        if why is not None:
            raise ElasticError(f"checkpoint: {start}: {why}; a training cannot start from it")
        step = self.step(start)
        lines = [f"from {start}" + (f", after step {step}" if step >= 0 else "")] if resumed else []
        context = None if config is None else read_context(start)
        if config is None or context is None:
            return lines
        before = context.elastic
        if before is None and stage <= 1 and not resumed:  # a parent as it was: this run ranks it
            return []
        lines += check_same_family(before, config, start, stage, resumed)
        if f"{ELASTIC}ranking" not in Stored(start).sizes:
            old = "was written by an earlier version, whose checkpoints have no digest of the ranking"
            raise ElasticError(f"resume: {start} {old}: cut members out of it, or give another log directory")
        if resumed and steps is not None and stage > 0:
            lines += other_steps(self.steps_field, context.steps[1], steps, config, stage, step)
        return lines

    def done_steps(self, start: Path, stage: int, resumed: bool) -> int:
        """Optimizer steps of the stages before the one that starts from a checkpoint.

        Args:
            resumed: the checkpoint is the run's own.

        Raises:
            ElasticError: the stage before was not trained to its end.
        """
        if stage <= 1:
            return 0
        before, own = read_context(start).steps
        if type(before) is not int or type(own) is not int:
            raise ElasticError(f"checkpoint: {start}: does not say how many steps its stage has")
        if resumed:
            return before
        reached = self.step(start)
        if reached < own:
            after = "an unknown step" if reached < 0 else f"step {reached}"
            raise bad("previous", str(start), f"the end of a stage: this one was saved after {after} of {own}")
        return before + own

    # ------------------------------------------------------------------ what becomes of the others

    def broken(self, folder: Path) -> list[Path]:
        """Damaged and half-written checkpoints."""
        damaged = [one for one in self.finished(folder) if self.problem(one) is not None]
        return damaged + self.half_written(folder)

    def set_aside(self, folder: Path) -> None:
        """Give the broken ones another name: the run will save under theirs again.

        Args:
            folder: of the run's checkpoints. One rank calls it, when all know what they start from.
        """
        for checkpoint in self.broken(folder):
            names = (checkpoint.with_name(f"{self.damaged_name(checkpoint)}{n or ''}") for n in range(1000))
            checkpoint.rename(next(name for name in names if not name.exists()))

    def superseded(self, folder: Path, kept: int) -> list[Path]:
        """Those that may go: all but the newest `kept`."""
        return self.finished(folder)[:-kept]

    def remove_unfinished(self, checkpoint: Path) -> None:
        """Remove what a save that failed has left, the mark last."""
        if self.mark(checkpoint).exists():
            shutil.rmtree(checkpoint, ignore_errors=True)
            if not checkpoint.exists():
                self.mark(checkpoint).unlink(missing_ok=True)

    def failed(self, checkpoint: Path, error: BaseException, first: bool) -> ElasticError:
        """The error line of a failed save; the first rank removes its files."""
        if first:
            self.remove_unfinished(checkpoint)
        there = next(folder for folder in checkpoint.parents if folder.is_dir())
        free = shutil.disk_usage(there).free / 1e9
        why = f"{first_line(error)}; the disk has {free:.1f} GB free"
        return ElasticError(f"checkpoint: {checkpoint}: cannot be written ({why}); {self.newest(checkpoint.parent)}")


def remove(checkpoint: Path) -> None:
    """Remove a whole checkpoint; where a kill comes in between, nothing takes the rest of it for a checkpoint."""
    gone = checkpoint.with_name(f"{_REMOVED}{checkpoint.name}")
    shutil.rmtree(gone, ignore_errors=True)
    checkpoint.rename(gone)
    for left in checkpoint.parent.glob(f"{_REMOVED}*"):  # of a kill, too
        shutil.rmtree(left, ignore_errors=True)


# ------------------------------------------------------------------------------------------------ hosts


class NemoCheckpoints(Checkpoints):
    """`step=499-last` with `weights/` and `context/`; what is marked when a run starts, NeMo itself removes."""

    steps_field = "trainer.max_steps"

    def finished(self, folder: Path) -> list[Path]:
        last = [path for path in folder.glob("*last") if self.is_finished(path)]
        return sorted(last, key=lambda path: (self.step(path), path.lstat().st_mtime))  # not every copy keeps times

    def is_finished(self, checkpoint: Path) -> bool:
        return checkpoint.is_dir() and not self.mark(checkpoint).exists()

    def mark(self, checkpoint: Path) -> Path:
        return checkpoint.with_name(f"{checkpoint.name}-unfinished")

    def metadata_problem(self, checkpoint: Path, weights: bool) -> None:
        check_harmless(checkpoint)

    def damaged_name(self, checkpoint: Path) -> str:
        return f"{checkpoint.name}-damaged"


class BridgeCheckpoints(Checkpoints):
    """`iter_0000500`, in which Bridge writes `run_config.yaml` last; trackers beside them name the newest.

    Bridge starts from what a tracker names, whatever is left of that. It counts and removes what begins as its own do,
    so other names begin otherwise.
    """

    steps_field = "train.train_iters"

    def finished(self, folder: Path) -> list[Path]:
        return [path for path in _iterations(folder) if self.is_finished(path)]

    def is_finished(self, checkpoint: Path) -> bool:
        if self.mark(checkpoint).exists():
            return False
        return (checkpoint / RUN_CONFIG).is_file() or checkpoint == last_iteration(checkpoint.parent)

    def step(self, checkpoint: Path) -> int:
        real = checkpoint.resolve()  # a link to one may have any name
        return step_of(real) if real in _iterations(real.parent) else super().step(checkpoint)

    def mark(self, checkpoint: Path) -> Path:
        return checkpoint.with_name(f"unfinished_{checkpoint.name}")

    def half_written(self, folder: Path) -> list[Path]:
        return [path for path in _iterations(folder) if not self.is_finished(path)]

    def metadata_problem(self, checkpoint: Path, weights: bool) -> str | None:
        if weights:
            check_harmless(weights_folder(checkpoint), only_weights=True)
            return None
        for name in (RUN_CONFIG, STATE):
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
        with open_regular(checkpoint / STATE) as file:
            if not zipfile.is_zipfile(file):
                return f"{STATE} is cut off"
        check_harmless(checkpoint, only_weights=True)
        return None

    def damaged_name(self, checkpoint: Path) -> str:
        return f"damaged_{checkpoint.name}"

    def clear(self, folder: Path, start: Path | None) -> None:
        """Set broken checkpoints aside before Bridge loads one, and let the trackers name that.

        Args:
            folder: of the run's checkpoints. One rank calls it, when all know what they start from.
            start: that; None for no checkpoint of this run.
        """
        if self.broken(folder):
            self._track(folder, start)
            self.set_aside(folder)
        for left in folder.glob(self.mark(folder / "*").name):
            left.unlink(missing_ok=True)

    def remove_unfinished(self, checkpoint: Path) -> None:
        super().remove_unfinished(checkpoint)
        whole = self.whole(checkpoint.parent)
        if whole and last_iteration(checkpoint.parent) is None:
            self._track(checkpoint.parent, whole[-1])

    def _track(self, folder: Path, checkpoint: Path | None) -> None:
        """Let the trackers name a checkpoint, from which Bridge starts, or none."""
        if checkpoint is None:
            (folder / TRACKER).unlink(missing_ok=True)
            (folder / NEWEST_STATE).unlink(missing_ok=True)
        else:
            atomic_write(folder / TRACKER, str(step_of(checkpoint)))
            atomic_write(folder / NEWEST_STATE, read_bytes(checkpoint / STATE))


NEMO, BRIDGE = NemoCheckpoints(), BridgeCheckpoints()


def step_of(checkpoint: Path) -> int:
    """Steps after which a checkpoint of Bridge's was saved, by its name."""
    return int(checkpoint.name.removeprefix(ITERATION))


def _iterations(folder: Path) -> list[Path]:
    own = [p for p in folder.glob(f"{ITERATION}*") if p.name.removeprefix(ITERATION).isdecimal() and p.is_dir()]
    return sorted(own, key=step_of)


def newest_of(given: str | os.PathLike[str] | None, name: str = "teacher") -> str | None:
    """The checkpoint that `teacher` or `previous` of a run names.

    Args:
        given: a checkpoint; or what a training of NeMo's or Megatron-Bridge's has left, the folder with its
            `checkpoints`, or that folder.
        name: the argument's name, for the line about a checkpoint that is passed over.

    Returns:
        A path from the root where it is there; as it was given where only a cluster has it, or it is neither.

    Raises:
        ElasticError: no checkpoint of the training is whole.
    """
    path = absolute_if_there(given)
    if path is None or not os.path.isdir(path):
        return path
    for folder in (Path(path), Path(path, "checkpoints")):
        for host in (BRIDGE, NEMO):
            chosen, passed = host.choose(folder, weights=True)
            if chosen is not None:
                for line in passed:
                    say(f"{name}: {folder}: {line.partition('; the run resumes')[0]}")
                return str(chosen)
    return path


# ------------------------------------------------------------------------------------------------ files of one


def write_list(checkpoint: Path, step: int) -> None:
    """Write down the files of a checkpoint that has just been written by all ranks, and their sizes."""
    files = {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != LIST
    }
    atomic_write(checkpoint / LIST, json.dumps({"step": step, "files": files}, indent=1) + "\n")


def _wrong_file(checkpoint: Path) -> str | None:
    """Which file is not as it was saved, by its size; None without a list."""
    if not (checkpoint / LIST).exists():
        return None
    content = read_json(checkpoint / LIST)
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files or not all(type(size) is int for size in files.values()):
        raise ElasticError(f"{checkpoint / LIST}: is no list of files")
    for name, size in files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, not the {size} that it was saved with"
    return None


# ------------------------------------------------------------------------------------------------ ranks


def report(lines: list[str], first: bool) -> None:
    """Print on the first rank what a start says of checkpoints."""
    for line in lines if first else ():
        say(f"  resume: {line}")


def on_first(work: Callable[[], Any]) -> Any:
    """Do something on the first rank; all ranks return its result, or raise its error: none waits for one that failed.

    Raises:
        ElasticError, OSError: the first rank's.
    """
    from torch import distributed

    if not distributed.is_initialized():
        return work()
    done: list[Any] = [None, None]  # result, error
    if distributed.get_rank() == 0:
        try:
            done[0] = work()
        except (ElasticError, OSError) as error:
            done[1] = error
    distributed.broadcast_object_list(done)
    if done[1] is not None:
        raise done[1]
    return done[0]
