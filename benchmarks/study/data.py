# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The studies' data: Python's standard library and worked reasoning problems, in two mixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: folder -> settings of `nemo_elastic.data.build.build_data`; the second is for the study of long contexts
FOLDERS: dict[str, dict[str, Any]] = {
    "data": {"vocab": 1024},
    "data_long": {"vocab": 1024, "reasoning": 0.8, "held_out_problems": 768},
}


def prepare(name: str, runs: Path) -> Path:
    """The folder of that name, built where it is missing."""
    from nemo_elastic.data.build import build_data

    out = runs / name
    if not out.is_dir():
        build_data(out, **FOLDERS[name])
    return out
