# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Layouts: which are possible, which fit, in which order."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import flops_per_token, parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.core.layout import rows, shape
from nemo_elastic.core.precision import default_rows
from nemo_elastic.errors import ElasticError
from nemo_elastic.plan import Candidate, Layout, RunShape, best, choose, duration, layouts, preset
from nemo_elastic.plan.activations import Sharding, layer, norm
from nemo_elastic.plan.layouts import why_not
from nemo_elastic.plan.machine import EFFICIENCY, TAKEN
from nemo_elastic.plan.memory import local_parameters, stage_memory, stages
from nemo_elastic.plan.work import Work, context_bytes, members, slow_seconds, stage_output_bytes, step_work, wait
from tests.shapes import LOSSES

P12 = preset("nemotron-nano-12b-v2")
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "12b"}, {"name": "9b", "params": 8.9e9}, {"name": "6b", "params": 6.0e9}],
    "axes": {
        "hidden": [5120, 4480, 3840, 3584],
        "ffn": {"choices": [20480, 15360, 12288, 10240], "per_layer": True, "stripes": 8},
        "mamba_heads": [128, 112, 96, 80],
        "mamba_head_dim": [80, 64],
        "attention_heads": [40, 32, 24],
        "depth": [62, 58, 54],
    },
}
STAGE_1 = RunShape(8192, 1536, 1, 128, "h100", 1)
STAGE_2 = RunShape(49152, 512, 1, 128, "h100", 2)


def block(**changes: Any) -> ElasticConfig:
    return ElasticConfig.from_dict(BLOCK | changes)


@cache
def usual(run: RunShape) -> list[Layout]:
    return layouts(P12, block(), run)


def laid_out(
    config: ElasticConfig, run: RunShape, shards: Sharding = Sharding(), parent: Parent = P12, **how: Any
) -> Candidate:
    """A candidate of a block; its sizes need not be possible."""
    return Candidate(parent, config, run, shards, **how)


def work_of(config: ElasticConfig, run: RunShape, **how: Any) -> Any:
    return step_work(laid_out(config, run, **how), members(P12, config))


def test_layouts_come_fastest_first_and_say_why_they_do_not_fit() -> None:
    choices = usual(STAGE_1)
    assert [x.seconds for x in choices] == sorted(x.seconds for x in choices)
    first = next(x for x in choices if x.tensor == 1)
    assert not first.fits and "of 75.9 usable; most of it activations" in first.reason
    assert {x.fits for x in choices} == {True, False}


def test_of_layouts_that_are_as_fast_the_smallest_is_taken() -> None:
    """Sequence parallelism costs 1.4 % of a step here, and saves 25 GB."""
    fast, small, *_ = (x for x in usual(STAGE_2) if x.fits and x.context == 1 and x.recompute)
    assert (str(fast), str(small)) == ("TP4 PP1 DP32 recompute", "TP4 PP1 DP32 SP recompute")
    assert fast.memory.total > small.memory.total + 20e9
    assert choose([fast, small]) == small
    assert choose([fast, replace(small, seconds=1.02 * fast.seconds)]) == fast
    assert choose([replace(fast, fits=False), small]) == small
    assert choose([replace(fast, fits=False)]) is None


def test_a_layout_that_the_kernels_refuse_is_not_offered() -> None:
    """At TP4 a rank has 28 heads of 79 channels, which 8 does not divide."""
    odd = block(axes=BLOCK["axes"] | {"mamba_head_dim": [80, 79]})
    assert {x.tensor for x in layouts(P12, odd, STAGE_1)} == {1, 2}
    assert {x.tensor for x in layouts(P12, odd, replace(STAGE_1, kernels=False))} == {1, 2, 4, 8}
    with pytest.raises(ElasticError, match="tensor_model_parallel_size: 4"):
        layouts(P12, odd, replace(STAGE_1, gpus=8, global_batch=1))


def test_two_calls_keep_the_convolutions_output() -> None:
    """Per token: [x | B | C] in bf16, and sums over dt in fp32 for each head."""
    shape = replace(P12, mamba_heads=112)  # 28 of them a rank at TP4

    def inside(tensor: int) -> float:
        shards = Sharding(tensor)
        return tensor * (layer(shape, "mamba", shards) - norm(shape, shards))

    assert inside(1) == inside(2)
    assert inside(4) - inside(1) == pytest.approx(2 * (112 * 80 + 2 * 8 * 128) + 4 * 112)


@pytest.mark.parametrize("quantize", [None, "nvfp4"])
def test_a_teacher_is_held_in_bf16_beside_members_that_round(quantize: str | None) -> None:
    choices = layouts(P12, block(distill={"quantize": quantize}), STAGE_2)
    one, eight = (next(x for x in choices if x.tensor == tensor).memory.teacher for tensor in (1, 8))
    assert one == 2 * parameters(P12, P12.full)
    assert eight == pytest.approx(one / 8, rel=1e-3)


def test_rounded_weights_are_held_beside_those_that_learn() -> None:
    def held(scheme: str | None, tensor: int) -> float:
        choices = layouts(P12, block(distill={"quantize": scheme}), STAGE_2)
        return next(x for x in choices if x.tensor == tensor).memory.weights

    low = {(row.name, layer.index): math.prod(shape(P12, row, P12.full, layer))
           for row, layer in rows(P12, P12.full) if layer is not None}  # fmt: skip
    count = sum(low[row] for row in default_rows(P12))
    assert held("nvfp4", 8) - held(None, 8) == 2 * count / 8


def test_the_whole_model_does_not_teach_itself() -> None:
    frozen, own = (work_of(block(distill={"teacher": teacher}), STAGE_2) for teacher in ("frozen", "self"))
    assert own.teacher == pytest.approx(frozen.teacher * 2 / 3) and own.student == frozen.student


def test_pipeline_stages_hold_every_parameter_once() -> None:
    for tied in (False, True):
        parent = replace(P12, tied=tied)
        parts = [local_parameters(parent, s, 1) for s in stages(parent, 2)]
        copy = parent.vocab * parent.hidden if tied else 0  # a tied head's stage has its own copy
        assert sum(parts) == parameters(parent, parent.full) + copy


def test_shards_hold_every_parameter_once_and_norms_everywhere() -> None:
    (stage,) = stages(P12, 1)
    norms = 63 * 5120
    assert local_parameters(P12, stage, 8) * 8 == parameters(P12, P12.full) + 7 * norms


def test_activations_shrink_with_what_divides_them() -> None:
    for kind in ("mamba", "mlp", "attention"):
        whole, wide = layer(P12, kind, Sharding()), layer(P12, kind, Sharding(4))
        assert layer(P12, kind, Sharding(4, True)) == pytest.approx(whole / 4)
        assert whole / 4 < wide < whole
        assert layer(P12, kind, Sharding(), gated=True) > whole
    # a rank with one of the eight groups normalises all that it has, and keeps it in fp32 once
    groups = {ranks: ranks * (layer(P12, "mamba", Sharding(ranks)) - norm(P12, Sharding())) for ranks in (1, 4, 8)}
    assert groups[1] == groups[4] == groups[8] + 4 * 128 * 80
    assert layer(P12, "mamba", Sharding(), kernels=False) > layer(P12, "mamba", Sharding())


def test_a_step_without_smaller_members_costs_four_forwards_and_the_teacher() -> None:
    run = RunShape(128, 4, 1, 1, "h100", 2)
    work = work_of(block(sampling={"12b": 1}), run, recompute=True)
    forward = flops_per_token(P12, P12.full, 128) * run.tokens
    assert (work.student, work.teacher) == (3 * forward, forward)
    assert work.recompute == flops_per_token(P12, P12.full, 128, head=False) * run.tokens


def test_smaller_members_and_frozen_shapes_make_a_step_cheaper() -> None:
    def student(**changes: Any) -> float:
        run = changes.pop("run", STAGE_2)
        return work_of(block(**changes), run).student / run.tokens

    whole = 3 * flops_per_token(P12, P12.full, 49152)
    assert student(sampling={"6b": 1}) < student() < student(sampling={"12b": 1}) == pytest.approx(whole)
    short = 3 * flops_per_token(P12, P12.full, 8192)
    sliced = student(run=replace(STAGE_1, stage=2))
    masked = {"shapes": "router", "router": {"freeze_at": 0.67}}
    assert student(run=STAGE_1, **masked) == pytest.approx(0.67 * short + 0.33 * sliced)  # masks run all of it
    assert student(run=STAGE_1, shapes="router") == pytest.approx(short)
    assert student(run=STAGE_1, shapes="search") == pytest.approx(sliced)


def test_one_gpu_takes_its_flops_at_the_assumed_rate_and_no_collectives() -> None:
    alone = layouts(P12, block(), RunShape(8192, 4, 1, 1))
    for x in alone:
        assert x.seconds == pytest.approx(x.work.total / (989e12 * EFFICIENCY))
    # the slowest link is between nodes: 6 bytes per parameter on each rank, 15/16 of them sent
    more = next(x for x in layouts(P12, block(), RunShape(8192, 64, 1, 16)) if x.tensor == 1)
    moved = 6 * parameters(P12, P12.full) * 15 / 16
    assert more.seconds - more.work.total / (16 * 989e12 * EFFICIENCY) == pytest.approx(moved / 50e9)


def test_a_pipeline_holds_several_micro_batches_at_once() -> None:
    choices = layouts(P12, block(distill={"teacher": "none"}), STAGE_1)
    one, two = (next(x for x in choices if str(x) == f"TP8 PP{p} DP{16 // p} SP") for p in (1, 2))
    # half of the layers, twice the micro-batches in flight; the embedding's and the head's stage are fuller
    assert two.memory.activations == pytest.approx(one.memory.activations, rel=0.05)
    assert two.memory.weights == pytest.approx(one.memory.weights / 2, rel=0.1)


@pytest.mark.parametrize("mode", ["frozen", "trainable"])
def test_pipelines_are_tried_with_and_without_a_teacher(mode: str) -> None:
    choices = layouts(P12, block(distill=LOSSES[mode]), STAGE_1)
    assert {x.pipeline for x in choices} == {1, 2}  # 62 layers
    assert all((x.memory.teacher > 0) == (mode == "frozen") for x in choices)


def held(stage: Any, mode: str, shards: Sharding = Sharding(), recompute: bool = True) -> Any:
    """Memory of a stage of a pipeline of two: the first has two micro-batches in flight, the last one."""
    config = block(distill=LOSSES[mode])
    return stage_memory(laid_out(config, STAGE_1, shards, pipeline=2, recompute=recompute), stage)


def test_a_teacher_is_cut_as_the_student_is() -> None:
    parts = [held(stage, "frozen") for stage in stages(P12, 2)]
    assert sum(m.teacher for m in parts) == 2 * parameters(P12, P12.full)
    assert [m.teacher for m in parts] == [m.weights for m in parts]


def test_both_streams_are_counted_where_a_stage_has_received_them() -> None:
    (first, last), shards = stages(P12, 2), Sharding(4, True)
    stream = 2 * P12.hidden * 8192 / shards.stream
    for recompute in (True, False):
        alone, taught = (held(last, mode, shards, recompute) for mode in ("ce", "frozen"))
        assert taught.activations - alone.activations == pytest.approx(stream)  # of the micro-batch in flight
        assert taught.transient - alone.transient == pytest.approx(stream)  # its gradient, which is zero
        alone, taught = (held(first, mode, shards, recompute) for mode in ("ce", "frozen"))
        assert taught.activations == alone.activations
        assert taught.transient - alone.transient == pytest.approx(stream)


def test_a_pipeline_waits_for_its_slowest_stage_and_its_largest_member() -> None:
    shape = replace(P12, pattern="M-M-M-M-", vocab=8)  # a head that weighs nothing: equal stages
    run = replace(STAGE_2, kernels=False)
    two = {"full": shape.full, "half": shape.uniform(hidden=2560)}
    budgets = [{"name": "full"}, {"name": "half", "ratio": 0.5}]
    both = block(budgets=budgets, distill={"teacher": "none"})
    one = block(budgets=budgets, distill={"teacher": "none"}, sampling={"full": 1})

    def waits(config: ElasticConfig, pipeline: int, recompute: bool = False) -> float:
        return wait(laid_out(config, run, parent=shape, pipeline=pipeline, recompute=recompute), two)

    assert waits(both, 1, True) == 1
    assert waits(one, 2, True) == pytest.approx(1, abs=1e-4)
    small, large = (flops_per_token(shape, two[name], run.seq_length) for name in ("half", "full"))
    wanted = (0.25 * small + 0.75 * large) / (0.5 * small + 0.5 * large)
    assert waits(both, 2) == pytest.approx(wanted, rel=1e-3)
    # a teacher costs the same in every slot
    assert 1 < waits(replace(both, distill=block().distill), 2) < wanted
    # with its head the last stage of the parent is slower
    alike = {"full": P12.full, "half": P12.full}
    assert wait(laid_out(one, run, pipeline=2, recompute=True), alike) > 1.02


def test_what_stages_pass_on_takes_its_time() -> None:
    shards = Sharding(4, True)
    one = stage_output_bytes(laid_out(block(distill={"teacher": "none"}), STAGE_1, shards))
    assert one == 2 * P12.hidden * 8192 / 4
    assert (
        stage_output_bytes(laid_out(block(), STAGE_1, shards))
        == 2 * one
        == stage_output_bytes(laid_out(block(), STAGE_1)) / 4
    )


def test_tensor_parallel_sizes_divide_blocks() -> None:
    stripes = BLOCK["axes"]["ffn"] | {"stripes": 2}
    assert {x.tensor for x in layouts(P12, block(axes=BLOCK["axes"] | {"ffn": stripes}), STAGE_1)} == {1, 2}


def test_ranks_that_share_sequences_divide_what_a_token_keeps() -> None:
    """Weights they hold as data-parallel ranks do, whose share of the optimizer is theirs."""
    one, two = (
        next(x for x in usual(STAGE_2) if str(x) == name)
        for name in ("TP2 PP1 DP64 SP recompute", "TP2 CP2 PP1 DP32 SP recompute")
    )
    assert (two.context, two.replica, two.replica * two.data) == (2, 4, 128)
    for part in ("weights", "gradients", "teacher", "optimizer"):
        assert getattr(two.memory, part) == getattr(one.memory, part)
    assert two.memory.activations == one.memory.activations / 2
    assert one.memory.loss / 2 < two.memory.loss < one.memory.loss
    assert two.work == one.work and two.to_json()["context_parallel_size"] == 2
    mamba = 2 * 128 * 80 + 2 * 8 * 128 + 128 + 128 * 80
    channels = P12.types.count("mamba") * mamba + P12.types.count("attention") * 2 * (40 + 8) * 128
    sent = context_bytes(laid_out(block(), RunShape(16384, 64, gpus=16), Sharding(2, True, context=2)))
    assert sent == 3 * 2 * channels / 2 * 8192 / 2  # forward, backward and the teacher's, half of it to the other rank


@pytest.mark.parametrize(
    ("tensor", "context", "message"),
    [
        (4, 4, "TP 4 x CP 4 leaves a node of 8 GPUs"),
        (1, 3, "TP 1 x CP 3 leaves a node of 8 GPUs"),
        (2, 4, None),
    ],
)
def test_sequences_are_shared_inside_of_a_node(tensor: int, context: int, message: str | None) -> None:
    shape = block().parent_shape(P12)
    assert why_not(laid_out(block(), STAGE_2, Sharding(tensor, context=context), shape)) == message
    odd = laid_out(block(), replace(STAGE_2, seq_length=49156), Sharding(context=4), shape)
    assert why_not(odd) == "2 x CP 4 does not divide the length"


def test_members_must_be_shared_equally() -> None:
    shape = replace(P12, mamba_groups=4, kv_heads=2)
    run = replace(STAGE_2, kernels=False)
    eight, four = Sharding(context=8), Sharding(context=4)
    assert why_not(laid_out(block(), run, eight, shape)) == "CP 8 does not divide 4 Mamba groups of a rank"
    for heads, message in (([40, 30], "CP 4 does not divide 30 attention heads of a rank"), ([40, 36], None)):
        config = block(axes=BLOCK["axes"] | {"attention_heads": heads})
        assert why_not(laid_out(config, run, four, shape)) == message


def test_batches_divide() -> None:
    with pytest.raises(ElasticError, match="no layout is possible on 6 GPUs"):
        layouts(P12, block(), RunShape(8192, 4, 1, 6))
    with pytest.raises(ElasticError, match="micro_batch: 3"):
        RunShape(8192, 4, 3)
    choices = layouts(P12, block(), RunShape(8192, 4, 1, 8))
    assert {(x.tensor, x.pipeline) for x in choices if x.context == 1} == {
        (1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1),
    }  # fmt: skip


def test_nothing_fits_says_what_to_change() -> None:
    with pytest.raises(ElasticError, match=r"no layout fits 1 H100.*optimizer"):
        best(P12, block(), RunShape(8192, 4, 1, 1))
    assert replace(STAGE_1, gpu="h200").usable > STAGE_1.usable


def test_gpus_fill_their_nodes_and_tensor_parallelism_stays_in_one() -> None:
    with pytest.raises(ElasticError, match="--gpus: 12"):
        RunShape(8192, 1536, gpus=12)
    fours = replace(STAGE_1, gpus=12, node=4)
    assert {x.tensor for x in layouts(P12, block(), fours)} == {1, 2, 4}
    sixes = replace(STAGE_1, gpus=24, node=6)  # a group of 4 would lie in two of them
    assert {x.tensor for x in layouts(P12, block(), sixes)} == {1, 2}


def test_the_margin_of_memory_decides_what_fits() -> None:
    layout = choose(usual(STAGE_1))
    assert layout is not None
    tight = replace(STAGE_1, margin=1 - layout.memory.total / (85.0e9 - TAKEN) + 1e-3)
    assert str(layout) not in [str(x) for x in layouts(P12, block(), tight) if x.fits]
    assert best(P12, block(), tight).memory.total < layout.memory.total
    assert STAGE_1.usable == pytest.approx(0.92 * (85.0e9 - TAKEN))
    with pytest.raises(ElasticError, match=r"margin: 1\.5"):
        replace(STAGE_1, margin=1.5)


def test_hours_are_those_of_the_clock_and_of_every_gpu() -> None:
    config = ElasticConfig.from_dict({"budgets": [{"name": "small", "ratio": 0.7}], "axes": {"depth": [12, 6]}})
    one = layouts(preset("nemotron-h-tiny"), config, RunShape(64, 8, gpus=1))[0]
    layout = replace(one, tensor=2, pipeline=3, data=4, seconds=1.8, seconds_high=3.6)
    time = duration(layout, steps=4000)
    assert (time.steps, time.hours, time.hours_high) == (4000, pytest.approx(2.0), pytest.approx(4.0))
    assert (time.gpu_hours, time.gpu_hours_high) == (pytest.approx(48.0), pytest.approx(96.0))


@pytest.mark.parametrize(
    ("parent", "dropped", "widths", "tokens", "hours"),
    [
        ("nemotron-nano-9b-v2", 8, {"hidden": 4352, "mamba_heads": 120, "ffn": 13824}, 768 * 8192 * 1000, 600),
        ("nemotron-3-nano-30b-a3b", 0, {"hidden": 2304, "experts": 104, "shared_ffn": 3072}, 10e9, 900),
    ],
)
def test_the_slow_end_is_what_is_published(
    parent: str, dropped: int, widths: dict[str, int], tokens: float, hours: float
) -> None:
    """GPU-hours of the distillations in ModelOpt's tutorials, on 768 H100; and 142 TFLOP/s at 32k tokens."""
    whole, run = preset(parent), RunShape(8192, 768, gpus=768)
    student = whole.uniform(range(whole.num_layers - dropped), **widths)
    forward = [flops_per_token(whole, member, 8192) * tokens for member in (student, whole.full)]
    work, at = Work(3 * forward[0], forward[0], forward[1]), laid_out(block(), run, parent=whole)
    slow, long = (slow_seconds(replace(at, run=replace(run, seq_length=n)), work) for n in (8192, 32768))
    assert slow * 768 / 3600 == pytest.approx(hours, rel=0.05)
    assert long / slow == pytest.approx(989 * 0.17 / 142 if "moe" not in whole.types else 1, rel=0.05)


def test_where_collectives_take_longest_the_slow_end_is_the_fast_one() -> None:
    """128 sequences of 64 tokens on 128 GPUs: reducing gradients takes longer than the products at the low rate."""
    assert {x.seconds_high / x.seconds for x in layouts(P12, block(), RunShape(64, 128, gpus=128))} == {1}
    assert min(x.seconds_high / x.seconds for x in usual(STAGE_1) if x.replica == 8) > 1
