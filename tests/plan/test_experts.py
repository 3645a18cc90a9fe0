# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Plans of parents with experts, by hand: who holds them, what they keep, what travels to them, what is computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import active_parameters, flops_per_token, parameters
from nemo_elastic.plan import Candidate, Layout, RunShape, layouts, preset
from nemo_elastic.plan.activations import Routing, Sharding, layer
from nemo_elastic.plan.layouts import expert_sizes, why_not
from nemo_elastic.plan.machine import EXPERT_EFFICIENCY, GPUS
from nemo_elastic.plan.memory import local_experts, local_parameters, stages
from nemo_elastic.plan.work import expert_bytes, members, reduction, seconds, step_work

NANO = preset("nemotron-3-nano-30b-a3b")
#: parameters of the experts of a layer: 128 of them, up and down; 23 layers have experts
EXPERTS, LAYERS = 128 * 2 * 1856 * 2688, 23
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "30b"}, {"name": "small", "active_params": 2.8e9}],
    "axes": {"hidden": [2688, 2304], "experts": [128, 64], "expert_ffn": [1856, 1280]},
    "shapes": "even",
}
RUN = RunShape(4096, 512, gpus=64, stage=2)


def block(**changes: Any) -> ElasticConfig:
    return ElasticConfig.from_dict(BLOCK | changes)


CONFIG = block()
PARENT = CONFIG.parent_shape(NANO)


def laid_out(shards: Sharding, config: ElasticConfig = CONFIG, run: RunShape = RUN, **how: Any) -> Candidate:
    return Candidate(how.pop("parent", PARENT), config, run, shards, **how)


def named(among: list[Layout], name: str) -> Layout:
    return next(x for x in among if str(x) == name)


def test_experts_are_divided_by_their_ranks_and_the_rest_is_not() -> None:
    (stage,) = stages(PARENT, 1)
    count = parameters(PARENT, PARENT.full)
    rest = count - LAYERS * EXPERTS
    assert local_parameters(PARENT, stage, 1) == count and local_experts(PARENT, stage, 1) == LAYERS * EXPERTS
    assert local_parameters(PARENT, stage, 1, 8) == rest + LAYERS * EXPERTS // 8
    # tensor parallelism leaves experts whole
    tensor = local_parameters(PARENT, stage, 2)
    assert rest / 2 < tensor - LAYERS * EXPERTS < rest
    assert tensor - local_parameters(PARENT, stage, 2, 4) == LAYERS * EXPERTS * 3 // 4


def test_static_memory_by_hand() -> None:
    """64 ranks: the rest has a replica on each, an expert on 64 / EP of them, whatever their tensor parallelism.

    A layer's 128 biases are fp32.
    """
    wide = LAYERS * 128 * 2
    choices = layouts(NANO, CONFIG, RUN)
    rest = parameters(PARENT, PARENT.full) - LAYERS * EXPERTS
    for expert in (1, 2, 4, 8):
        own = LAYERS * EXPERTS // expert
        memory = named(choices, f"TP1 PP1 DP64 EP{expert}").memory
        assert memory.weights == memory.teacher == 2 * (rest + own) + wide and memory.gradients == 4 * (rest + own)
        assert memory.optimizer == pytest.approx(12 * rest / 64 + 12 * own / (64 / expert))
        stays = memory.weights + memory.gradients + memory.optimizer + memory.teacher + memory.activations
        assert memory.total == pytest.approx(stays + max(memory.loss, memory.transient))
    two = named(choices, "TP2 PP1 DP32 EP8 SP")
    shard = local_parameters(PARENT, stages(PARENT, 1)[0], 2, 8) - LAYERS * EXPERTS // 8
    assert two.memory.optimizer == pytest.approx(12 * shard / 32 + 12 * LAYERS * EXPERTS / 8 / 8)


def test_activations_of_layers_with_experts() -> None:
    """Six choices of 128 experts. Unfused they are measured (tests/megatron/test_moe_layer.py)."""
    choices = 6 * (2 * 2688 + 2 * 1856 + 4)
    whole, unfused = (layer(NANO, "moe", Sharding(routing=Routing(fused=fused))) for fused in (True, False))
    assert whole - unfused == 4 * (2 * 128 + 1) - 6 * 8
    assert layer(NANO, "moe", Sharding(routing=Routing(load=1.5))) == whole + 0.5 * choices
    assert layer(NANO, "moe", Sharding(2, True)) == whole / 2
    assert layer(NANO, "moe", Sharding(1, False, 8)) == whole  # as many tokens come as go


def test_a_step_computes_what_is_active() -> None:
    """Twice the active parameters per token, but the embedding's; attention, the scan and small tensors apart."""
    per_token = flops_per_token(PARENT, PARENT.full, 1)
    active = active_parameters(PARENT, PARENT.full) - NANO.vocab * NANO.hidden
    assert per_token == pytest.approx(2 * active, rel=0.012)
    gates = 64 * LAYERS * 2688  # of the rows of the gate: of half of the experts a token meets nothing else less
    assert flops_per_token(PARENT, PARENT.uniform(experts=64), 1) == per_token - 2 * gates


def test_what_travels_to_experts_by_hand() -> None:
    """Six choices of 4096 tokens there and back, 7 of 8 to another rank, in 23 layers."""
    there = 6 * 4096 * 2 * 2688 * 7 / 8
    alone, eight = block(distill={"teacher": "none"}), Sharding(1, False, 8)
    assert expert_bytes(laid_out(eight, alone)) == 2 * LAYERS * 2 * there
    assert expert_bytes(laid_out(eight, alone, recompute=True)) == 3 * LAYERS * 2 * there
    assert expert_bytes(laid_out(eight, recompute=True)) == 4 * LAYERS * 2 * there  # the teacher's
    assert expert_bytes(laid_out(Sharding(), recompute=True)) == 0
    latent = laid_out(eight, alone, parent=replace(PARENT, latent=1024))
    assert expert_bytes(latent) == pytest.approx(2 * LAYERS * 2 * there * 1024 / 2688)


def test_the_time_of_a_step_by_hand() -> None:
    """On one node: products at the assumed rate, tokens and gradients over NVLink; an expert has one replica."""
    run, gpu = replace(RUN, gpus=8), GPUS["h100"]
    choices = named(layouts(NANO, CONFIG, run), "TP1 PP1 DP8 EP8")
    rest = parameters(PARENT, PARENT.full) - LAYERS * EXPERTS
    products = choices.work.total / (8 * gpu.flops * EXPERT_EFFICIENCY)
    sent = run.global_batch / 8 * expert_bytes(laid_out(Sharding(1, False, 8), run=run)) / gpu.nvlink
    assert choices.seconds == pytest.approx(products + sent + 6 * rest * 7 / 8 / gpu.nvlink)


def test_tokens_take_the_network_where_a_group_leaves_its_node() -> None:
    def time(node: int, load: float) -> float:
        run = replace(RUN, gpus=8, node=node, routing=Routing(load=load))
        candidate = laid_out(Sharding(1, False, 8, routing=run.routing), run=run)
        return seconds(candidate, step_work(candidate, members(PARENT, CONFIG)))

    sent = 64 * expert_bytes(laid_out(Sharding(1, False, 8)))
    for node, rate in ((4, 50e9), (8, 450e9)):
        assert time(node, 2.0) - time(node, 1.0) == pytest.approx(sent / rate)


def test_ranks_that_share_tensors_hold_replicas_of_experts_too() -> None:
    """Two of TP and four of DP are the eight of EP: each has experts of its own, and only the rest is reduced."""
    shared = laid_out(Sharding(2, True, 8), run=replace(RUN, gpus=8))
    (stage,) = stages(PARENT, 1)
    rest = local_parameters(PARENT, stage, 2, 8) - local_experts(PARENT, stage, 8)
    assert reduction(shared, 1.0) == pytest.approx(6 * rest * 3 / 4)


def test_sizes_divide_the_blocks_of_experts_and_the_ranks_of_a_stage() -> None:
    assert expert_sizes(PARENT) == (1, 2, 4, 8) and expert_sizes(preset("nemotron-h-8b")) == (1,)
    many = block(axes={"experts": {"choices": [128, 64], "stripes": 64}})
    assert expert_sizes(many.parent_shape(NANO)) == (1, 2, 4, 8, 16, 32, 64)
    choices = layouts(NANO, CONFIG, replace(RUN, gpus=4))
    assert {(x.tensor, x.pipeline, x.expert) for x in choices} == {
        (1, 1, 1), (1, 1, 2), (1, 1, 4), (1, 2, 1), (1, 2, 2), (1, 4, 1), (2, 1, 1), (2, 1, 2), (2, 1, 4), (2, 2, 1),
        (2, 2, 2),
    }  # fmt: skip
    eight = laid_out(Sharding(expert=8), run=replace(RUN, gpus=4))
    assert why_not(eight) == "EP 8 does not divide the 4 ranks of a stage"
    odd = replace(RUN, seq_length=4095)  # and tensor parallelism comes with sequence parallelism
    assert "TP 2 does not divide the length" in str(why_not(laid_out(Sharding(2), run=odd)))
