# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a carried cache loses: nothing where nothing is carried to another, and less than having no context."""

from __future__ import annotations

import torch

from benchmarks.carry import BEHIND, CONTEXT, WAYS, losses, table
from nemo_elastic.core.family import Parent
from nemo_elastic.nn.model import NemotronH
from nemo_elastic.nn.weights import random_state
from nemo_elastic.runtime import FamilyRuntime

PARENT = Parent(
    pattern="M-*", hidden=16, vocab=32, ffn=16, mamba_heads=4, mamba_head_dim=4, mamba_groups=2, state=4,
    attention_heads=2, kv_heads=1, attention_head_dim=8,
)  # fmt: skip


def test_losses_are_of_what_comes_behind() -> None:
    model = NemotronH(PARENT, random_state(PARENT, PARENT.full, seed=0), PARENT.full)
    family = FamilyRuntime(model, {"large": PARENT.full, "small": PARENT.uniform(range(3), mamba_heads=2)})
    tokens = torch.randint(32, (2, CONTEXT + BEHIND + 1), generator=torch.Generator().manual_seed(0))
    large, small = family.select("large"), family.select("small")
    same, other = losses(large, large, tokens), losses(small, large, tokens)
    torch.testing.assert_close(same["carried"], same["again"])
    torch.testing.assert_close(other["again"], same["again"])
    assert other["again"].shape == (2, BEHIND) and set(other) == {*WAYS, "again"}
    assert not torch.allclose(other["carried"], other["again"]) and not torch.allclose(other["none"], other["again"])
    whole = large(tokens[:, :-1])[:, CONTEXT:].log_softmax(-1)
    torch.testing.assert_close(
        same["again"], -whole.gather(-1, tokens[:, CONTEXT + 1 :, None])[..., 0], atol=1e-4, rtol=1e-4
    )


def test_the_table() -> None:
    figures = {f"{way} {what}": [0.01, -0.002, 0.022] for way in WAYS for what in ("first", "all")}
    text = table([{"pair": "6b>9b", "why": None, "again": 2.5, **figures}, {"pair": "6b>12b", "why": "a reason"}])
    lines = text.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "| 6b&gt;9b | 2.5000 | +0.0100 (-0.0020 to +0.0220) |" in lines[2]
    assert "| 6b&gt;12b | always: a reason |" in lines[3]
