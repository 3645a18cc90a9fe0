# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family with layers that predict more than one token on Megatron-Bridge: ranked, trained, and its members cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemo_elastic.core.prediction import Prediction
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.megatron.stored import Stored
from nemo_elastic.formats.quantized import as_torch
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking import Ranking
from nemo_elastic.slicing.family_folder import slice_family
from nemo_elastic.slicing.verification import verify
from tests.hosts.bridge.layouts import do, losses, same, went_on
from tests.hosts.bridge.runs import EXPERTS, PREDICTION, Job, config, prepare_data
from tests.hosts.nemo.cutting import random_tensors
from tests.parallel.runs import VOCAB, Layout
from tests.slicing.test_prediction import drafts

pytest.importorskip("megatron.core.models.hybrid", reason="Megatron-Bridge has an environment of its own")
from tests.support.bridge import import_bridge

import_bridge()
LAYERS = Prediction("*E")
#: one rank that trains what every layout does
ALONE = Layout(micro_batches=2, mode="frozen_ce", halved=True)
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


#: layouts of ranks, and how many of them share the experts
PAIRS = {
    "ep2": (replace(ALONE, data=2), 2),
    "tp2-sp": (replace(ALONE, tensor=2, sequence=True, recompute="full"), 1),
    "dp2-sharded-overlap": (replace(ALONE, data=2, sharded=True, overlap=True), 1),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ranked and trained on one rank, where a run is killed and goes on, and in all layouts."""
    place = tmp_path_factory.mktemp("prediction")
    prepare_data(place)
    parent = write_parent(place / "parent", config(place, Job("none", experts=1, prediction=True)).model)

    def job(name: str, kind: str = "stage1", layout: Layout = ALONE, experts: int = 1, **more: Any) -> Job:
        start: dict[str, Any] = {"teacher": str(parent)}
        if kind != "rank":
            start["ranked"] = str(place / "rank" / "checkpoints")
        return Job(str(place / name), kind, layout, experts=experts, prediction=True, **({"steps": 2} | start | more))

    ranks = {name: replace(layout, micro_batches=1, recompute=None) for name, (layout, _) in PAIRS.items()}
    jobs = [
        job("rank", "rank", replace(ALONE, micro_batches=1)),
        job("alone"),
        job("whole", steps=3),
        job("killed", steps=3, save_every=1, until=2),
        job("killed", steps=3, save_every=1),
        *(job(name, "stage1", *how) for name, how in PAIRS.items()),
        *(job(f"rank-{name}", "rank", ranks[name], PAIRS[name][1]) for name in ("ep2", "tp2-sp")),
    ]
    do(place, "prediction", jobs)
    return place


@pytest.mark.slow
@pytest.mark.dist
def test_they_are_sorted_trained_and_cut_with_their_members(place: Path, tmp_path: Path) -> None:
    parent, ranked, trained = (place / p for p in ("parent", "rank/checkpoints", "whole/checkpoints"))
    before, sorted_, after = map(open_source, (parent, ranked, trained))
    assert before.predicts == sorted_.predicts == after.predicts == LAYERS
    ranking = Ranking.load(ranked / "elastic" / "ranking")
    assert ranking.behind is not None and ranking.behind.parent == LAYERS.behind(ranking.parent)
    assert (np.diff(ranking.behind.orders["experts.1"]) != 1).any()
    wanted = drafts(parent, TOKENS)
    torch.testing.assert_close(drafts(ranked, TOKENS), wanted, rtol=1e-3, atol=1e-3)
    project = "mtp.layers.0.eh_proj.weight"
    assert not torch.equal(as_torch(before.prediction[project]), as_torch(sorted_.prediction[project]))
    for name, raw in sorted_.prediction.items():  # every one of them has learned
        assert not torch.equal(as_torch(raw), as_torch(after.prediction[name])), name
    assert all(np.isfinite(value) for line in losses(place / "whole") for value in line.values())
    slice_family(str(trained), str(tmp_path))
    family = open_source(tmp_path / "family")
    torch.testing.assert_close(drafts(tmp_path / "family", TOKENS), drafts(trained, TOKENS), rtol=1e-4, atol=1e-4)
    transformers = pytest.importorskip("transformers", minversion="5.12")
    for name, member in family.members.items():
        folder = tmp_path / "members" / name
        read = open_source(folder)
        ours = NemotronH(read.parent, {key: as_torch(raw) for key, raw in read.tensors.items()}, read.held)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            torch.testing.assert_close(theirs(TOKENS).logits, ours(TOKENS), rtol=1e-3, atol=1e-4)
        assert verify(folder, parent=tmp_path / "family").ok
        torch.testing.assert_close(
            drafts(folder, TOKENS), drafts(tmp_path / "family", TOKENS, member), rtol=1e-3, atol=1e-3
        )


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("name", PAIRS)
def test_ranks_train_what_one_does(place: Path, name: str) -> None:
    same(place / name, place / "alone")


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("name", ["ep2", "tp2-sp"])
def test_ranks_find_the_orders_of_one(place: Path, name: str) -> None:
    actual, wanted = (
        Ranking.load(place / run / "checkpoints" / "elastic" / "ranking") for run in (f"rank-{name}", "rank")
    )
    assert actual.digest == wanted.digest and actual.behind is not None and wanted.behind is not None
    for axis, scores in wanted.behind.scores.items():
        np.testing.assert_allclose(actual.behind.scores[axis], scores, rtol=1e-4, atol=1e-6, err_msg=axis)
    held = [Stored(place / run / "checkpoints").held() for run in (f"rank-{name}", "rank")]
    assert all(torch.equal(value, held[1][key]) for key, value in held[0].items())
    assert any(key.startswith("mtp.") for key in held[0])


@pytest.mark.slow
@pytest.mark.dist
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(place: Path) -> None:
    went_on(place)


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
