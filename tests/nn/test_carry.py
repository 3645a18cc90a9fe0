# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A cache that goes over to a larger member: the channels of both are where the larger one has them."""

from __future__ import annotations

import pytest
import torch

from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.kinds.mamba import MAMBA_HEAD_DIM, MAMBA_HEADS
from nemo_elastic.nn.cache import Cache, MambaState
from nemo_elastic.nn.carry import carried, why_not_carried
from nemo_elastic.nn.model import NemotronH
from nemo_elastic.nn.weights import random_state
from nemo_elastic.runtime import FamilyRuntime

PARENT = Parent(
    pattern="M-M*-", hidden=32, vocab=64, ffn=64, mamba_heads=8, mamba_head_dim=6, mamba_groups=2, state=4,
    attention_heads=4, kv_heads=2, attention_head_dim=8, ffn_stripes=4,
)  # fmt: skip
SMALL = PARENT.uniform([0, 1, 3, 4], hidden=24, ffn=32, mamba_heads=4, mamba_head_dim=4)
NO_ATTENTION = PARENT.uniform([0, 1, 2], hidden=24)
TOKENS = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(0))


def family(members: dict[str, Subnet]) -> FamilyRuntime:
    return FamilyRuntime(NemotronH(PARENT, random_state(PARENT, PARENT.full, seed=0), PARENT.full), members)


def read(member: Subnet) -> Cache:
    model = family({"large": PARENT.full, "small": SMALL, "none": NO_ATTENTION}).select(member)
    cache = model.init_cache(2)
    model(TOKENS, cache=cache)
    return cache


def like() -> torch.Tensor:
    return torch.zeros(1)


def by_group(t: torch.Tensor, layer: Layer) -> torch.Tensor:
    """[b, h * p, ...] -> [b, g, h / g, p, ...]."""
    heads, width = layer.widths[MAMBA_HEADS], layer.widths[MAMBA_HEAD_DIM]
    groups = PARENT.mamba_groups
    return t.reshape(len(t), groups, heads // groups, width, -1)


def test_a_member_that_is_the_larger_one_itself_goes_on_as_before() -> None:
    model = family({"large": PARENT.full}).select("large")
    one, other = model.init_cache(2), model.init_cache(2)
    model(TOKENS, cache=one)
    model(TOKENS, cache=other)
    moved = carried(other, PARENT, PARENT.full, like())
    assert moved.lengths == [9, 9]
    torch.testing.assert_close(model(TOKENS[:, :1], cache=moved), model(TOKENS[:, :1], cache=one))


def test_heads_of_each_group_and_channels_of_each_head_come_first_and_the_rest_is_zero() -> None:
    cache = read(SMALL)
    before = {i: s for i, s in cache.layers.items() if isinstance(s, MambaState)}
    moved = carried(cache, PARENT, PARENT.full, like())
    assert set(before) == {0} and set(moved.layers) == {0, 2, 3}
    own, wide = before[0], moved.layers[0]
    assert isinstance(wide, MambaState)
    small, large = SMALL.by_index[0], PARENT.full.by_index[0]
    inner = 4 * 4, 8 * 6
    for a, b in (
        (own.ssm_bhpn.flatten(1, 2), wide.ssm_bhpn.flatten(1, 2)),
        (own.conv_bck[:, : inner[0]], wide.conv_bck[:, : inner[1]]),
    ):
        kept, whole = by_group(a, small), by_group(b, large)
        assert torch.equal(whole[:, :, :2, :4], kept) and kept.abs().sum() > 0
        assert whole.abs().sum() == whole[:, :, :2, :4].abs().sum()
    assert torch.equal(wide.conv_bck[:, inner[1] :], own.conv_bck[:, inner[0] :])  # B and C
    empty = moved.layers[2]
    assert isinstance(empty, MambaState) and not empty.ssm_bhpn.any() and not empty.conv_bck.any()


def test_the_larger_member_knows_the_context() -> None:
    """What is carried is nearer to reading all again than reading nothing is."""
    runtime = family({"large": PARENT.full, "small": PARENT.uniform(range(5), hidden=32, mamba_heads=6)})
    large, small = runtime.select("large"), runtime.select("small")
    again, old = large.init_cache(2), small.init_cache(2)
    large(TOKENS, cache=again)
    small(TOKENS, cache=old)
    moved = carried(old, PARENT, PARENT.full, like())
    wanted, got, none = (large(TOKENS[:, :1], cache=c) for c in (again, moved, large.init_cache(2)))
    assert (got - wanted).norm() < 0.8 * (none - wanted).norm()


def test_what_is_not_carried() -> None:
    assert why_not_carried(SMALL, PARENT.full) is None
    assert why_not_carried(NO_ATTENTION, PARENT.full) == "attention layer 3 was dropped there"
    assert "hidden 32 is above 24" in str(why_not_carried(PARENT.full, SMALL))
    with pytest.raises(ValueError, match="the cache is not carried over: attention layer 3"):
        carried(read(NO_ATTENTION), PARENT, PARENT.full, like())
