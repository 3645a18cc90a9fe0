# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A member as a checkpoint of Megatron's: what is opened again, and what megatron-core itself reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.core.layout import by_megatron
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.adapter import apart
from nemo_elastic.formats.folders import open_source
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.ranking.test_sorting import unstriped
from tests.shapes import LATENT, MOE
from tests.support.states import from_megatron

from .models import build, start, state_of
from .moe import made

pytestmark = pytest.mark.nemo
PARENT = Parent("M-M*-M", 24, 40, 24, 16, 4, 4, 6, 4, 6, 2, 4, ffn_stripes=1)


@pytest.mark.parametrize("parent", [PARENT, unstriped(MOE), unstriped(LATENT)], ids=["dense", "experts", "latent"])
def test_what_is_written_is_read_again_by_megatron_and_by_us(
    parent: Parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from megatron.core import dist_checkpointing

    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.dist_checkpoint import write_megatron_checkpoint
    from nemo_elastic.megatron.models import load_model_weights

    if parent.has("experts"):
        pytest.importorskip("megatron.core.models.hybrid", reason="megatron-core 0.15 has no experts in a hybrid")

    def asking(wanted: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TransformerEngine unpickles the states that its layers are given."""
        assert wanted and not any("_extra_state" in key for key in wanted)
        return load(wanted, *args, **kwargs)

    load = dist_checkpointing.load
    start()
    model = made(parent)
    weights, own = state_of(model), from_megatron(parent, parent.full, state_of(model))
    write_megatron_checkpoint(tmp_path / "out", parent, parent.full, own)
    source = open_source(tmp_path / "out")
    assert (source.parent, source.family) == (parent, None)
    assert all(torch.equal(raw.torch(), own[name]) for name, raw in source.tensors.items())
    for dtype in (torch.float32, torch.bfloat16):  # a run that goes on loads its own, and its teacher, as it trains
        other = build(parent, seed=1).to(dtype)
        with cuda_as_cpu(), monkeypatch.context() as patched:
            patched.setattr(dist_checkpointing, "load", asking)
            load_model_weights(other, tmp_path / "out")
        for name, value in state_of(other).items():
            exact = name.endswith("expert_bias")
            assert torch.equal(value, weights[name] if exact else weights[name].to(dtype)), name


def with_predicting_layers() -> Any:
    """The stack's spec with a place for layers that predict further tokens, as megatron-core builds them."""
    from megatron.core.transformer import multi_token_prediction as mtp
    from megatron.core.transformer.spec_utils import ModuleSpec

    from nemo_elastic.megatron.modules import ElasticRMSNorm as Norm
    from nemo_elastic.megatron.moe_layer import ReplicatedLinear
    from nemo_elastic.megatron.spec import elastic_stack_spec

    inner = mtp.MultiTokenPredictionLayerSubmodules(enorm=Norm, hnorm=Norm, layer_norm=Norm, eh_proj=ReplicatedLinear)
    step = ModuleSpec(module=mtp.MultiTokenPredictionLayer, submodules=inner)
    spec = elastic_stack_spec()
    spec.submodules.mtp_block_spec = ModuleSpec(
        module=mtp.MultiTokenPredictionBlock,
        submodules=mtp.MultiTokenPredictionBlockSubmodules(layer_specs=[step]),
    )
    return spec


def test_layers_that_predict_further_tokens_go_along_and_a_model_without_them_loads_the_rest(tmp_path: Path) -> None:
    """Written from a folder, loaded by megatron-core, read again."""
    pytest.importorskip("megatron.core.models.hybrid", reason="megatron-core 0.15 has no such layers in a hybrid")
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.models import load_model_weights
    from tests.slicing.test_prediction import LAYERS, valued

    start()
    parent = unstriped(MOE)
    source = open_source(valued(tmp_path / "plain", parent))
    slice_checkpoint(source, tmp_path / "checkpoint", subnet=parent.full, format="megatron")
    model = made(parent, spec=with_predicting_layers(), pattern=f"{parent.pattern}/*E", mtp_num_layers=1)
    plain = made(parent)
    with cuda_as_cpu():
        load_model_weights(model, tmp_path / "checkpoint")
        load_model_weights(plain, tmp_path / "checkpoint")
    weights, mtp, read = state_of(model), {}, open_source(tmp_path / "checkpoint")
    for name, together in by_megatron(LAYERS.tensors(parent, parent.full)).items():
        parts = apart(parent, together, weights[name])
        mtp |= zip((t.hf for t in together), parts, strict=True)
    assert source.tensors.keys() == read.tensors.keys()
    for state in (weights, state_of(plain)):
        loaded = from_megatron(parent, parent.full, state) | mtp
        assert loaded.keys() == source.tensors.keys()
        for name, raw in source.tensors.items():
            assert torch.equal(raw.torch(), read.tensors[name].torch()), name
            assert torch.equal(raw.torch(), loaded[name]), name
    assert read.prediction == source.prediction == LAYERS


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
        with cuda_as_cpu(), pytest.raises(ElasticError, match=rf"^checkpoint: .* 40 rows, the model {rows};"):
            load(other, tmp_path / "out")
    assert all(torch.equal(value, before[name]) for name, value in state_of(other).items())
    check_rows(model, tmp_path / "out")
