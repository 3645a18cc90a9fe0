# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One small data folder for all tests here: a few real packages of the standard library, and problems."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from nemo_elastic.data.build import build_data
from nemo_elastic.data.folder import DataFolder

STDLIB = Path(sysconfig.get_paths()["stdlib"])
SMALL = {"vocab": 512, "held_out_problems": 24, "seed": 3}


SOURCES = [STDLIB / "json", STDLIB / "email", STDLIB / "logging", STDLIB / "importlib"]


def build_small(place: Path) -> DataFolder:
    """The folder, in a place of its own."""
    return build_data(place / "small", SOURCES, **SMALL)


@pytest.fixture(scope="session")
def small_sources() -> list[Path]:
    return SOURCES


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return build_small(tmp_path_factory.mktemp("data"))
