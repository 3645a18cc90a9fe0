# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The curriculum on Megatron-Bridge: rank → stage 1 → stage 2 (→ stage 3 in low precision) → slice, each a job.

DIR/rank/checkpoints      sorted weights and members
DIR/stage1/checkpoints    and the members that were found, optimizer state
DIR/stage2/checkpoints
DIR/family, DIR/members/NAME   Hugging Face folders

The module is imported without Megatron-Bridge and torch too: a login node writes and submits jobs by the plan alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.moe import EXPERTS
from nemo_elastic.data.packing import PARQUET
from nemo_elastic.errors import STOPPED
from nemo_elastic.formats.megatron.shape import stock_sizes
from nemo_elastic.hosts.common.chat_data import chat_folder
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun, Job
from nemo_elastic.hosts.common.planned import PlannedFamily, Precision, ranking_experts
from nemo_elastic.hosts.common.token_files import splits_of
from nemo_elastic.plan.activations import Routing
from nemo_elastic.plan.layouts import layout_name
from nemo_elastic.slicing.family_folder import slice_family

if TYPE_CHECKING:
    import nemo_run

    from .apply import ElasticRun
    from .checks import BridgeRecipe

#: torch's dtypes by their names
DTYPES = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}
#: what Bridge's recipes of `recipes/families.py` are built of, for machines without Bridge
STOCK_PRECISION = Precision("bf16", "fp32")
#: checkpoints of a run that are kept: a new one is whole before the one before it goes
KEPT = 2


@dataclass(frozen=True)
class BridgeFamily(PlannedFamily):
    """A family that is trained from one of Megatron-Bridge's own recipes: a function without arguments."""

    host = "bridge"
    validation_batches = 1

    @cached_property
    def precision(self) -> Precision:
        """What Bridge's setup makes of the recipe's."""
        if not installed():
            return STOCK_PRECISION
        from megatron.bridge.training.mixed_precision import get_mixed_precision_config

        config = self._stock()
        low = config.mixed_precision and get_mixed_precision_config(config.mixed_precision)
        weights = DTYPES[str((low or config.model).params_dtype)]
        return Precision(weights, "fp32" if (low or config.ddp).grad_reduce_in_fp32 else weights)

    @cached_property
    def routing(self) -> Routing:
        """What `apply_elastic` makes of the recipe's."""
        if not installed():
            return Routing()
        from .apply import use_our_layers

        model = self._stock().model
        use_our_layers(model)
        return routing_of(model)

    def checkpoint_of(self, job: str, run: CurriculumRun) -> str:
        return os.path.join(run.folder(job), "checkpoints")

    def recipe_of(self, built: Any) -> BridgeRecipe:
        from .apply import ElasticRun
        from .checks import BridgeRecipe

        return BridgeRecipe(built.config if isinstance(built, ElasticRun) else built)

    def settings(self, built: ElasticRun) -> dict[str, Any]:
        return built.settings()

    def parent_recipe(self, run: CurriculumRun) -> Any:
        from .apply import use_our_layers

        config = self.stock_recipe("parent", run)
        use_our_layers(config.model)
        config.model.seq_length, config.scheduler.lr_decay_iters = config.dataset.seq_length, config.train.train_iters
        config.comm_overlap = None
        config.ddp.overlap_grad_reduce = config.ddp.overlap_param_gather = False
        return config

    def watched(self, built: ElasticRun, out: str, stop_after: int | None) -> ElasticRun:
        from .watch import BridgeWatch

        return replace(built, callbacks=[*built.callbacks, BridgeWatch(built.forward_step, out, stop_after)])

    def task(
        self, built: Any, job: str, run: CurriculumRun, watch: tuple[str, int | None] | None = None
    ) -> nemo_run.Partial:
        import nemo_run

        return nemo_run.Partial(run_job, job=job, family=plain(self), run=run.to_dict(), watch=watch)

    @staticmethod
    def stop_in_time(task: nemo_run.Partial, code: int) -> None:
        task.stopped = code

    def described(self, run: CurriculumRun) -> dict[str, Job]:
        if installed():
            return super().described(run)
        print("Megatron-Bridge cannot be imported here: each job builds and checks its recipe, in an image that has "
              "nemo-elastic[bridge].", flush=True)  # fmt: skip
        return {job: self._by_plan(job, run) for job in run.jobs[:-1]} | {"slice": Job(self.slice_job(run))}

    def _by_plan(self, job: str, run: CurriculumRun) -> Job:
        """A job whose recipe is not built here; the names of its data are checked."""
        chat_folder(run, job, PARQUET) if run.chat else splits_of(run.text(job))
        nodes, devices = run.machines(job)
        layout = self.layout_of(job, run)
        if layout is None:
            experts = ranking_experts(self.parent, devices) if self.parent.has(EXPERTS) else None
            return Job(
                self.task(None, job, run), nodes, devices, layout_name(1, 1, nodes * devices, False, False, experts)
            )
        steps = run.stage(job).max_steps
        return Job(self.task(None, job, run), nodes, devices, str(layout), steps, self.stop_in_time)

    def elastic(self, recipe: Any, job: str, run: CurriculumRun) -> ElasticRun:
        from .apply import apply_elastic

        ranked = self.checkpoint_of("rank", run) if job == "stage1" else None
        options = run.options(job, self.checkpoint_of(f"stage{run.before(job)}", run))
        return apply_elastic(recipe, run.block_of(job), rank_only=job == "rank", ranked=ranked, **vars(options))

    def stock_recipe(self, job: str, run: CurriculumRun) -> Any:
        from .checks import BridgeRecipe
        from .job_data import set_data

        config, parent = self._stock(), run.shape or self.parent
        model, checkpoint = config.model, config.checkpoint
        # Bridge's recipe has none, and takes that of a tokenizer that is no parent's
        model.vocab_size, model.should_pad_vocab = parent.vocab, False
        config.tokenizer.vocab_size = parent.vocab
        if run.tokenizer is not None:
            config.tokenizer.tokenizer_type, config.tokenizer.tokenizer_model = "HuggingFaceTokenizer", run.tokenizer
            config.tokenizer.vocab_size = None
        else:  # some of Bridge's recipes name one on a hub
            config.tokenizer.tokenizer_type, config.tokenizer.tokenizer_model = "NullTokenizer", None
        if model.mtp_num_layers:  # `slice` takes these layers from the parent, and `specialize --mtp` trains them
            model.mtp_num_layers = model.mtp_hybrid_override_pattern = None
        layout = self.layout_of(job, run)
        set_data(config, job, run, math.prod(run.machines(job)) if layout is None else layout.data)
        self.put(BridgeRecipe(config), job, run, layout)
        config.scheduler.lr_warmup_fraction = None
        checkpoint.save = checkpoint.load = self.checkpoint_of(job, run)
        checkpoint.most_recent_k = KEPT
        # a tensor that is missing in a hand-over is an error, where Bridge's recipe has a line in the log
        checkpoint.dist_ckpt_strictness = "assume_ok_unexpected"
        config.logger.tensorboard_dir = os.path.join(run.folder(job), "tensorboard")
        if run.shape is not None:
            set_sizes(model, run.shape)
        if not run.cuda:
            config.dist.distributed_backend = "gloo"  # it says that no kernels have to take these widths
        return config

    def _stock(self) -> Any:
        """Bridge's container, with gradients summed in fp32: those of a weight come from many micro-batches."""
        from megatron.bridge.training.mixed_precision import get_mixed_precision_config

        config = self.stock()
        low = config.mixed_precision and get_mixed_precision_config(config.mixed_precision)
        if low and not low.grad_reduce_in_fp32:  # it has the last word in Bridge's setup
            low.grad_reduce_in_fp32, config.mixed_precision = True, low
        config.ddp.grad_reduce_in_fp32 = True
        plain_adam(config.optimizer)
        return config


@cache
def installed() -> bool:
    """Whether Megatron-Bridge can be imported: without a GPU's TransformerEngine it often cannot."""
    try:
        import megatron.bridge  # noqa: F401
    except ImportError:
        return False
    return True


def plain_adam(optimizer: Any) -> None:
    """All states in fp32; others need TransformerEngine's Adam."""
    import torch

    optimizer.use_precision_aware_optimizer = False
    for name in ("main_grads", "main_params", "exp_avg", "exp_avg_sq"):
        setattr(optimizer, f"{name}_dtype", torch.float32)


def routing_of(model: Any) -> Routing:
    """How a provider's layers send tokens to experts; each kind of auxiliary loss may have its own coefficient."""
    kinds, weights = (
        value if isinstance(value, list) else [value]
        for value in (model.moe_router_load_balancing_type, model.moe_aux_loss_coeff)
    )
    balanced = any(kind.endswith("aux_loss") and weight > 0 for kind, weight in zip(kinds, weights, strict=False))
    return Routing(model.moe_router_dtype or "bf16", balanced, model.moe_permute_fusion)


def set_sizes(model: Any, parent: Parent) -> None:
    """Give a provider a parent's widths; its pattern, which may mark pipeline stages, stays."""
    for name, value in stock_sizes(parent, parent.full, experts=True).items():
        if name not in ("hybrid_layer_pattern", "num_layers") and getattr(model, name) != value:
            setattr(model, name, value)


# ---------------------------------------------------------------------- jobs as NeMo-Run starts them


def run_job(
    family: Mapping[str, Any],
    run: Mapping[str, Any],
    job: str,
    watch: Sequence[Any] | None = None,
    stopped: int = STOPPED,
) -> None:
    """What each process of a job does: it builds its container from plain values.

    Args:
        family: see `plain`.
        run: see `CurriculumRun.to_dict`.
        job: of the run; or parent, see `PlannedFamily.parent_recipe`.
        watch: arguments of a stage's `Watch`.
        stopped: exit code where the job is stopped before the end of its training.
    """
    curriculum = CurriculumRun.from_dict(run)
    recipe = family_of(family, curriculum)
    if job == "slice":
        slice_family(**recipe.slice_arguments(curriculum))
    elif job == "parent":
        from megatron.bridge.training.gpt_step import forward_step
        from megatron.bridge.training.pretrain import pretrain

        from .platform import bridge_on_this_machine, lines_to_logs

        config = recipe.parent_recipe(curriculum)
        with bridge_on_this_machine(config), lines_to_logs(Path(curriculum.folder(job))):
            pretrain(config, forward_step)
    else:
        built = recipe.build(job, curriculum)
        (built if watch is None else recipe.watched(built, *watch)).pretrain_to_logs(stopped)


def plain(family: BridgeFamily) -> dict[str, Any]:
    """A family as plain values, for another process; its block is in the run."""
    stock = family.stock
    return {"name": family.name, "stock": f"{stock.__module__}:{stock.__qualname__}", "shape": family.shape}


def family_of(values: Mapping[str, Any], curriculum: CurriculumRun) -> BridgeFamily:
    """The family of `plain`, of a run's block."""
    return BridgeFamily(values["name"], resolve_name(values["stock"]), values["shape"], curriculum.block)
