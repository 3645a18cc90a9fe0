# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Text that every machine has: modules of the standard library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

FEW = ("ast", "calendar", "decimal")
MANY = ("argparse", "ast", "calendar", "configparser", "datetime", "decimal", "difflib", "doctest")


def library_text(folder: Path, names: Sequence[str] = MANY) -> Path:
    """Copy modules into a new folder, and give it."""
    folder.mkdir(parents=True)
    library = Path(json.__file__).parent.parent
    for name in names:
        (folder / f"{name}.py").write_text((library / f"{name}.py").read_text())
    return folder


def spoiled(data: Path, to: Path, split: str = "val", at: int | None = None, token: int = 60_000) -> Path:
    """Copy a data folder whose tokens are two bytes each, and give a split one that no vocabulary of ours has.

    Args:
        data: The folder.
        to: The copy.
        split: Which tokens.
        at: Its place; None for all of them.
        token: What is there.
    """
    import numpy as np

    shutil.copytree(data, to)
    tokens = np.memmap(to / f"{split}.bin", dtype="<u2", mode="r+")
    tokens[slice(None) if at is None else at] = token
    tokens.flush()
    return to
