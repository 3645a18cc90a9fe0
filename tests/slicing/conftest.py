# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it."""

from __future__ import annotations

import pytest

from nemo_elastic import slice_checkpoint
from tests.shapes import PARENT

from . import helpers
from .helpers import SMALL, random_values, write


@pytest.fixture
def run(monkeypatch):
    """Exit code, stdout and stderr of a command on a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    return helpers.run


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A family in one file, the same in several, and its small member."""
    place = tmp_path_factory.mktemp("originals")
    values = random_values(PARENT)
    write(place / "family", PARENT, {"small": SMALL}, tensors=values)
    write(place / "sharded", PARENT, {"small": SMALL}, tensors=values, shard_bytes=8000)
    slice_checkpoint(place / "family", place / "member", member="small")
    assert (place / "sharded" / "model-00001-of-00004.safetensors").exists()
    return place
