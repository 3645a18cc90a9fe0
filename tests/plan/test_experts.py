# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Plans of parents with experts, by hand: who holds them, what they keep, what travels to them, what is computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import active_parameters, flops_per_token, parameters
from nemo_elastic.errors import ElasticError
from nemo_elastic.plan import Candidate, Layout, RunShape, layouts, preset
from nemo_elastic.plan.activations import Routing, Sharding, layer, norm
from nemo_elastic.plan.layouts import expert_sizes, why_not
from nemo_elastic.plan.machine import EXPERT_EFFICIENCY, GPUS
from nemo_elastic.plan.memory import local_experts, local_parameters, stages
from nemo_elastic.plan.work import dispatched, members, reduction, seconds, step_work

from ..shapes import LATENT

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
    two = named(choices, "TP2 PP1 DP32 EP8 SP")
    shard = local_parameters(PARENT, stages(PARENT, 1)[0], 2, 8) - LAYERS * EXPERTS // 8
    assert two.memory.optimizer == pytest.approx(12 * shard / 32 + 12 * LAYERS * EXPERTS / 8 / 8)


def test_activations_by_hand() -> None:
    """Six choices of 128 experts; the stream and its norm's output are a dense layer's, too."""
    router = 128 * (4 + 4 + 1 + 1) + 6 * (8 + 3 * 4) + 4 * 2688
    balance = 4 * (128 + 1) + 6 * 8
    places = 4 * (2 * 128 + 1)
    choices = 6 * (2 * 2688 + 2 * 1856 + 4)
    shared = 2 * 2 * 3712
    whole = layer(NANO, "moe", Sharding())
    assert whole == norm(NANO, Sharding()) + router + balance + places + choices + shared
    plain = layer(NANO, "moe", Sharding(routing=Routing("bf16", balanced=False, fused=False)))
    assert plain == whole - balance - places + 6 * 8 - 4 * 2688 - 6 * 2
    assert layer(NANO, "moe", Sharding(routing=Routing(load=1.5))) == whole + 0.5 * choices
    assert layer(NANO, "moe", Sharding(2, True)) == whole / 2
    assert layer(NANO, "moe", Sharding(1, False, 8)) == whole  # as many tokens come as go
    assert layer(NANO, "moe", Sharding(), gated=True) > whole


def test_experts_in_a_latent_width_keep_what_they_read_there() -> None:
    """2 choices of 8 experts of 12 neurons, which read 10 channels of 16; the shared expert has 20."""
    shards = Sharding(routing=Routing("bf16", balanced=False, fused=False))
    inside = layer(LATENT, "moe", shards) - norm(LATENT, shards)
    assert inside == 8 * 10 + 2 * 18 + 2 * (2 * 10 + 2 * 12 + 12) + 2 * 10 + 2 * 2 * 20


def test_a_step_computes_what_is_active() -> None:
    """Twice the active parameters per token, but the embedding's; attention, the scan and small tensors apart."""
    work = step_work(laid_out(Sharding(), block(sampling={"30b": 1})), members(PARENT, CONFIG))
    assert work.student == 3 * work.teacher == 3 * RUN.tokens * flops_per_token(PARENT, PARENT.full, RUN.seq_length)
    per_token = flops_per_token(PARENT, PARENT.full, 1)
    active = active_parameters(PARENT, PARENT.full) - NANO.vocab * NANO.hidden
    assert per_token == pytest.approx(2 * active, rel=0.012)
    gates = 64 * LAYERS * 2688  # of the rows of the gate: of half of the experts a token meets nothing else less
    assert flops_per_token(PARENT, PARENT.uniform(experts=64), 1) == per_token - 2 * gates


def test_what_travels_to_experts_by_hand() -> None:
    """Six choices of 4096 tokens there and back, 7 of 8 to another rank, in 23 layers."""
    there = 6 * 4096 * 2 * 2688 * 7 / 8
    alone, eight = block(distill={"teacher": "none"}), Sharding(1, False, 8)
    assert dispatched(laid_out(eight, alone)) == 2 * LAYERS * 2 * there
    assert dispatched(laid_out(eight, alone, recompute=True)) == 3 * LAYERS * 2 * there
    assert dispatched(laid_out(eight, recompute=True)) == 4 * LAYERS * 2 * there  # the teacher's
    assert dispatched(laid_out(Sharding(2, True, 8), recompute=True)) == 2 * LAYERS * 2 * there
    assert dispatched(laid_out(Sharding(), recompute=True)) == 0
    latent = laid_out(eight, alone, parent=replace(PARENT, latent=1024))
    assert dispatched(latent) == pytest.approx(2 * LAYERS * 2 * there * 1024 / 2688)


def test_the_time_of_a_step_by_hand() -> None:
    """On one node: products at the assumed rate, tokens and gradients over NVLink; an expert has one replica."""
    run, gpu = replace(RUN, gpus=8), GPUS["h100"]
    choices = named(layouts(NANO, CONFIG, run), "TP1 PP1 DP8 EP8")
    rest = parameters(PARENT, PARENT.full) - LAYERS * EXPERTS
    products = choices.work.total / (8 * gpu.flops * EXPERT_EFFICIENCY)
    sent = run.global_batch / 8 * dispatched(laid_out(Sharding(1, False, 8), run=run)) / gpu.nvlink
    assert choices.seconds == pytest.approx(products + sent + 6 * rest * 7 / 8 / gpu.nvlink)
    half = named(layouts(NANO, CONFIG, run), "TP1 PP1 DP8 EP4")
    sent = run.global_batch / 8 * dispatched(laid_out(Sharding(1, False, 4), run=run)) / gpu.nvlink
    reduced = 6 * (rest * 7 / 8 + LAYERS * EXPERTS / 4 / 2) / gpu.nvlink
    assert half.seconds == pytest.approx(products + sent + reduced)


def test_tokens_take_the_network_where_a_group_leaves_its_node() -> None:
    def time(node: int, load: float) -> float:
        run = replace(RUN, gpus=8, node=node, routing=Routing(load=load))
        candidate = laid_out(Sharding(1, False, 8, routing=run.routing), run=run)
        return seconds(candidate, step_work(candidate, members(PARENT, CONFIG)))

    sent = 64 * dispatched(laid_out(Sharding(1, False, 8)))
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


def test_tensor_parallelism_comes_with_sequence_parallelism() -> None:
    choices = layouts(NANO, CONFIG, RUN)
    assert all(x.sequence_parallel == (x.tensor > 1) for x in choices) and {x.tensor for x in choices} == {1, 2}
    odd = replace(RUN, seq_length=4095)
    assert {x.tensor for x in layouts(NANO, CONFIG, odd)} == {1}
    assert "TP 2 does not divide the length" in str(why_not(laid_out(Sharding(2), run=odd)))


def test_json_and_names_tell_of_it_where_there_are_experts() -> None:
    data = named(layouts(NANO, CONFIG, RUN), "TP2 PP1 DP32 EP8 SP recompute").to_json()
    assert data["expert_model_parallel_size"] == 8 and data["expert_tensor_parallel_size"] == 1
    small = ElasticConfig.from_dict({"budgets": [{"name": "small", "ratio": 0.7}], "axes": {"depth": [12, 6]}})
    dense = layouts(preset("nemotron-h-tiny"), small, RunShape(64, 8))
    assert not any("expert" in key for key in dense[0].to_json()) and "EP" not in str(dense[0])


def test_the_busiest_rank_holds_and_sends_more() -> None:
    """Of what travels and waits for the backward pass; weights are as many."""
    uneven = replace(RUN, routing=Routing(load=1.5))
    name = "TP1 PP1 DP64 EP8 recompute"
    even, busy = (named(layouts(NANO, CONFIG, run), name) for run in (RUN, uneven))
    more = (
        0.5 * dispatched(laid_out(Sharding(1, False, 8), recompute=True)) * RUN.global_batch / 64 / GPUS["h100"].nvlink
    )
    assert busy.seconds - even.seconds == pytest.approx(more)
    assert busy.memory.transient > even.memory.transient and busy.memory.weights == even.memory.weights
    with pytest.raises(ElasticError, match=r"routing.load: 0.5 is not allowed; a number from 1 to 100"):
        replace(RUN, routing=Routing(load=0.5))
