# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as NeMo writes it, for tests of what may be wrong in one."""

from __future__ import annotations

import shutil
from pathlib import Path, PosixPath

import pytest
import torch

from tests.hosts.nemo.checkpoints import store
from tests.hosts.nemo.cutting import PARENT, random_tensors


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = store(tmp_path_factory.mktemp("harmless") / "one", PARENT, PARENT.full, random_tensors(PARENT))
    torch.save({"a": torch.zeros(2), "path": PosixPath("a"), "n": [1.5, None]}, folder / "weights" / "common.pt")
    return folder


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "one"))
