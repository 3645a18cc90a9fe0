# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family with layers that predict more than one token on Megatron-Bridge: ranked, trained, and its members cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemo_elastic.core.prediction import Prediction
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.quantized import as_torch
from nemo_elastic.slicing.family_folder import slice_family
from nemo_elastic.slicing.verification import verify
from tests.hosts.bridge.layouts import do, losses
from tests.hosts.bridge.runs import EXPERTS, PREDICTION, Job, config, prepare_data
from tests.hosts.nemo.cutting import random_tensors
from tests.parallel.runs import VOCAB, Layout
from tests.slicing.test_prediction import drafts

pytest.importorskip("megatron.core.models.hybrid", reason="Megatron-Bridge has an environment of its own")
from tests.support.bridge import import_bridge

import_bridge()
LAYERS = Prediction("*E")
TOKENS = torch.randint(0, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))


def provider(**more: Any) -> Any:
    from megatron.bridge.models.hybrid.hybrid_provider import HybridModelProvider

    return HybridModelProvider(**(EXPERTS | PREDICTION | more), vocab_size=VOCAB)


def write_parent(out: Path, model: Any) -> Path:
    """A checkpoint of random weights, with one step of layers that is run twice."""
    from nemo_elastic.formats.megatron.shape import parent_of
    from nemo_elastic.megatron.dist_checkpoint import write_megatron_checkpoint

    parent, random = parent_of(model, VOCAB), np.random.default_rng(1)
    behind = {
        t.hf: torch.from_numpy((0.1 * random.standard_normal(t.shape)).astype(np.float32) + (len(t.shape) == 1))
        for t in LAYERS.tensors(parent, parent.full)
    }
    tensors = random_tensors(parent) | behind
    return write_megatron_checkpoint(out, parent, parent.full, tensors, prediction=LAYERS, steps=2)


@pytest.mark.slow
@pytest.mark.dist
def test_they_are_sorted_trained_and_cut_with_their_members(tmp_path: Path) -> None:
    prepare_data(tmp_path)
    how: dict[str, Any] = {"layout": Layout(mode="frozen_ce"), "experts": 1, "prediction": True}
    parent = write_parent(tmp_path / "parent", config(tmp_path, Job(str(tmp_path / "none"), **how)).model)
    how["teacher"] = str(parent)
    ranked = str(tmp_path / "rank" / "checkpoints")
    stage = Job(str(tmp_path / "stage"), steps=3, ranked=ranked, **how)
    do(tmp_path, "prediction", [Job(str(tmp_path / "rank"), "rank", steps=2, **how), stage])
    before, sorted_, after = (open_source(p) for p in (parent, ranked, tmp_path / "stage" / "checkpoints"))
    assert before.predicts == sorted_.predicts == after.predicts == LAYERS
    wanted = drafts(parent, TOKENS)
    torch.testing.assert_close(drafts(Path(ranked), TOKENS), wanted, rtol=1e-3, atol=1e-3)
    project = "mtp.layers.0.eh_proj.weight"
    assert not torch.equal(as_torch(before.prediction[project]), as_torch(sorted_.prediction[project]))
    for name, raw in sorted_.prediction.items():  # every one of them has learned
        assert not torch.equal(as_torch(raw), as_torch(after.prediction[name])), name
    assert all(np.isfinite(value) for line in losses(tmp_path / "stage") for value in line.values())
    slice_family(str(tmp_path / "stage" / "checkpoints"), str(tmp_path))
    family = open_source(tmp_path / "family")
    torch.testing.assert_close(
        drafts(tmp_path / "family", TOKENS), drafts(tmp_path / "stage" / "checkpoints", TOKENS), rtol=1e-4, atol=1e-4
    )
    for name, member in family.members.items():
        folder = tmp_path / "members" / name
        assert verify(folder, parent=tmp_path / "family").ok
        torch.testing.assert_close(
            drafts(folder, TOKENS), drafts(tmp_path / "family", TOKENS, member), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"mtp_hybrid_override_pattern": None},
            "mtp_hybrid_override_pattern: None is not allowed; the layers",
        ),
        ({"pipeline_model_parallel_size": 2}, "mtp_num_layers: 2 is not allowed; null on 2 pipeline ranks"),
        ({"mtp_detach_heads": True}, "mtp_detach_heads: True is not allowed; false: their loss trains the model"),
    ],
    ids=["no layers", "pipeline", "detached"],
)
def test_what_cannot_be_trained_is_refused(changes: dict[str, Any], says: str) -> None:
    from nemo_elastic.hosts.bridge.checks import _check_prediction

    with pytest.raises(ElasticError, match=says):
        _check_prediction(provider(pipeline_dtype=torch.float32, **changes))
