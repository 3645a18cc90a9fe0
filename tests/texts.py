# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Text that every machine has: modules of the standard library."""

from __future__ import annotations

import json
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
