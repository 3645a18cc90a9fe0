# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""apply_elastic for Megatron-Bridge: a stock `ConfigContainer` becomes a training of a nested family.

>>> from megatron.bridge.recipes.nemotronh.nemotron_nano_v2 import nemotron_nano_12b_v2_pretrain_config
>>> from nemo_elastic.hosts.bridge.apply import apply_elastic
>>> config = nemotron_nano_12b_v2_pretrain_config()
>>> apply_elastic(config, "elastic.yaml", teacher="/checkpoints/12b").pretrain()
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.bridge.training.pretrain import pretrain
from megatron.bridge.utils.common_utils import get_rank_safe

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.formats.megatron.shape import has_experts, layer_pattern
from nemo_elastic.hosts.common.agreement import absent, check_files, vocabulary_rows
from nemo_elastic.hosts.common.stage import StageOptions
from nemo_elastic.hosts.parents import newest_of
from nemo_elastic.io.outputs import absolute_if_there
from nemo_elastic.megatron.models import check_overlaps, refused_overlaps, turn_off
from nemo_elastic.megatron.spec import elastic_stack_spec
from nemo_elastic.train.training import Rates

from .autobridge import register_layers
from .callbacks import ElasticCallback
from .chained import experts_shared_or_not
from .checks import (
    PLACEHOLDER,
    check_architecture,
    check_data,
    check_folders,
    check_parallel,
    check_settings,
    check_shape,
    check_text,
    check_vocabularies,
    data_of,
    pace,
    warmup,
    warnings,
)
from .optim import ElasticOverrides
from .platform import bridge_on_this_machine
from .resume import check_start, use_our_manager
from .saved import BRIDGE, step_of
from .settings import ConfigChanges
from .step import ElasticStep

#: of the model, that need layers of one shape, or TransformerEngine's: name -> what we set
MODEL_SETTINGS = {
    "fp8": None,
    "fp4": None,
    "tp_comm_overlap": False,
    "cuda_graph_impl": "none",
    "fine_grained_activation_offloading": False,
    "use_transformer_engine_op_fuser": False,
}
#: the same of experts: ours are computed by `megatron.experts` at their member's widths, and sent by the dispatcher
#: that asks for no kernels of its own
EXPERT_SETTINGS = {
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
    # of other dispatchers, each of which asks for its own
    "moe_flex_dispatcher_backend": "deepep",
    "moe_expert_rank_capacity_factor": None,
    "moe_paged_stash": False,
    # Bridge would write the rows of experts in another order than they are in
    "moe_mlp_glu_interleave_size": None,
    "moe_shared_expert_glu_interleave_size": None,
}


@dataclass
class ElasticRun:
    """What `megatron.bridge.training.pretrain.pretrain` is called with.

    Attributes:
        config: the container, changed.
        forward_step: of the family.
        callbacks: one, to which others may be added.
        changes: what has become of the container, in words.
    """

    config: Any
    forward_step: ElasticStep
    callbacks: list[Any]
    changes: str = ""

    @property
    def ended(self) -> bool:
        """Whether a whole checkpoint of its own holds the end of the training, or of the ranking."""
        checkpoint = self.config.checkpoint
        if checkpoint.load is None or checkpoint.ckpt_step is not None:
            return False
        own = BRIDGE.choose(Path(checkpoint.load))[0]
        return own is not None and (self.callbacks[0].rank_only or step_of(own) >= self.config.train.train_iters)

    def pretrain(self) -> None:
        """Train on this machine; a run whose folder has a checkpoint goes on from it, one that has ended does nothing.

        Raises:
            ElasticError: its checkpoints are all damaged, or of another block.
        """
        if self.ended:  # Bridge would write the last checkpoint over itself
            self.forward_step.before()
            if get_rank_safe() == 0:
                print(f"{self.config.checkpoint.load}: holds the end of this run; nothing is left to do", flush=True)
            return
        with bridge_on_this_machine(self.config), experts_shared_or_not():  # its own last checkpoint, too
            pretrain(self.config, self.forward_step, callbacks=self.callbacks)


def apply_elastic(
    recipe: Any,
    elastic: ElasticConfig | Mapping[str, Any] | str | Path,
    *,
    teacher: str | None = None,
    stage: int = 1,
    previous: str | None = None,
    done_steps: int = 0,
    total_steps: int | None = None,
    out: str | None = None,
    mock_data: bool = False,
    ranked: str | None = None,
    rank_only: bool = False,
    verbose: bool = True,
) -> ElasticRun:
    """Turn a recipe of Megatron-Bridge's into one that trains a nested family. The container is changed in place.

    What the recipe and the block must agree on is checked first; a recipe that is refused is left as it was.

    Args:
        recipe: a `ConfigContainer` with a `HybridModelProvider`.
        elastic: the elastic block, or a YAML file with one.
        teacher, stage, previous, done_steps, total_steps, out, mock_data: see `StageOptions`.
        ranked: stage 1: what a ranking left (`rank_only`): sorted weights, first members and candidates.
        rank_only: rank, sort and search, write that down as a checkpoint, and train nothing.
        verbose: print every setting that has another value afterwards, and warn of what makes no sense.

    Returns:
        What `pretrain` takes.

    Raises:
        ElasticError: the recipe trains something else than a Nemotron-H, a stage lacks what it starts from, or
            recipe and block do not fit.
    """
    options = StageOptions(
        teacher=newest_of(teacher), stage=stage, previous=absolute_if_there(previous), done_steps=done_steps,
        total_steps=total_steps, out=out, mock_data=mock_data,
    )  # fmt: skip
    block = ElasticConfig.of(elastic)
    block = block.with_absolute_paths()
    parent = _check(recipe, block, options, ranked)
    register_layers()
    changes = ConfigChanges(recipe)
    total = options.total(recipe.train.train_iters)
    changes.warnings = warnings(recipe, block, stage, total, ranked)
    if not rank_only:
        changes.warnings += pace(recipe, total).warnings(parameters(parent, parent.full), stage, total)
    reads = {"teacher": [options.teacher], "previous": [options.previous], "ranked": [ranked]}
    changes.notes += absent(reads | data_of(recipe.dataset))
    changes.notes.append("inside of the model: elastic layers, without TransformerEngine, whatever its spec says")
    _model(recipe, block, vocabulary_rows(options.teacher))
    _precision(recipe, block)
    _checkpoints(recipe, absolute_if_there(ranked))
    recipe.optimizer_config_override_provider = ElasticOverrides(elastic=block.to_dict(), stage=stage)
    recipe.validation.eval_iters = (recipe.validation.eval_iters or 0) * len(block.budgets)
    if rank_only:
        recipe.checkpoint.save_optim, recipe.validation.eval_iters = False, 0
    run = _run(recipe, block, options, total, rank_only)
    run.changes = changes.text(recipe)
    if verbose and get_rank_safe() == 0:
        print(run.changes, flush=True)
    return run


def _check(recipe: Any, block: ElasticConfig, options: StageOptions, ranked: str | None) -> Parent:
    """The parent's shape; raise where recipe, block and options do not fit."""
    check_architecture(recipe)
    options.check(block, recipe.train.train_iters, "train.train_iters")
    parent = check_shape(recipe, block, options.teacher)
    check_parallel(recipe, block, parent)
    check_data(recipe, block, options.stage, ranked is not None)
    check_folders(recipe, options.out)
    if options.stage == 1:
        check_files(block, parent)
    check_text(recipe, options)
    return parent


def _model(recipe: Any, block: ElasticConfig, rows: int | None) -> None:
    model, tokenizer = recipe.model, recipe.tokenizer
    use_our_layers(model)
    if rows is not None:  # as Bridge pads the tokenizer's, other ranks would have another padding
        model.vocab_size, model.should_pad_vocab, tokenizer.use_tokenizer_vocab_size = rows, False, False
        if tokenizer.tokenizer_type == PLACEHOLDER:
            tokenizer.vocab_size = rows
    model.seq_length = recipe.dataset.seq_length
    if model.pipeline_model_parallel_size > 1 and block.distill.taught:
        model.variable_seq_lengths = True
        model.moe_token_dispatcher_type = "alltoall"  # megatron-core asks for it, experts or not


def use_our_layers(model: Any) -> None:
    """Let a provider build our layers, with the settings that they can have."""
    model.hybrid_stack_spec = elastic_stack_spec
    experts = has_experts(layer_pattern(model) or "")
    for name, value in (MODEL_SETTINGS | (EXPERT_SETTINGS if experts else {})).items():
        if getattr(model, name, None) not in (None, value):
            setattr(model, name, value)
    if model.recompute_granularity == "selective":
        model.recompute_granularity = None  # our layers recompute whole or not at all
        model.recompute_modules = None


def _precision(recipe: Any, block: ElasticConfig) -> None:
    """Turn off 8-bit formats and overlaps that no family can have: a micro-batch uses only a part of the weights."""
    recipe.comm_overlap = None  # it would turn all on
    if not recipe.optimizer.fp16:  # whose infinities are no mistakes
        recipe.ddp.check_for_nan_in_grad = False
    low = recipe.mixed_precision
    if any(word in low if isinstance(low, str) else getattr(low, word, None) for word in ("fp8", "fp4")):
        recipe.mixed_precision = "bf16_mixed"
    half = recipe.mixed_precision is not None or recipe.model.bf16 or recipe.model.fp16
    if half and block.router is not None and not recipe.optimizer.use_distributed_optimizer:
        # megatron-core's other one cannot save the router, which is float32 among half-precision weights
        recipe.optimizer.use_distributed_optimizer = recipe.ddp.use_distributed_optimizer = True
    refused = refused_overlaps(block, recipe.model.pipeline_model_parallel_size)
    turn_off((recipe.ddp, recipe.optimizer), refused)
    if recipe.optimizer.use_distributed_optimizer:
        # by default its state goes on in the layout that wrote it alone; the next stage has another
        recipe.checkpoint.dist_ckpt_optim_fully_reshardable = True


def _checkpoints(recipe: Any, ranked: str | None) -> None:
    if recipe.checkpoint.load is None:
        recipe.checkpoint.load = recipe.checkpoint.save
    # a parent's holds no members, and would be read over the sorted weights
    recipe.checkpoint.pretrained_checkpoint = ranked
    if recipe.checkpoint.ckpt_format != "torch_dist":
        recipe.checkpoint.ckpt_format = "torch_dist"
    use_our_manager(recipe.checkpoint)


def _run(recipe: Any, block: ElasticConfig, options: StageOptions, total: int, rank_only: bool) -> ElasticRun:
    stage, steps, done = options.stage, recipe.train.train_iters, options.done_steps
    freeze = block.freeze_step(done if stage > 1 else steps)
    peak, lowest = recipe.optimizer.lr, recipe.optimizer.min_lr
    rates = Rates(
        total,
        warmup(recipe, total)[1],
        0.1 if lowest is None else lowest / peak,
        start_step=done,
        freeze_step=freeze,
    )
    folder = recipe.checkpoint.save or "."
    previous = options.previous if stage > 1 else None

    def before() -> Path | None:
        check_settings(recipe)  # a script may have set them again
        refused = refused_overlaps(block, recipe.model.pipeline_model_parallel_size)
        check_overlaps({"ddp": recipe.ddp, "optimizer": recipe.optimizer}, refused)
        check_vocabularies(recipe, vocabulary_rows(options.teacher))  # which may not have been there
        return check_start(recipe.checkpoint, block, stage, previous, get_rank_safe() == 0, rank_only)

    step = ElasticStep(
        recipe.model, block, teacher=options.teacher, stage=stage, steps=steps, before=before, rank_only=rank_only
    )
    recipe.model.register_pre_wrap_hook(step.build)
    callback = ElasticCallback(
        step, rates, options.out or os.path.join(folder, "elastic"), folder, previous,
        label="rank" if rank_only else f"stage{stage}", rank_only=rank_only,
    )  # fmt: skip
    return ElasticRun(recipe, step, [callback])
