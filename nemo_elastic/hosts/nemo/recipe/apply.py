# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""apply_elastic, by which a stock NeMo recipe becomes an elastic one; ElasticPlugin calls it for NeMo-Run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nemo_run as run
from megatron.core.distributed import DistributedDataParallelConfig
from nemo import lightning as nl

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.errors import bad
from nemo_elastic.hosts.common.agreement import absent, check_files
from nemo_elastic.hosts.common.stage import STAGE_OPTIONS, StageOptions
from nemo_elastic.hosts.common.token_files import files_of
from nemo_elastic.hosts.nemo.callbacks import ElasticCallback, MetricsWriter
from nemo_elastic.hosts.nemo.checkpoint.resume import ElasticCheckpoint, ElasticResume
from nemo_elastic.hosts.nemo.model import ElasticMambaModel
from nemo_elastic.hosts.nemo.optim import ElasticOptimizer, ElasticSchedule
from nemo_elastic.hosts.parents import newest_of
from nemo_elastic.megatron.models import refused_overlaps, turn_off
from nemo_elastic.megatron.router_optim import is_router, no_weight_decay, router_ratio

from .checks import (
    check_architecture,
    check_data,
    check_folders,
    check_kernels,
    check_parallel,
    check_shape,
    check_text,
    made_by,
    pace,
    warnings,
)
from .settings import Changes

#: arguments of MegatronMixedPrecision that go back to their defaults with fp8
LOW_PRECISION = ("fp8", "fp4", "first_last_layers_bf16", "num_layers_at_", "reuse_grad_buf_for_mxfp8")
#: settings of the model that need layers of one shape, or TransformerEngine's: name -> what we set
MODEL_SETTINGS = {
    "fp8": None,
    "fp4": None,
    "tp_comm_overlap": False,
    "enable_cuda_graph": False,
    "external_cuda_graph": False,
}


def apply_elastic(
    recipe: run.Partial,
    elastic: ElasticConfig | Mapping[str, Any] | str | Path,
    *,
    teacher: str | None = None,
    stage: int = 1,
    previous: str | None = None,
    done_steps: int = 0,
    total_steps: int | None = None,
    out: str | None = None,
    mock_data: bool = False,
    verbose: bool = True,
) -> run.Partial:
    """Turn a NeMo-Run recipe of a Nemotron-H into one that trains a nested family. The recipe is changed in place.

    What the recipe and the block must agree on is checked first; a recipe that is refused is left as it was.

    Args:
        recipe: `run.Partial` of `llm.pretrain`, `llm.train` or `llm.finetune` with a MambaModel.
        elastic: the elastic block, or a YAML file with one.
        teacher, stage, previous, done_steps, total_steps, out, mock_data: see `StageOptions`.
        verbose: print every setting that has another value afterwards, and warn of what makes no sense.

    Returns:
        The recipe.

    Raises:
        ElasticError: the recipe trains something else than a Nemotron-H, a stage lacks what it starts from, or
            `checks` found that recipe and block do not fit.
    """
    options = StageOptions(
        teacher=teacher, stage=stage, previous=previous, done_steps=done_steps, total_steps=total_steps, out=out,
        mock_data=mock_data,
    )  # fmt: skip
    changes = change(recipe, elastic, options)
    if verbose:
        print(changes.text(recipe), flush=True)
    return recipe


@dataclass
class ElasticPlugin(StageOptions, run.Plugin):
    """Makes the recipe of a task elastic when the task is added to an experiment.

    NeMo-Run works on a copy, so that one recipe can be run as it is and elastic. It calls plugins only where there is
    an executor: `run.run(recipe, plugins=[…])` without one, or with `direct=True`, ignores every plugin.

    Example:
        >>> run.run(recipe, run.LocalExecutor(), plugins=[ElasticPlugin("elastic.yaml", teacher="/checkpoints/12b")])

    Attributes:
        elastic: the elastic block, or a YAML file with one.
        verbose: print what is changed, as in `apply_elastic`.
    """

    elastic: ElasticConfig | Mapping[str, Any] | str | Path
    verbose: bool = True

    def setup(self, task: Any, executor: Any) -> None:
        """Change the task's recipe in place; NeMo-Run calls this.

        Raises:
            ElasticError: the task is a script, or `apply_elastic` refuses it.
        """
        if not isinstance(task, run.Partial):
            raise bad("task", type(task).__name__, "a run.Partial of a recipe; a script has no settings to change")
        apply_elastic(
            task, self.elastic, verbose=self.verbose, **{name: getattr(self, name) for name in STAGE_OPTIONS}
        )


def change(
    recipe: run.Partial,
    elastic: ElasticConfig | Mapping[str, Any] | str | Path,
    options: StageOptions,
    changes: Changes | None = None,
    trains: bool = True,
) -> Changes:
    """What `apply_elastic` does, for callers that change more and tell it together.

    Args:
        recipe, elastic: as there.
        options: its other arguments.
        changes: if they began before.
        trains: whether steps are taken, whose rates and batches may make no sense.
    """
    config = ElasticConfig.of(elastic)
    config = config.with_absolute_paths()
    teacher, previous = newest_of(options.teacher), newest_of(options.previous, "previous")
    stage, done, out = options.stage, options.done_steps, options.out
    check_architecture(recipe)
    steps = recipe.trainer.max_steps
    options.check(config, steps, "trainer.max_steps", "NeMo checkpoint")
    parent = check_shape(recipe, config, teacher)
    check_parallel(recipe, config, parent)
    check_kernels(recipe, config, parent)
    check_data(recipe, config)
    check_folders(recipe, out)
    if stage == 1:
        check_files(config, parent)
    check_text(recipe, options)
    changes = changes or Changes(recipe)
    total = options.total(steps)
    changes.warnings = warnings(recipe, config, stage, total)
    if trains:
        changes.warnings += pace(recipe).warnings(parameters(parent, parent.full), stage, total)
    data = [*files_of(getattr(recipe.data, "paths", None)), *files_of(getattr(recipe.data, "dataset_root", None))]
    changes.notes += absent({"teacher": [teacher], "previous": [previous], "recipe.data": data})
    changes.notes.append("inside of the model: elastic layers, without TransformerEngine, whatever its spec says")
    _model(recipe, config, teacher=teacher, stage=stage, steps=steps)
    _optimizer(recipe, config, stage=stage, done=done, total=total)
    _precision(recipe, config)
    _callbacks(recipe, out, f"stage{stage}")
    _start(recipe, previous if stage > 1 else None)
    _going_on(recipe, stage)
    return changes


def _model(recipe: Any, config: ElasticConfig, *, teacher: str | None, stage: int, steps: int) -> None:
    old = recipe.model
    kept = {k: getattr(old, k) for k in ("tokenizer", "model_transform") if getattr(old, k, None) is not None}
    recipe.model = run.Config(
        ElasticMambaModel,
        config=old.config,
        elastic=config.to_dict(),
        teacher=teacher,
        stage=stage,
        stage_steps=steps,
        **kept,
    )
    shape = recipe.model.config
    length = getattr(recipe.data, "seq_length", None)
    if length is not None:  # check_data refuses where both were written down and differ
        _set(shape, "seq_length", length)
    for name, value in MODEL_SETTINGS.items():
        if getattr(shape, name, None):
            setattr(shape, name, value)
    if getattr(shape, "recompute_granularity", None) == "selective":
        # our layers recompute whole or not at all, and NeMo's Mamba layers know no recomputation
        shape.recompute_granularity = None


def _optimizer(recipe: Any, config: ElasticConfig, *, stage: int, done: int, total: int) -> None:
    old = recipe.optim
    schedule = getattr(old, "lr_scheduler", None)
    peak = old.config.lr
    warmup, floor, lowest = (getattr(schedule, k, None) for k in ("warmup_steps", "min_ratio", "min_lr"))
    if floor is None:
        floor = 0.1 if lowest is None else lowest / peak
    # shapes are frozen at a share of stage 1's steps, and stay so in those behind it
    freeze = config.freeze_step(done if stage > 1 else recipe.trainer.max_steps)
    recipe.optim = run.Config(
        ElasticOptimizer,
        config=old.config,
        no_weight_decay_cond=no_weight_decay,
        scale_lr_cond=is_router if config.router else None,
        lr_mult=router_ratio(config.router.lr, peak) if config.router else 1.0,
        # NeMo overwrites `max_steps` of every stock scheduler with the trainer's, so that a stage would decay to its
        # end; ours counts `total_steps`, over all stages, under a name that NeMo does not know
        lr_scheduler=run.Config(
            ElasticSchedule,
            total_steps=total,
            warmup_steps=warmup if warmup is not None else 60,
            min_ratio=floor,
            start_step=done,
            freeze_step=freeze,
        ),
    )


def _precision(recipe: Any, config: ElasticConfig) -> None:
    """Turn off 8-bit formats and overlaps that no family can have: a micro-batch uses only a part of the weights."""
    optimizer, strategy = recipe.optim.config, recipe.trainer.strategy
    if not getattr(optimizer, "fp16", False):  # whose infinities are no mistakes
        _own_guard(recipe.trainer.strategy)
    plugins = getattr(recipe.trainer, "plugins", None)
    for plugin in plugins if isinstance(plugins, list) else [plugins]:
        for name in sorted(getattr(plugin, "__arguments__", {})):
            if name.startswith(LOW_PRECISION) and getattr(plugin, name) not in (None, False, 0):
                delattr(plugin, name)
        half = "16" in str(getattr(plugin, "precision", None))
        if half and config.router is not None and not getattr(optimizer, "use_distributed_optimizer", False):
            # megatron-core's other one cannot save the router, which is float32 among half-precision weights
            optimizer.use_distributed_optimizer = True
    pipeline = getattr(strategy, "pipeline_model_parallel_size", 1) or 1
    turn_off((getattr(strategy, "ddp", None), optimizer), refused_overlaps(config, pipeline))
    if getattr(optimizer, "use_distributed_optimizer", False):
        # by default its state is saved as it lies in buffers, and goes on in the layout that wrote it alone; the next
        # stage, with its longer sequences, has another
        _set(recipe.trainer.strategy, "ckpt_optim_fully_reshardable", True)


def _own_guard(strategy: Any) -> None:
    """Turn off megatron-core's check of gradients, which knows neither budget nor layer and cannot skip a step."""
    ddp = getattr(strategy, "ddp", "megatron")
    if ddp == "megatron":  # NeMo's default: with the check, and nothing else
        strategy.ddp = run.Config(DistributedDataParallelConfig, check_for_nan_in_grad=False)
    elif isinstance(ddp, run.Config):
        _set(ddp, "check_for_nan_in_grad", False)


def _callbacks(recipe: Any, out: str | None, label: str) -> None:
    # one that would turn the overlaps on again is left out
    kept = [
        callback
        for callback in getattr(recipe.trainer, "callbacks", None) or []
        if getattr(made_by(callback), "__name__", "") != "MegatronCommOverlapCallback"
    ]
    log = getattr(recipe, "log", None)
    folder = getattr(log, "explicit_log_dir", None) or getattr(log, "log_dir", None) or "."
    if not any(made_by(callback) is MetricsWriter for callback in kept):
        kept.append(run.Config(MetricsWriter, label=label))
    recipe.trainer.callbacks = [*kept, run.Config(ElasticCallback, out=out or f"{folder}/elastic")]
    # a tensor of PyTorch's inference mode that a layer keeps would be of no use to the next training step
    _set(recipe.trainer, "inference_mode", False)


def _going_on(recipe: Any, stage: int) -> None:
    """Let NeMo's classes that write checkpoints and find them again give way to ours.

    Stage 2 continues from the optimizer at the end of stage 1, which NeMo's default would leave out of it.
    """
    for owner, name, stock, own in (
        (recipe, "resume", nl.AutoResume, ElasticResume),
        (getattr(recipe, "log", None), "ckpt", nl.ModelCheckpoint, ElasticCheckpoint),
    ):
        old = getattr(owner, name, None)
        if isinstance(old, run.Config) and made_by(old) is stock:
            setattr(owner, name, run.Config(own, **old.__arguments__))
    ckpt = getattr(getattr(recipe, "log", None), "ckpt", None)
    if stage == 1 and made_by(ckpt) is ElasticCheckpoint:
        _set(ckpt, "save_optim_on_train_end", True)


def _start(recipe: Any, previous: str | None) -> None:
    if previous is not None:
        recipe.resume = run.Config(
            nl.AutoResume,
            resume_if_exists=True,
            resume_ignore_no_checkpoint=True,
            restore_config=run.Config(nl.RestoreConfig, path=previous, load_model_state=True, load_optim_state=True),
        )
        return
    if getattr(getattr(recipe, "resume", None), "restore_config", None) is not None:
        # it holds no router, and would be read over the sorted weights
        recipe.resume.restore_config = None


def _set(owner: Any, name: str, value: Any) -> None:
    """Write a field down where it has another value."""
    if getattr(owner, name, None) != value:
        setattr(owner, name, value)
