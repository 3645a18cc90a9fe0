# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""apply_elastic, by which a stock NeMo recipe becomes an elastic one; ElasticPlugin calls it for NeMo-Run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nemo_run as run
from megatron.core.distributed import DistributedDataParallelConfig
from nemo import lightning as nl

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import bad
from nemo_elastic.hosts.common.changes import Changes, made_by
from nemo_elastic.hosts.common.checkpoints import newest_of
from nemo_elastic.hosts.common.rules import check, rates_of, set_optimizer, tell, use_our_layers
from nemo_elastic.hosts.common.stage import STAGE_OPTIONS, StageOptions
from nemo_elastic.hosts.nemo.callbacks import ElasticCallback, MetricsWriter
from nemo_elastic.hosts.nemo.checkpoint.resume import ElasticCheckpoint, ElasticResume, StopInTime
from nemo_elastic.hosts.nemo.model import ElasticMambaModel
from nemo_elastic.hosts.nemo.optim import ElasticOptimizer, ElasticSchedule
from nemo_elastic.megatron.router_optim import ROUTER_MARK, is_router, no_weight_decay

from .checks import NemoRecipe

#: arguments of MegatronMixedPrecision that go back to their defaults with fp8
LOW_PRECISION = ("fp8", "fp4", "first_last_layers_bf16", "num_layers_at_", "reuse_grad_buf_for_mxfp8")


def apply_elastic(
    recipe: run.Partial,
    elastic: ElasticConfig | Mapping[str, Any] | str | Path,
    *,
    teacher: str | None = None,
    stage: int = 1,
    previous: str | None = None,
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
        teacher, stage, previous, total_steps, out, mock_data: see `StageOptions`.
        verbose: print every setting that has another value afterwards, and warn of what makes no sense.

    Returns:
        The recipe.

    Raises:
        ElasticError: the recipe trains something else than a Nemotron-H, a stage lacks what it starts from, or
            `checks` found that recipe and block do not fit.
    """
    options = StageOptions(
        teacher=teacher, stage=stage, previous=previous, total_steps=total_steps, out=out, mock_data=mock_data
    )
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
    """What `apply_elastic` does, for callers that change more and print all changes together.

    Args:
        recipe, elastic: as there.
        options: its other arguments.
        changes: the caller's record of its own changes so far; a new one by default.
        trains: whether the job takes steps; otherwise rates and batches are not judged.

    Returns:
        The record, with notes and warnings; nothing is printed.
    """
    block = ElasticConfig.of(elastic).with_absolute_paths()
    options = replace(options, teacher=newest_of(options.teacher), previous=newest_of(options.previous, "previous"))
    fields = NemoRecipe(recipe, changes)
    parent = check(fields, block, options)
    tell(fields, block, options, parent, trains)
    _model(fields, block, options)
    _optimizer(fields, block, rates_of(fields, block, options))
    _precision(fields, block)
    _callbacks(fields, options)
    _start(fields, options)
    return fields.changes


def _model(fields: NemoRecipe, block: ElasticConfig, options: StageOptions) -> None:
    old, length = fields.get("model"), fields.get("length")
    kept = {k: getattr(old, k) for k in ("tokenizer", "model_transform") if getattr(old, k, None) is not None}
    fields.made.model = run.Config(
        ElasticMambaModel,
        config=old.config,
        elastic=block.to_dict(),
        teacher=options.teacher,
        stage=options.stage,
        stage_steps=fields.get("steps"),
        **kept,
    )
    if length is not None:  # it was refused where both were written down and differ
        fields.put("model.config.seq_length", length)
    use_our_layers(old.config)


def _optimizer(fields: NemoRecipe, block: ElasticConfig, rates: dict[str, Any]) -> None:
    if block.router:
        rates = rates | {"router_lr": block.router.lr}
    fields.made.optim = run.Config(
        ElasticOptimizer,
        config=fields.get("optimizer"),
        no_weight_decay_cond=no_weight_decay,
        scale_lr_cond=is_router if block.router else None,
        lr_mult=ROUTER_MARK if block.router else 1.0,
        # NeMo overwrites `max_steps` of every stock scheduler with the trainer's, so that a stage would decay to its
        # end; ours counts `total_steps`, over all stages, under a name that NeMo does not know
        lr_scheduler=run.Config(ElasticSchedule, **rates),
    )
    fields.changes.reasons["optim.lr_mult"] = "marks the router, whose rate is router_lr of the schedule"


def _precision(fields: NemoRecipe, block: ElasticConfig) -> None:
    """Turn off 8-bit formats, and overlaps and checks that no family can have."""
    if fields.get("ddp") == "megatron":  # NeMo's default
        fields.put("ddp", run.Config(DistributedDataParallelConfig, check_for_nan_in_grad=True))
    plugins, half = fields.get("trainer.plugins"), False
    for plugin in plugins if isinstance(plugins, list) else [plugins]:
        for name in sorted(getattr(plugin, "__arguments__", {})):
            if name.startswith(LOW_PRECISION) and getattr(plugin, name) not in (None, False, 0):
                delattr(plugin, name)
        half = half or "16" in str(getattr(plugin, "precision", None))
    set_optimizer(fields, block, half)


def _callbacks(fields: NemoRecipe, options: StageOptions) -> None:
    given = fields.get("trainer.callbacks") or []
    stops = next((one for one in given if made_by(one) is StopInTime), run.Config(StopInTime))
    # one that would turn the overlaps on again is left out
    kept = [
        callback
        for callback in given
        if callback is not stops and getattr(made_by(callback), "__name__", "") != "MegatronCommOverlapCallback"
    ]
    folder = fields.get("save") or fields.get("log.log_dir") or "."
    if not any(made_by(callback) is MetricsWriter for callback in kept):
        kept.append(run.Config(MetricsWriter, label=f"stage{options.stage}"))
    finds = run.Config(ElasticCallback, out=options.out or f"{folder}/elastic")
    fields.made.trainer.callbacks = [*kept, finds, stops]  # Ctrl-C during the ranking has nothing to save
    # a tensor of PyTorch's inference mode that a layer keeps would be of no use to the next training step
    fields.put("trainer.inference_mode", False)
    if type(fields.get("validate every")) is int:  # Lightning refuses an interval above an epoch of few conversations
        fields.put("trainer.check_val_every_n_epoch", None, "the interval counts steps, also over epochs")


def _start(fields: NemoRecipe, options: StageOptions) -> None:
    """What a run starts from. NeMo's classes that write checkpoints and find them again give way to ours."""
    if options.stage > 1:
        start = run.Config(nl.RestoreConfig, path=options.previous, load_model_state=True, load_optim_state=True)
        fields.made.resume = run.Config(
            nl.AutoResume, resume_if_exists=True, resume_ignore_no_checkpoint=True, restore_config=start
        )
    elif fields.get("resume.restore_config") is not None:
        # it holds no router, and would be read over the sorted weights
        fields.put("resume.restore_config", None, "the teacher is the start")
    for name, stock, ours in (
        ("resume", nl.AutoResume, ElasticResume),
        ("log.ckpt", nl.ModelCheckpoint, ElasticCheckpoint),
    ):
        old = fields.get(name)
        if isinstance(old, run.Config) and made_by(old) is stock:
            fields.put(name, run.Config(ours, **old.__arguments__))
    if options.stage == 1 and made_by(fields.get("log.ckpt")) is ElasticCheckpoint:
        # which NeMo's default would leave out
        fields.put("log.ckpt.save_optim_on_train_end", True, "stage 2 continues from it")
