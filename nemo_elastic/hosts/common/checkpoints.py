# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One policy for a run's checkpoints: which are whole, from which one a start resumes, what becomes of the others.

A checkpoint is whole if its host has finished it, every file that it was saved with is there in its size
(`elastic_files.json`, written last), and its metadata fits its files. One that was saved without the list, by a host
alone, is compared with its metadata only. A damaged one is passed over and gets another name.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.stored import first_line
from nemo_elastic.io.atomic import atomic_write
from nemo_elastic.io.read import read_json

#: of a checkpoint: its files and their sizes
LIST = "elastic_files.json"
#: before the name of a checkpoint that is being removed
_REMOVED = ".removed_"


class Checkpoints(ABC):
    """The policy; a host says how its checkpoints are named, and what it has to say of one."""

    # ------------------------------------------------------------------ of a host

    @abstractmethod
    def finished(self, folder: Path) -> list[Path]:
        """Checkpoints in a run's folder that were written to their end once, the newest last."""

    @abstractmethod
    def is_finished(self, checkpoint: Path) -> bool:
        """Whether a folder is one, by whatever name."""

    @abstractmethod
    def differs(self, checkpoint: Path) -> str | None:
        """How what is there differs from its own metadata, as far as no error says so.

        Raises:
            ElasticError: what is wrong.
            OSError: it cannot be read.
        """

    @abstractmethod
    def aside(self, checkpoint: Path) -> str:
        """The name of a damaged one: the host neither finds it under that nor removes it."""

    def half_written(self, folder: Path) -> list[Path]:
        """Those that a kill cut short, the newest last, as far as the host does not remove them itself."""
        return []

    # ------------------------------------------------------------------ which are whole

    def problem(self, checkpoint: Path) -> str | None:
        """What is wrong with a finished checkpoint, as far as sizes say; None for a whole one."""
        try:
            return wrong_file(checkpoint) or self.differs(checkpoint)
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
        for checkpoint in reversed(finished):
            if self.problem(checkpoint) is None:
                return f"the next start goes on from {checkpoint}"
        return "there is no whole checkpoint" + ("" if finished else " yet")

    def check_whole(self, checkpoint: Path) -> None:
        """Refuse a checkpoint from which no run can start; it may be another run's.

        Raises:
            ElasticError: it is damaged.
        """
        why = self.problem(checkpoint)
        if why is not None:
            raise ElasticError(f"checkpoint: {checkpoint}: {why}; nothing starts from it")

    def choose(self, folder: Path) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint of a run, and a line for each newer one that is passed over.

        Raises:
            ElasticError: there are finished checkpoints, and none is whole.
        """
        chosen, lines = choose_whole(folder, self.finished(folder), self.problem)
        goes_on = f"the run goes on from {chosen.name}" if chosen else "the run starts from the beginning"
        cut_short = [f"{one.name} is passed over: it was not written to its end; {goes_on}"
                     for one in reversed(self.half_written(folder))]  # fmt: skip
        return chosen, cut_short + lines

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
            names = (checkpoint.with_name(f"{self.aside(checkpoint)}{n or ''}") for n in range(1000))
            checkpoint.rename(next(name for name in names if not name.exists()))

    def superseded(self, folder: Path, kept: int) -> list[Path]:
        """Those that may go: all but the newest `kept`."""
        return self.finished(folder)[:-kept]

    def failed(self, checkpoint: Path, error: BaseException) -> ElasticError:
        """The one line for a save that failed; what it has left is gone by then."""
        there = next(folder for folder in checkpoint.parents if folder.is_dir())
        free = shutil.disk_usage(there).free / 1e9
        why = f"{first_line(error)}; {free:.1f} GB are free there"
        return ElasticError(f"checkpoint: {checkpoint}: cannot be written ({why}); {self.newest(checkpoint.parent)}")


def choose_whole(
    folder: Path, checkpoints: Sequence[Path], problem: Callable[[Path], str | None]
) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and why newer ones are passed over.

    Args:
        folder: of the run's checkpoints.
        checkpoints: those that were finished once, the newest last.
        problem: what is wrong with one; None for a whole one.

    Raises:
        ElasticError: there are checkpoints, and none is whole: to start anew would be to lose them silently.
    """
    passed: list[str] = []
    for checkpoint in reversed(checkpoints):
        why = problem(checkpoint)
        if why is None:
            return checkpoint, [f"{line}; the run goes on from {checkpoint.name}" for line in passed]
        passed.append(f"{checkpoint.name} is passed over: {why}")
    if passed:
        raise ElasticError(f"checkpoints: {folder}: {'; '.join(passed)}; no other is whole, and a start from the "
                           "beginning takes another log directory")  # fmt: skip
    return None, []


def remove(checkpoint: Path) -> None:
    """Remove a whole checkpoint; where a kill comes in between, nothing takes the rest of it for a checkpoint."""
    gone = checkpoint.with_name(f"{_REMOVED}{checkpoint.name}")
    shutil.rmtree(gone, ignore_errors=True)
    checkpoint.rename(gone)
    for left in checkpoint.parent.glob(f"{_REMOVED}*"):  # of a kill, too
        shutil.rmtree(left, ignore_errors=True)


# ------------------------------------------------------------------------------------------------ its files


def write_list(checkpoint: Path, step: int) -> None:
    """Write down the files of a checkpoint that has just been written by all ranks, and their sizes."""
    files = {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != LIST
    }
    atomic_write(checkpoint / LIST, json.dumps({"step": step, "files": files}, indent=1) + "\n")


def listed_step(checkpoint: Path) -> int:
    """Steps after which it was saved; -1 where it has no list. Times of files do not survive every copy."""
    try:
        step = read_json(checkpoint / LIST)["step"]
    except (ElasticError, OSError, TypeError, KeyError):
        return -1
    return step if isinstance(step, int) else -1


def wrong_file(checkpoint: Path) -> str | None:
    """Which file is not as it was saved, by its size; None without a list.

    Raises:
        ElasticError: the list is damaged.
        OSError: it cannot be read.
    """
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
