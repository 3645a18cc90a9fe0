# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A stock recipe that reads text."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hosts.nemo.blocks import with_text


@pytest.fixture
def recipe() -> Any:
    from nemo.collections import llm

    return with_text(llm.nemotron_nano_12b_v2.pretrain_recipe(num_nodes=1, num_gpus_per_node=8, max_steps=100))
