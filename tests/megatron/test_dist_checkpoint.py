# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A member as a checkpoint of Megatron's: what is opened again, and what megatron-core itself reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.adapter import from_megatron
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.raw import to_torch
from tests.ranking.test_sorting import unstriped
from tests.shapes import LATENT, MOE

from .models import build, start, state_of
from .moe import made

pytestmark = pytest.mark.nemo
PARENT = Parent("M-M*-M", 24, 40, 24, 16, 4, 4, 6, 4, 6, 2, 4, ffn_stripes=1)


@pytest.mark.parametrize("parent", [PARENT, unstriped(MOE), unstriped(LATENT)], ids=["dense", "experts", "latent"])
def test_what_is_written_is_read_again_by_megatron_and_by_us(parent: Parent, tmp_path: Path) -> None:
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.dist_checkpoint import write_megatron_checkpoint
    from nemo_elastic.megatron.models import load_model_weights

    if parent.has("experts"):
        pytest.importorskip("megatron.core.models.hybrid", reason="megatron-core 0.15 has no experts in a hybrid")
    start()
    model = made(parent)
    weights, own = state_of(model), from_megatron(parent, parent.full, state_of(model))
    write_megatron_checkpoint(tmp_path / "out", parent, parent.full, own)
    source = open_source(tmp_path / "out")
    assert (source.parent, source.family) == (parent, None)
    assert all(torch.equal(to_torch(raw), own[name]) for name, raw in source.tensors.items())
    for dtype in (torch.float32, torch.bfloat16):  # a run that goes on loads its own, and its teacher, as it trains
        other = build(parent, seed=1).to(dtype)
        with cuda_as_cpu():
            load_model_weights(other, tmp_path / "out")
        for name, value in state_of(other).items():
            exact = name.endswith("expert_bias")
            assert torch.equal(value, weights[name] if exact else weights[name].to(dtype)), name


@pytest.mark.parametrize("rows", [20, 80])
def test_no_vocabulary_is_cut_or_filled_up(tmp_path: Path, rows: int) -> None:
    """megatron-core does either in silence, for its own padding."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.dist_checkpoint import write_megatron_checkpoint
    from nemo_elastic.megatron.models import check_rows, load_model_weights

    start()
    model, other = build(PARENT), build(replace(PARENT, vocab=rows), seed=1)
    write_megatron_checkpoint(
        tmp_path / "out", PARENT, PARENT.full, from_megatron(PARENT, PARENT.full, state_of(model))
    )
    before = state_of(other)
    for load in (load_model_weights, check_rows):  # the host loads where it is only checked
        with cuda_as_cpu(), pytest.raises(ElasticError) as caught:
            load(other, tmp_path / "out")
        message = f"its vocabulary has 40 rows, the model {rows}; neither is cut or filled up"
        assert str(caught.value) == f"checkpoint: {tmp_path / 'out'}: {message}"
    assert all(torch.equal(value, before[name]) for name, value in state_of(other).items())
    check_rows(model, tmp_path / "out")


def test_widths_that_differ_between_layers_are_refused(tmp_path: Path) -> None:
    from nemo_elastic.megatron.dist_checkpoint import write_megatron_checkpoint

    layers = PARENT.full.layers
    narrow = PARENT.uniform(ffn=12).layers[1]
    member = type(PARENT.full)(PARENT.hidden, (layers[0], narrow, *layers[2:]))
    with pytest.raises(ElasticError, match="widths that are the same in all layers"):
        write_megatron_checkpoint(tmp_path / "out", PARENT, member, {})
    assert not (tmp_path / "out").exists()
