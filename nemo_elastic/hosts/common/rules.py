# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a recipe and an elastic block must agree on, and what every family sets in a recipe, whatever host it is of.

Each check raises one line that names the recipe's field as an override would spell it, after `recipe.`; all of them
come before anything is set.
"""

from __future__ import annotations

import sys
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.config.sections import APART
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.moe import EXPERTS
from nemo_elastic.errors import bad, inside
from nemo_elastic.formats.megatron.shape import has_experts, layer_pattern, parent_of
from nemo_elastic.io.values import number, three_digits
from nemo_elastic.megatron.models import NAMES, check_ranks, refused_overlaps, turn_off
from nemo_elastic.plan.stages import PAPER
from nemo_elastic.search import check_block

from .agreement import (
    absent,
    check_files,
    check_no_file,
    check_teacher,
    check_vocabulary,
    router_warnings,
    vocabulary_rows,
)
from .recipe import Recipe
from .stage import StageOptions
from .token_files import check_token_files

#: rates of one model differ by factors of two and three from run to run, those of training from scratch by more
FAR = 3
#: the paper's parents have 8e9 parameters and more; smaller models have higher rates
LARGE = 1e9
#: what no host's recipe may have, as `Recipe.refused`
REFUSED = {"peft": ((None,), "null: every weight of the family is trained")}
#: settings of a model that need layers of one shape, or TransformerEngine's: name -> what we set
LAYERS = {
    "fp8": None,
    "fp4": None,
    "tp_comm_overlap": False,
    "enable_cuda_graph": False,
    "external_cuda_graph": False,
    "cuda_graph_impl": "none",
    "fine_grained_activation_offloading": False,
    "gradient_accumulation_fusion": False,  # Bridge has it on beside TransformerEngine; our linears would need APEX
    "use_transformer_engine_op_fuser": False,
}
#: the same of experts: ours are computed by `megatron.experts` at their member's widths, and sent by the dispatcher
#: that asks for no kernels of its own
EXPERT_LAYERS = {
    "moe_token_dispatcher_type": "alltoall",
    "moe_grouped_gemm": False,
    "moe_shared_expert_overlap": False,
    "moe_router_fusion": False,
    "moe_router_padding_for_quantization": False,
    "moe_router_force_load_balancing": False,
    "moe_router_force_biased": None,
    "overlap_moe_expert_parallel_comm": False,
    "delay_wgrad_compute": False,
    "use_fused_weighted_squared_relu": False,
    # settings of other dispatchers
    "moe_flex_dispatcher_backend": "deepep",
    "moe_expert_rank_capacity_factor": None,
    "moe_paged_stash": False,
    # Bridge would write the rows of experts in another order than they are in
    "moe_mlp_glu_interleave_size": None,
    "moe_shared_expert_glu_interleave_size": None,
}
#: megatron-core's checks of gradients: they know neither budget nor layer, cannot skip a step, and wait for the GPU at
#: each bucket
CHECKS = ("check_for_nan_in_grad", "check_for_large_grads")


def check(recipe: Recipe, block: ElasticConfig, options: StageOptions) -> Parent:
    """The parent's shape, see `check_shape`; raise where recipe, block and options do not fit."""
    recipe.check_kind()
    if not layer_pattern(recipe.get("shape")):
        raise recipe.bad("pattern", "a pattern such as M-M*-, one symbol per layer")
    _check_rates(recipe)
    check_refused(recipe)
    options.check(block, recipe.get("steps"), recipe.path("steps"), recipe.checkpoint)
    parent = check_shape(recipe, block, options.teacher)
    _check_ranks(recipe, block, parent)
    recipe.check_data(block, options.stage)
    _check_sequences(recipe, block)
    check_no_file("out", options.out)
    check_no_file(recipe.at("save"), recipe.get("save"))
    if options.stage == 1:
        check_files(block, parent)
    random = recipe.random_data()
    if random is not None:
        options.check_mock(recipe.at("data"), random, recipe.text)
    return parent


def _check_rates(recipe: Recipe) -> None:
    """Raise for learning rates that cannot fall from a peak."""
    rate, lowest = recipe.get("lr"), recipe.get("min_lr")
    number(recipe.at("lr"), rate, sys.float_info.min, sys.float_info.max, "a peak learning rate above 0")
    if lowest is not None:
        number(recipe.at("min_lr"), lowest, 0.0, rate, f"at most {recipe.at('lr')}, {rate}")


def check_refused(recipe: Recipe) -> None:
    """Raise for what no family can be trained with, or none of the host's."""
    for name, (allowed, words) in {**REFUSED, **recipe.refused}.items():
        if recipe.get(name) not in allowed:
            raise recipe.bad(name, recipe.needs + words)


def check_shape(recipe: Recipe, block: ElasticConfig, teacher: str | None = None) -> Parent:
    """The parent that a recipe describes, with the stripes of the block; with a vocabulary of 1 where none is known.

    Raises:
        ElasticError: another architecture than a Nemotron-H's or than the teacher's, a width that the parent has not,
            a budget that no member meets.
    """
    where, rows = recipe.at("shape"), vocabulary_rows(teacher)
    check_vocabularies(recipe, rows)
    rows = rows or recipe.vocabulary()
    with inside(where):
        parent = parent_of(recipe.get("shape"), rows or 1, where)
    check_teacher(teacher, parent, where, recipe.path("pattern").rpartition(".")[2])
    return check_block(block, parent, rows is not None)


def check_vocabularies(recipe: Recipe, rows: int | None) -> None:
    """Raise where model or tokenizer have another vocabulary than the teacher's, of `rows`; None: it is not there."""
    if rows is None:
        return
    for name, size in recipe.vocabularies().items():
        known = rows if size is None else size
        check_vocabulary(known, rows, recipe.ranks("tensor"), recipe.at(name), recipe.at("tensor"))


def _check_ranks(recipe: Recipe, block: ElasticConfig, parent: Parent) -> None:
    """Raise for layouts over ranks, and for widths on a GPU, that the family cannot have."""
    names = {kind: kind for kind in NAMES}
    if recipe.get("expert tensor") is None:
        names["expert tensor"] = "tensor"  # as many ranks share an expert
    ranks = {kind: recipe.ranks(name) for kind, name in names.items() if kind != "shape"}
    kernels = recipe.get("device") not in ("cpu", "gloo")
    check_ranks(block, parent, ranks, kernels, {kind: recipe.at(name) for kind, name in names.items()})
    _check_machines(recipe, ranks["tensor"] * ranks["pipeline"] * ranks["context"])
    if parent.has(EXPERTS):
        _check_experts(recipe, parent)


def _check_machines(recipe: Recipe, ranks: int) -> None:
    devices, nodes = recipe.get("devices"), recipe.ranks("nodes")
    if type(devices) is int and devices > 0 and devices * nodes % ranks:
        what = "tensor x pipeline x context parallel ranks"
        raise recipe.bad("devices", f"a multiple of {ranks} with {nodes} node(s): {what}")


def _check_experts(recipe: Recipe, parent: Parent) -> None:
    tensor, experts = recipe.ranks("tensor"), parent.size(EXPERTS)
    if tensor > 1 and not recipe.get("sequence_parallel"):
        why = "tensor-parallel ranks share the tokens of experts"
        raise recipe.bad("sequence_parallel", f"true on {tensor} ranks: {why}")
    if experts % recipe.ranks("expert"):
        raise recipe.bad("expert", f"a size that divides the {experts} experts")
    balancing = recipe.get("balancing")
    if "global_aux_loss" in (balancing if isinstance(balancing, (list, tuple)) else [balancing]):
        why = "a loss over many micro-batches would mix members with different experts"
        raise recipe.bad("balancing", f"aux_loss, seq_aux_loss or none: {why}")


def _check_sequences(recipe: Recipe, block: ElasticConfig) -> None:
    """Raise where ranks cannot share sequences, or the data has none, or does not say where documents begin."""
    # packed data has no such field: it carries its bounds
    if block.data.documents == APART and recipe.get("reset_position_ids") is False:
        raise bad("elastic.data.documents", APART, f"joined, or {recipe.at('resets')}: true, which marks the "
                  "beginnings of documents")  # fmt: skip
    length, context = recipe.get("length"), recipe.ranks("context")
    if length is None:
        return
    tensor = recipe.ranks("tensor") if recipe.get("sequence_parallel") else 1
    if context > 1 and length % (2 * context * tensor):
        what = f"2 x context_parallel_size ({context}), times the tensor-parallel ranks that share a sequence"
        raise recipe.bad("length", f"a multiple of {what}")
    if context > 1 and recipe.answers:
        why = "if ranks share conversations, because a rank's share may have no tokens that count"
        for name, wanted in (("per token", True), ("average_in_collective", False)):
            if bool(recipe.get(name)) is not wanted:
                raise recipe.bad(name, f"{str(wanted).lower()} {why}")
    if length % tensor:
        raise recipe.bad("length", f"a multiple of the tensor-parallel size ({tensor}): sequence_parallel is on")
    field, files, split = recipe.token_files()
    check_token_files((recipe.at(field), files), (recipe.at("length"), length), (recipe.at("split"), split))


def tell(recipe: Recipe, block: ElasticConfig, options: StageOptions, parent: Parent, trains: bool = True) -> None:
    """Note files that are not on this machine, and warn of settings that run but make no sense.

    Without training steps (`trains` false) learning rates and batches are not judged.
    """
    changes, stage = recipe.changes, options.stage
    total = options.total(recipe.get("steps"))
    changes.warnings = _warnings(recipe, block, stage, total)
    if trains:
        changes.warnings += pace_warnings(recipe, parameters(parent, parent.full), stage, total)
    reads = {"teacher": [options.teacher], "previous": [options.previous], "ranked": [recipe.ranked]}
    changes.notes += absent(reads | recipe.data())
    changes.notes.append(
        "layers of the model: elastic ones without TransformerEngine, whatever the recipe's spec says"
    )


def _warnings(recipe: Recipe, block: ElasticConfig, stage: int, total: int) -> list[str]:
    """What can run and makes no sense, a line for each."""
    steps, batch, pipeline = recipe.get("steps"), recipe.get("batch"), recipe.ranks("pipeline")
    out = router_warnings(block, steps) if stage == 1 else []
    if stage == 1 and pipeline > 1 and not recipe.starts_ranked:
        out.append(f"{recipe.at('pipeline')}: {pipeline}: stages cannot rank; {recipe.ranking}, "
                   "or the run is refused when it starts")  # fmt: skip
    name, warmup = recipe.warmup(total) or ("", 0)
    if stage == 1 and warmup >= total:
        out.append(f"{name}: {warmup} of {total} steps in all: the learning rate never reaches its peak")
    samples = block.importance.samples
    has = recipe.get("samples") or (steps * batch if isinstance(batch, int) else 0)
    ranks = stage == 1 and block.ranking is None and not block.is_sorted and recipe.ranked is None
    if ranks and 0 < has < samples:
        out.append(f"elastic.importance.samples: {samples}, but the run asks its data for {has}: if the data has no "
                   "more, the run is refused when ranking starts")  # fmt: skip
    return out


def pace_warnings(recipe: Recipe, size: float, stage: int, total: int) -> list[str]:
    """What is far from the curriculum's in a recipe of a parent of this size, a line for each, with both values.

    A trained parent is trained further here: what a recipe has for training from scratch undoes what it knows.
    """
    if size < LARGE:
        return []
    out, rate, batch, length = [], recipe.get("lr"), recipe.get("batch"), recipe.get("length")
    if not 1 / FAR <= rate / PAPER.lr <= FAR:
        out.append(f"{recipe.at('lr')}: {rate:g}; the curriculum of a trained parent has {PAPER.lr:g}")
    name, warmup = recipe.warmup(total) or ("", total)
    usual = max(PAPER.warmup_steps, PAPER.warmup_steps * total / PAPER.steps)  # a longer run may take longer
    if warmup < total and (warmup > FAR * usual or FAR * warmup < PAPER.warmup_steps < total / FAR):
        out.append(f"{name}: {warmup} of {total} steps; the curriculum has {PAPER.warmup_steps} of {PAPER.steps}")
    if batch and length:
        tokens, paper = batch * length, PAPER.stage(min(stage, 2))
        usual = paper.global_batch_size * paper.seq_length
        if not 1 / FAR <= tokens / usual <= FAR:
            has, wants = (f"{three_digits(count / 1e6)}M" for count in (tokens, usual))
            step = f"{batch}, {has} tokens in a step"
            out.append(f"{recipe.at('batch')}: {step}; the curriculum has {wants} in stage {stage}")
    schedule = recipe.other_schedule(total)
    if schedule is not None:
        out.append(f"{': '.join(schedule)}; a family's rates are a cosine's over all {total} steps")
    return out


def rates_of(recipe: Recipe, block: ElasticConfig, options: StageOptions) -> dict[str, Any]:
    """Arguments of `train.training.Rates`: how rates rise and fall over all stages, but for what a start knows."""
    steps = recipe.get("steps")
    total = options.total(steps)
    floor, lowest, warmup = recipe.get("min_ratio"), recipe.get("min_lr"), recipe.warmup(total)
    if floor is None:
        floor = 0.1 if lowest is None else lowest / recipe.get("lr")
    return {
        "total_steps": total,
        "warmup_steps": 60 if warmup is None else warmup[1],
        "min_ratio": floor,
        "freeze_step": block.freeze_step(steps) if options.stage == 1 else 0,
    }


def use_our_layers(model: Any) -> None:
    """Leave a model's config the settings that our layers can have."""
    experts = has_experts(layer_pattern(model) or "")
    for name, value in (LAYERS | (EXPERT_LAYERS if experts else {})).items():
        if getattr(model, name, None) not in (None, value):
            setattr(model, name, value)
    if getattr(model, "recompute_granularity", None) == "selective":
        model.recompute_granularity = None  # our layers recompute whole or not at all
        if getattr(model, "recompute_modules", None) is not None:
            model.recompute_modules = None


def set_optimizer(recipe: Recipe, block: ElasticConfig, half: bool) -> None:
    """Turn off communication overlaps, as a micro-batch uses only a part of the weights, and the host's NaN `CHECKS`.

    `half`: weights are in 16 bits; with a router this needs the distributed optimizer.
    """
    if half and block.router is not None:
        # megatron-core's other one cannot save the router, which is float32 among half-precision weights
        recipe.put("distributed", True)
    ddp, optimizer = recipe.get("ddp"), recipe.get("optimizer")
    turn_off((ddp, optimizer), refused_overlaps(recipe.ranks("pipeline")))
    if not optimizer.fp16:  # the loss scale of fp16 expects infinities
        turn_off((ddp,), CHECKS)
        reason = "elastic.nonfinite checks the gradients"
        recipe.changes.reasons |= {f"{recipe.path('ddp')}.{name}": reason for name in CHECKS}
    if recipe.get("distributed"):
        # by default its state is saved in the layout of its buffers and can only be loaded with the same layout; the
        # next stage, with longer sequences, has another
        recipe.put("reshardable", True)
