# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""apply_elastic: the one door by which a stock NeMo recipe becomes an elastic one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nemo_run as run
from nemo import lightning as nl
from nemo.collections import llm
from nemo.collections.llm.gpt.model.ssm import SSMConfig

from nemo_elastic.config import ElasticConfig
from nemo_elastic.errors import bad

from .callbacks import ElasticCallback
from .model import ElasticMambaModel
from .optim import ElasticOptimizer, ElasticSchedule, is_router, no_weight_decay, router_ratio


def apply_elastic(
    recipe: run.Partial,
    elastic: ElasticConfig | Mapping[str, Any],
    *,
    teacher: str | None = None,
    stage: int = 1,
    previous: str | None = None,
    done_steps: int = 0,
    total_steps: int | None = None,
    out: str | None = None,
    verbose: bool = True,
) -> run.Partial:
    """Turn a NeMo-Run recipe of a Nemotron-H into one that trains a nested family. The recipe is changed in place.

    Args:
        recipe: `run.Partial` of `llm.pretrain`, `llm.train` or `llm.finetune` with a MambaModel.
        elastic: the elastic block.
        teacher: NeMo checkpoint of the parent; the frozen teacher, and what stage 1 starts from.
        stage: 1 or 2 of the curriculum.
        previous: stage 2: checkpoint at the end of stage 1, whose weights, router, members and optimizer go on.
        done_steps: stage 2: steps of stage 1, so that the schedule goes on.
        total_steps: steps of all stages; those of this recipe if not given.
        out: folder for ranking and shapes; `elastic` in the log directory if not given.
        verbose: print every setting that is rewritten.

    Returns:
        The recipe.

    Raises:
        ElasticError: the recipe trains something else than a Nemotron-H, or a stage lacks what it starts from.
    """
    config = elastic if isinstance(elastic, ElasticConfig) else ElasticConfig.from_dict(elastic)
    model_class = getattr(getattr(recipe, "model", None), "__fn_or_cls__", None)
    config_class = getattr(getattr(getattr(recipe, "model", None), "config", None), "__fn_or_cls__", None)
    if not (isinstance(model_class, type) and issubclass(model_class, llm.MambaModel)):
        raise bad("recipe.model", getattr(model_class, "__name__", model_class), "a MambaModel (Nemotron-H)")
    if not (isinstance(config_class, type) and issubclass(config_class, SSMConfig)):
        raise bad("recipe.model.config", getattr(config_class, "__name__", config_class), "a subclass of SSMConfig")
    if stage == 2 and previous is None:
        raise bad("previous", previous, "stage 2 goes on from a checkpoint of stage 1")
    changes: list[tuple[str, Any, Any]] = []

    def change(owner: Any, name: str, value: Any, label: str) -> None:
        before = getattr(owner, name, None)
        if before != value:
            changes.append((label, before, value))
            setattr(owner, name, value)

    steps = recipe.trainer.max_steps
    total = total_steps or done_steps + steps
    kept = {k: getattr(recipe.model, k) for k in ("tokenizer", "model_transform") if hasattr(recipe.model, k)}
    recipe.model = run.Config(
        ElasticMambaModel,
        config=recipe.model.config,
        elastic=config.to_dict(),
        teacher=teacher,
        stage=stage,
        stage_steps=steps,
        **kept,
    )
    changes.append(("model", "MambaModel", "ElasticMambaModel"))

    stage_one = done_steps if stage == 2 else steps
    freeze = 0 if config.router is None else config.router.freeze_step(stage_one)
    old = recipe.optim
    schedule = getattr(old, "lr_scheduler", None)
    peak = old.config.lr
    warmup = getattr(schedule, "warmup_steps", None)
    floor = getattr(schedule, "min_ratio", None)
    if floor is None:
        floor = (getattr(schedule, "min_lr", None) or 0.1 * peak) / peak
    recipe.optim = run.Config(
        ElasticOptimizer,
        config=old.config,
        no_weight_decay_cond=no_weight_decay,
        scale_lr_cond=is_router if config.router else None,
        lr_mult=router_ratio(config.router.lr, peak) if config.router else 1.0,
        lr_scheduler=run.Config(
            ElasticSchedule,
            total_steps=total,
            warmup_steps=warmup if warmup is not None else 60,
            min_ratio=floor,
            start_step=done_steps,
            freeze_step=freeze,
        ),
    )
    changes.append(("optim", getattr(old.__fn_or_cls__, "__name__", "?"), "ElasticOptimizer"))
    changes.append(("optim.lr_scheduler", getattr(getattr(schedule, "__fn_or_cls__", None), "__name__", None),
                    "ElasticSchedule"))  # fmt: skip

    strategy = recipe.trainer.strategy
    ddp = getattr(strategy, "ddp", None)
    if ddp is not None and not isinstance(ddp, str):
        # only the last micro-batch's parameters are counted by the overlap, and each micro-batch has its own
        change(ddp, "overlap_grad_reduce", False, "trainer.strategy.ddp.overlap_grad_reduce")
        change(ddp, "overlap_param_gather", False, "trainer.strategy.ddp.overlap_param_gather")
    plugins = getattr(recipe.trainer, "plugins", None)
    if plugins is not None and getattr(plugins, "fp8", None):
        change(plugins, "fp8", None, "trainer.plugins.fp8")
    log_dir = getattr(recipe.log, "explicit_log_dir", None) or getattr(recipe.log, "log_dir", None) or "."
    callbacks = list(getattr(recipe.trainer, "callbacks", None) or [])
    recipe.trainer.callbacks = [*callbacks, run.Config(ElasticCallback, out=out or f"{log_dir}/elastic")]
    changes.append(("trainer.callbacks", len(callbacks), "+ ElasticCallback"))
    if stage == 2:
        recipe.resume = run.Config(
            nl.AutoResume,
            resume_if_exists=True,
            resume_ignore_no_checkpoint=True,
            restore_config=run.Config(nl.RestoreConfig, path=previous, load_model_state=True, load_optim_state=True),
        )
        changes.append(("resume", None, f"stage 1 at {previous}"))
    if verbose:
        print("apply_elastic changes the recipe:")
        for label, before, after in changes:
            print(f"  {label}: {before} -> {after}")
    return recipe
