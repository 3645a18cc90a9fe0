# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The best checkpoint of a run has a second name, which tells its held-out loss: `step=499-val_loss=2.3104`.

It is a link to `step=499-last`: what starts from a run needs a name that is known before there is a loss, and one that
is written twice takes 172 GB more for a 12B, and as much of the hosts' memory meanwhile.
"""

from __future__ import annotations

import math
from pathlib import Path


def link_name(checkpoint: Path, monitor: str, value: float) -> str:
    """`step=499-last` → `step=499-val_loss=2.3104`."""
    return f"{checkpoint.name.removesuffix('-last')}-{monitor.replace('/', '_')}={value:.4f}"


def links(folder: Path) -> list[Path]:
    """All second names in a run's folder of checkpoints."""
    return [path for path in folder.iterdir() if path.is_symlink()] if folder.is_dir() else []


def best(folder: Path) -> tuple[Path, float] | None:
    """The best checkpoint and its loss as its second name tells it; None where none has one."""
    for link in links(folder):
        try:
            value = float(link.name.rpartition("=")[2])
        except ValueError:
            continue
        if link.is_dir():
            return folder / link.readlink(), value
    return None


def name_best(checkpoint: Path, monitor: str, value: float, mode: str = "min") -> bool:
    """Give a whole checkpoint the second name, where it is the best so far.

    Args:
        checkpoint: it; one rank calls it.
        monitor, value: what was measured of it.
        mode: "min" or "max" of it is best.

    Returns:
        Whether it is.
    """
    folder, sign = checkpoint.parent, -1 if mode == "max" else 1
    before, name = best(folder), link_name(checkpoint, monitor, value)
    if not math.isfinite(value) or (before is not None and sign * float(f"{value:.4f}") >= sign * before[1]):
        return False
    if (folder / name).is_dir() and not (folder / name).is_symlink():  # somebody has copied the run without links
        return False
    old = [link for link in links(folder) if link.name != name]
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(checkpoint.name)
    for link in old:
        link.unlink(missing_ok=True)
    return True


def drop_dangling(folder: Path) -> None:
    """Remove second names of what is no longer there."""
    for link in links(folder):
        if not link.exists():
            link.unlink(missing_ok=True)
