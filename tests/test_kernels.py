# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the Mamba kernels ask of widths: which call, and what is refused."""

from __future__ import annotations

import pytest

from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.errors import ElasticError
from nemo_elastic.kernels import MambaWidths, check_widths
from nemo_elastic.plan import preset

P12 = preset("nemotron-nano-12b-v2")
AXES = {"mamba_heads": AxisConfig((128, 112, 96, 80)), "mamba_head_dim": AxisConfig((80, 64))}


@pytest.mark.parametrize(
    ("tensor", "fused"),
    # heads of a rank that 8 does not divide: 28, 20 at TP4; 14, 12, 10 at TP8
    [(1, {128, 112, 96, 80}), (2, {128, 112, 96, 80}), (4, {128, 96}), (8, {128})],
)
def test_the_12b_runs_at_every_size_and_not_always_fused(tensor: int, fused: set[int]) -> None:
    check_widths(P12, AXES, tensor)
    for head_dim in (80, 64):
        widths = {h: MambaWidths(h // tensor, head_dim, 8 // tensor, 128) for h in (128, 112, 96, 80)}
        assert all(w.runs for w in widths.values())
        assert {h for h, w in widths.items() if w.fused} == fused


def test_x_that_begins_between_two_vectors_is_not_fused() -> None:
    widths = MambaWidths(4, 13, 1, 6)
    assert (widths.inner % 8, widths.convolved % 8, widths.projection % 8) == (4, 0, 0)
    assert widths.runs and not widths.fused


@pytest.mark.parametrize(
    ("groups", "heads", "dims", "tensor", "message"),
    [
        (8, (128, 112), (80, 79), 4, "tensor_model_parallel_size: 4 is not allowed; heads x head_dim"),
        (2, (128, 100), (80, 77), 1, "axes.mamba_head_dim: 77 is not allowed"),
        (2, (128, 100), (79, 78), 2, "axes.mamba_heads: 100 is not allowed"),
        (2, (100, 96), (79,), 1, "mamba_head_dim: 79 is not allowed"),
    ],
)
def test_what_is_refused_is_named(groups: int, heads: tuple[int, ...], dims: tuple[int, ...], tensor: int,
                                  message: str) -> None:  # fmt: skip
    parent = Parent("M", 64, 64, mamba_heads=heads[0], mamba_head_dim=dims[0], mamba_groups=groups, state=128)
    axes = {"mamba_heads": AxisConfig(heads), "mamba_head_dim": AxisConfig(dims)}
    with pytest.raises(ElasticError) as caught:
        check_widths(parent, axes, tensor)
    assert str(caught.value).startswith(message)


def test_a_parent_without_mamba_is_not_asked() -> None:
    check_widths(Parent("-*", 64, 64, mamba_heads=3, mamba_head_dim=3), {}, 1)
