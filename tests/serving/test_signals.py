# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Signals on logits whose entropy, margin and surprise are known."""

from __future__ import annotations

import math

import pytest
import torch

from nemo_elastic.serving.calibration import SIGNALS, signals


def named(logits_tv: torch.Tensor, tokens: list[int], length: int) -> dict[str, float]:
    return dict(zip(SIGNALS, signals(logits_tv, tokens, length), strict=True))


def test_of_known_distributions():
    """First all alike, then 3/4 and 1/4: entropies, margins, and the surprise of the token between them."""
    even_v, sure_v = torch.zeros(4), torch.tensor([0.75, 0.25, 0.0, 0.0]).log().clamp(min=-1e30)
    actual = named(torch.stack([even_v, sure_v]), [3, 1], 10)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = {
        "entropy": entropy, "margin": math.log(3), "tail_entropy": (math.log(4) + entropy) / 2,
        "tail_margin": math.log(3) / 2, "tail_surprise": math.log(4), "log_length": math.log(10),
    }  # fmt: skip
    assert actual == pytest.approx(expected, rel=1e-5)


def test_of_one_token_and_of_half_precision():
    """Without a token that was seen to come, surprise is what is expected of the next."""
    logits_tv = torch.tensor([[2.0, 0.0, -1.0]])
    actual = named(logits_tv, [1], 1)
    assert actual["tail_surprise"] == actual["entropy"] > 0 and actual["log_length"] == 0
    assert named(logits_tv.bfloat16(), [1], 1) == pytest.approx(actual, rel=1e-6)
