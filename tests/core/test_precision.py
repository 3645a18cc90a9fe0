# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which weights low precision stores, and which widths and ranks it can cut."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from nemo_elastic.core.family import Parent
from nemo_elastic.core.precision import _first, check_blocks, default_rows
from nemo_elastic.errors import ElasticError


def parent(pattern: str) -> Parent:
    experts = {"experts": 4, "expert_ffn": 16, "shared_ffn": 16, "top_k": 2, "routed_scaling": 1.0}
    return Parent(pattern, 32, 64, 32, 4, 16, 2, 16, 4, 4, 2, 16, sizes=experts if "E" in pattern else {})


def test_attention_and_the_mamba_layer_before_it_stay() -> None:
    rows = default_rows(parent("M-M*-*M"))
    assert {i for _, i in rows} == {0, 1, 4, 6}
    assert {name for name, i in rows if i == 0} == {"mamba.in_proj", "mamba.out_proj"}
    assert {name for name, i in rows if i == 1} == {"mlp.up", "mlp.down"}


SHAPE = Parent("M-M*-", 64, 64, 128, 8, 16, 2, 16, 4, 4, 2, 16, ffn_stripes=4)


def test_widths_of_whole_blocks_are_cut() -> None:
    whole = {
        "hidden": (64, 48), "ffn": (128, 64), "mamba_heads": (8, 2), "mamba_head_dim": (16,),
        "attention_heads": (4, 2),
    }  # fmt: skip
    check_blocks(SHAPE, whole, "nvfp4", ("tensor", 2))
    check_blocks(SHAPE, {"hidden": (64, 40)}, "fp8", ("tensor", 3))  # has no blocks


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        (
            {"hidden": (64, 40)},
            "elastic.axes.hidden: 40 is not allowed; a width that cuts mamba.in_proj between blocks",
        ),
        ({"ffn": (128, 96)}, "elastic.axes.ffn: 96 is not allowed; a width that cuts mlp.down between blocks of 16"),
    ],
)
def test_others_are_refused(cut: dict[str, tuple[int, ...]], says: str) -> None:
    with pytest.raises(ElasticError, match=f"^{re.escape(says)}"):
        check_blocks(SHAPE, cut, "nvfp4")


def test_rows_come_in_the_order_of_layers_and_of_the_table() -> None:
    """Not in that of hashes: messages name the first."""
    rows = ["moe.up", "moe.down", "moe.shared_up", "moe.shared_down", "mamba.in_proj", "mamba.out_proj"]
    assert [row.name for row in _first(parent("EM"))] == rows


def test_parents_and_ranks_that_cut_blocks_are_refused() -> None:
    with pytest.raises(ElasticError, match=r"quantize: 'nvfp4' is not allowed; fp8: the 40 columns of mamba.in_proj"):
        check_blocks(replace(SHAPE, hidden=40), {}, "nvfp4")
    with pytest.raises(ElasticError, match=r"tensor: 4 is not allowed; ranks that share the 96 columns of mlp.down"):
        check_blocks(replace(SHAPE, ffn=96), {}, "nvfp4", ("tensor", 4))
    moe = replace(parent("ME"), experts_stripes=1)
    moe = Parent("ME", sizes=dict(moe.sizes) | {"expert_ffn": 48, "shared_ffn": 64})
    check_blocks(moe, {}, "nvfp4", ("tensor", 2))
    with pytest.raises(ElasticError, match=r"expert: 2 is not allowed; ranks that share the 48 columns of moe.down"):
        check_blocks(moe, {}, "nvfp4", ("tensor", 2), ("expert", 2))
