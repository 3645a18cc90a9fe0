# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A rehearsal's parent and block: narrower, and otherwise the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.kernels import check_widths
from nemo_elastic.plan import preset
from nemo_elastic.rehearsal.small import ON_CPU, ON_GPU, Narrow, narrow
from nemo_elastic.search import Space, uniform_family

BLOCKS = {"12b": "nemotron-nano-12b-v2", "30b_a3b": "nemotron-3-nano-30b-a3b"}
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=BLOCKS)
def whole(request: pytest.FixtureRequest) -> tuple[Parent, ElasticConfig]:
    config = ElasticConfig.load(ROOT / "conf" / f"elastic_{request.param}.yaml")
    return config.parent_shape(preset(BLOCKS[request.param])), config


@pytest.mark.parametrize("by", [ON_CPU, ON_GPU], ids=["cpu", "gpu"])
def test_layers_groups_stripes_and_proportions_stay(whole: tuple[Parent, ElasticConfig], by: Narrow) -> None:
    parent, config = whole
    small, block = narrow(parent, config, by)
    for name in ("pattern", "mamba_groups", "kv_heads", "ffn_stripes", "conv_kernel", "tied", "norm_eps"):
        assert getattr(small, name) == getattr(parent, name)
    before, after = config.resolve_axes(parent), block.resolve_axes(small)
    for name in parent.axes:
        shares = [c / before[name].choices[0] for c in before[name].choices]
        assert [c / after[name].choices[0] for c in after[name].choices] == pytest.approx(shares)
    assert {k: v for k, v in block.to_dict().items() if k not in ("axes", "budgets")} == {
        k: v for k, v in config.to_dict().items() if k not in ("axes", "budgets")
    }


def test_budgets_are_the_same_shares_and_can_be_met(whole: tuple[Parent, ElasticConfig]) -> None:
    parent, config = whole
    small, block = narrow(parent, config, ON_CPU)
    space = Space(small, block.resolve_axes(small), tuple(range(small.num_layers)))
    cuts = uniform_family(space, block.budgets)
    for before, after in zip(config.budgets, block.budgets, strict=True):
        shares = [[limit.share_of(shape) for limit in b.limits] for b, shape in ((before, parent), (after, small))]
        assert shares[1] == pytest.approx(shares[0], rel=1e-3)
        used = [limit.share(small, cuts[after.name]) for limit in after.limits]
        assert all(share <= 1 for share in used) and max(used) > 0.8


def test_every_tensor_parallel_size_of_the_recipes_still_divides(whole: tuple[Parent, ElasticConfig]) -> None:
    small, block = narrow(*whole, ON_CPU)
    blocks = {name: small.axis(name).blocks for name in block.axes if name != DEPTH}
    divided = {name: count for name, count in blocks.items() if count > 1}
    assert set(divided) in ({"ffn", "mamba_heads", "attention_heads"}, {"experts", "shared_ffn"})
    for name, count in divided.items():
        assert count % 4 == 0 and all(c % count == 0 for c in block.axes[name].choices), name


def test_a_gpus_kernels_take_the_widths(whole: tuple[Parent, ElasticConfig]) -> None:
    small, block = narrow(*whole, ON_GPU)
    for tensor in (1, 2, 4):
        check_widths(small, block.resolve_axes(small), tensor)
