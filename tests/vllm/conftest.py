# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The family that the server and the engine have, and what our runtime says of it."""

from __future__ import annotations

import pytest

from .expected import Expected
from .families import write_served
from .server import vllm_python


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    vllm_python()
    return Expected(write_served(tmp_path_factory.mktemp("served")))
