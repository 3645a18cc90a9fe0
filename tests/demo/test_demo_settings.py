# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the demo runs: blocks that can be trained, and steps of one size."""

from __future__ import annotations

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.demo.demo_settings import FULL, PARENT, SHORT, STAGE1, STAGE2, Settings

BOTH = pytest.mark.parametrize("settings", [FULL, SHORT])


def test_every_step_has_2048_tokens() -> None:
    assert {sequences * length for sequences, length in (PARENT, STAGE1, STAGE2)} == {2048}


@BOTH
def test_blocks_of_both_stages_are_blocks(settings: Settings) -> None:
    one, two = ElasticConfig.from_dict(settings.block), ElasticConfig.from_dict(settings.stage2_block())
    assert one.weights() == pytest.approx([1 / 3] * 3) and two.weights() == pytest.approx(settings.stage2_sampling)
    assert two.axes == one.axes and two.budgets == one.budgets
