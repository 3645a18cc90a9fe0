# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Text and problems that every command here is measured on."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from nemo_elastic.data.build import build_data
from nemo_elastic.data.folder import DataFolder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    source = Path(sysconfig.get_paths()["stdlib"]) / "json"
    return build_data(tmp_path_factory.mktemp("data") / "data", [source], vocab=400, held_out_problems=8)
