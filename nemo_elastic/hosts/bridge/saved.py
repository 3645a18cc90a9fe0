# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run on Megatron-Bridge: which are whole, and how a start passes over those that are not.

Bridge writes `iter_…/`, then the tracker that names it, then `run_config.yaml` in it. It starts from what the tracker
names, whatever is left of that.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.harmless import STATE, check_harmless
from nemo_elastic.formats.megatron.stored import ITERATION, RUN_CONFIG, TRACKER, last_iteration
from nemo_elastic.io.atomic import atomic_write
from nemo_elastic.io.bounded import open_regular, read_bytes
from nemo_elastic.train.resume import choose_whole

__all__ = ["choose", "problem", "saved", "set_aside", "step_of"]

#: of a run: steps and samples of the newest checkpoint, beside all of them
NEWEST_STATE = "latest_train_state.pt"
#: before the name of a damaged checkpoint; Bridge counts and removes what begins as its own do
ASIDE = "damaged_"


def step_of(checkpoint: Path) -> int:
    """Steps after which a checkpoint was saved, by its name."""
    return int(checkpoint.name.removeprefix(ITERATION))


def saved(folder: Path) -> list[Path]:
    """Checkpoints in a run's folder that were finished once, the newest last."""
    found = [p for p in folder.glob(f"{ITERATION}*") if p.name.removeprefix(ITERATION).isdecimal() and p.is_dir()]
    named = last_iteration(folder)
    return sorted((p for p in found if p == named or (p / RUN_CONFIG).is_file()), key=step_of)


def problem(checkpoint: Path) -> str | None:
    """What is wrong with a finished checkpoint, as far as sizes tell; None for a whole one."""
    for name in (RUN_CONFIG, STATE):
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    try:
        with open_regular(checkpoint / STATE) as file:
            if not zipfile.is_zipfile(file):
                return f"{STATE} is cut off"
        check_harmless(checkpoint, only_weights=True)
    except (ElasticError, OSError) as exc:
        return str(exc).removeprefix(f"{checkpoint}/")
    return None


def choose(folder: str | Path | None) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and why newer ones are passed over, see `choose_whole`."""
    return (None, []) if folder is None else choose_whole(Path(folder), saved(Path(folder)), problem)


def set_aside(folder: Path, start: Path) -> None:
    """Give damaged checkpoints that were passed over another name: the run will save under theirs again.

    Args:
        folder: of the run's checkpoints; one rank calls it, when all have read what they start from.
        start: what they have started from, which the trackers name from here on.
    """
    later = [c for c in saved(folder) if step_of(c) > step_of(start) and problem(c) is not None]
    if not later:
        return
    atomic_write(folder / TRACKER, str(step_of(start)))
    (folder / f"{NEWEST_STATE}.new").write_bytes(read_bytes(start / STATE))
    (folder / f"{NEWEST_STATE}.new").rename(folder / NEWEST_STATE)
    for checkpoint in later:
        names = (checkpoint.with_name(f"{ASIDE}{checkpoint.name}{n or ''}") for n in range(1000))
        checkpoint.rename(next(name for name in names if not name.exists()))
