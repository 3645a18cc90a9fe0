# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family with experts on Megatron-Bridge: ranks that share them against one rank, a kill, and the members cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.core.cost import active_parameters, parameters
from nemo_elastic.core.subnet import Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.megatron.stored import Stored
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking import Ranking
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.hosts.bridge.experts import ONE, RANKED, SHARED, TRAINED, alone, measure
from tests.parallel.bridge import EXPERT_BLOCK, EXPERTS
from tests.parallel.compare import identical, losses, rankings_apart, same
from tests.parallel.forks import measured
from tests.parallel.runs import BLOCK, ranking_of, write_data

place = measured(measure)


@pytest.mark.slow(minutes=3)
@pytest.mark.dist
@pytest.mark.parametrize("name", TRAINED)
def test_ranks_train_what_one_does(place: Path, name: str) -> None:
    same(place / name, place / alone(name))


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("name", RANKED)
def test_ranks_find_the_orders_members_and_weights_of_one(place: Path, name: str) -> None:
    assert rankings_apart(place / f"rank-{name}", place / ranking_of(ONE)).alike


@pytest.mark.slow
@pytest.mark.dist
def test_candidates_of_a_budget_differ_in_their_experts_too_and_keep_both_limits(place: Path) -> None:
    ranking = Ranking.load(place / ranking_of(ONE) / "checkpoints" / "elastic" / "ranking")
    left = json.loads((place / ranking_of(ONE) / "checkpoints" / "elastic" / "shapes.json").read_text())["report"]
    alike = 0
    for budget, limits in zip(("large", "small"), ((80000, 69000), (70000, 62000)), strict=True):
        own = [Subnet.from_json(member, ranking.parent) for member in left["candidates"][budget]]
        cells = {(member.hidden, len(member.layers), member.widths("experts")) for member in own}
        assert 1 < len(cells) == len(own)
        alike += len(cells) - len({cell[:2] for cell in cells})
        for member in own:
            counts = parameters(ranking.parent, member), active_parameters(ranking.parent, member)
            assert all(count <= limit for count, limit in zip(counts, limits, strict=True))
    assert alike, "some differ in their experts alone"


@pytest.mark.slow
@pytest.mark.dist
def test_experts_move_to_other_ranks_with_their_neurons_in_orders_of_their_own(place: Path) -> None:
    """Without which the test above would say little."""
    ranking = Ranking.load(place / "rank-ep2" / "checkpoints" / "elastic" / "ranking")
    for layer in (1, 4):
        before = ranking.parent.axis("experts").order_to_layout(ranking.orders[f"experts.{layer}"])
        assert len({*range(4)} & {*before[:4].tolist()}) < 4
        assert len({tuple(order) for order in ranking.orders[f"expert_ffn.{layer}"].tolist()}) == 8
    assert (ranking.orders["experts.1"] != ranking.orders["experts.4"]).any()


@pytest.mark.slow
@pytest.mark.dist
def test_a_training_finds_its_members_itself(place: Path) -> None:
    """On two ranks that share experts, as one does that starts from a ranking."""
    same(place / "by-itself", place / alone("tp2-sp"))


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize(("before", "now"), SHARED[1:])
def test_a_second_stage_goes_on_where_ranks_begin_to_share_experts_or_cease_to(
    place: Path, before: int, now: int
) -> None:
    """megatron-core has an optimizer of its own for experts that ranks share, and loads as many as were saved."""
    same(place / f"second-{before}-{now}", place / "second-1-1")


@pytest.mark.slow
@pytest.mark.dist
def test_a_killed_run_goes_on_on_ranks_that_share_experts_where_none_did(place: Path) -> None:
    same(place / "moved", place / "unmoved")
    assert len(losses(place / "moved")) == 3


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("name", [*TRAINED, "whole"])
def test_the_balance_of_experts_moves_in_steps_that_run_the_whole_model(place: Path, name: str) -> None:
    """Once for each such step, whatever the other micro-batches ran."""
    steps = sum("loss_full" in line for line in losses(place / name))
    start = ranking_of(TRAINED.get(name, ONE))
    actual, before = (Stored(place / run / "checkpoints") for run in (name, start))
    keys = [key for key in actual.sizes if key.endswith("expert_bias")]
    moved = [(actual.read(key) - before.read(key)).abs() for key in keys]
    assert steps == 1 and len(moved) == 2
    for each in moved:
        assert set((each / 1e-2).round(decimals=3).tolist()) <= {0.0, 1.0} and each.any()


@pytest.mark.slow
@pytest.mark.dist
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(place: Path) -> None:
    identical(place / "killed", place / "whole")


@pytest.mark.slow
@pytest.mark.dist
def test_members_of_the_checkpoint_are_what_the_model_ran_in_training(place: Path, tmp_path: Path) -> None:
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.models import load_model_weights
    from tests.support.models import build, start

    checkpoint = place / "ep2" / "checkpoints"
    source = open_source(checkpoint)
    family, parent = source.family, source.parent
    assert family is not None and [m.name for m in family] == ["full", "large", "small"]
    start()
    model = build(parent)
    tokens = torch.randint(0, parent.vocab, (2, 16), generator=torch.Generator().manual_seed(0))
    with cuda_as_cpu(), torch.no_grad():
        load_model_weights(model, checkpoint)
        for member in family:
            cut = slice_checkpoint(checkpoint, tmp_path / member.name, member=member.name)
            opened = open_source(cut.out)
            alone = NemotronH(opened.parent, {name: raw.torch() for name, raw in opened.tensors.items()}, opened.held)
            model.state.choice = member.subnet
            torch.testing.assert_close(model(tokens, None, None), alone(tokens), rtol=1e-4, atol=1e-4)
    small = family.member("small").subnet
    assert small.widths("experts") != parent.full.widths("experts") or small.hidden < parent.hidden


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tensor_model_parallel_size", 2, "sequence_parallel: False "),
        (
            "expert_model_parallel_size",
            3,
            "expert_model_parallel_size: 3 ",
        ),
        ("expert_tensor_parallel_size", 3, "elastic.axes.expert_ffn; set stripes to a multiple of 3"),
        ("moe_router_load_balancing_type", "global_aux_loss", "aux_loss, seq_aux_loss or none"),
        ("moe_router_load_balancing_type", "sinkhorn", "none or a loss; other methods choose other experts"),
        ("moe_router_topk", 1, "moe_router_topk: 1 "),
        ("moe_router_num_groups", 4, "moe_router_num_groups: 4 "),
        ("moe_shared_expert_intermediate_size", None, "parent.shared_ffn: None is not allowed"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(tmp_path: Path, field: str, value: Any, message: str) -> None:
    from nemo_elastic.hosts.bridge.apply import apply_elastic
    from nemo_elastic.hosts.bridge.tiny import tiny_config
    from nemo_elastic.hosts.common.changes import settings

    write_data(tmp_path)
    recipe = tiny_config(tmp_path / "data", tmp_path / "run", steps=4, seq_length=64, warmup_steps=2, sizes=EXPERTS)
    setattr(recipe.model, field, value)
    before, block = settings(recipe), BLOCK | EXPERT_BLOCK | {"distill": {"teacher": "none"}}
    with pytest.raises(ElasticError) as caught:
        apply_elastic(recipe, block, verbose=False)
    assert message in str(caught.value) and "\n" not in str(caught.value) and settings(recipe) == before


def test_what_is_made_for_experts_of_one_width_is_turned_off(tmp_path: Path) -> None:
    from nemo_elastic.hosts.bridge.apply import apply_elastic
    from nemo_elastic.hosts.bridge.tiny import tiny_config
    from nemo_elastic.hosts.common.rules import EXPERT_LAYERS

    write_data(tmp_path)
    recipe = tiny_config(tmp_path / "data", tmp_path / "run", steps=4, seq_length=64, warmup_steps=2, sizes=EXPERTS)
    recipe.model.moe_grouped_gemm = recipe.model.moe_shared_expert_overlap = True
    recipe.model.moe_token_dispatcher_type, recipe.model.expert_model_parallel_size = "flex", 2
    run = apply_elastic(recipe, BLOCK | EXPERT_BLOCK | {"distill": {"teacher": "none"}}, verbose=False)
    assert all(getattr(recipe.model, name) in (None, wanted) for name, wanted in EXPERT_LAYERS.items())
    assert "model.moe_token_dispatcher_type: flex -> alltoall" in run.changes
    assert "cannot rank" not in run.changes
