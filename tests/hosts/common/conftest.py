# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint, and how each host saves one, for tests of the policy that both have."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts.common.saves import HOSTS, Saves, original_of


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return original_of(tmp_path_factory.mktemp("saved") / "one")


@pytest.fixture(params=HOSTS)
def saves(request: pytest.FixtureRequest) -> Saves:
    return HOSTS[request.param]
