# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Ranking as a job of its own: a checkpoint with sorted weights and first members, from which stage 1 starts.

Ranking needs neither optimizer, gradients nor teacher, so it fits fewer GPUs than training. It runs over tensor- and
data-parallel ranks, and what it leaves loads at any layout.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import nemo_run as run
from nemo import lightning as nl
from nemo.collections import llm
from nemo.lightning import io
from nemo.lightning.ckpt_utils import ckpt_to_dir
from nemo.lightning.io.pl import TrainerContext

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.hosts.common.checkpoints import NEMO, on_first, write_list
from nemo_elastic.hosts.common.stage import StageOptions
from nemo_elastic.hosts.nemo.model import ElasticMambaModel
from nemo_elastic.hosts.nemo.recipe.apply import change
from nemo_elastic.hosts.nemo.recipe.checks import STRATEGY
from nemo_elastic.io.outputs import Output, check_output, sign
from nemo_elastic.io.write import explained, flush, put_in_place, remove
from nemo_elastic.megatron.megatron_host import check_pipeline

#: what a killed ranking leaves
UNFINISHED = Output("an unfinished checkpoint", "(?:weights|context)/.*")


class RankCallback(pl.Callback, io.IOMixin):
    """Ranks, sorts and searches at the start of a validation, and writes the model down.

    A job that finds its checkpoint has nothing to do: a repeated experiment continues with the next job.

    Args:
        out: folder for the ranking and the search's trace (`ranking/`, `shapes.json`).
        checkpoint: NeMo checkpoint to write, whole or not at all.
    """

    def __init__(self, out: str, checkpoint: str) -> None:
        self.out, self.checkpoint = out, checkpoint

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        model: ElasticMambaModel = pl_module
        if not already_ranked(Path(self.checkpoint), model.elastic_config):
            model.loop.run_began(Path(self.out))
            save_whole(trainer, Path(self.checkpoint))


def already_ranked(checkpoint: Path, config: ElasticConfig) -> bool:
    """Whether an earlier run left this checkpoint.

    Raises:
        ElasticError: it did, with another block, as far as the ranking depends on it.
    """
    if not checkpoint.exists():
        return False
    NEMO.check_start(checkpoint, config, stage=0, resumed=True)
    return True


def save_whole(trainer: pl.Trainer, checkpoint: Path) -> None:
    """Write a NeMo checkpoint without optimizer state, whole or not at all; all ranks call it.

    Its temporary name is the same on all ranks. What a killed run left there is replaced, and nothing else.
    """
    partial = checkpoint.with_name(f"{checkpoint.name}-unfinished")

    def begin() -> None:
        check_output(partial, True, kind=UNFINISHED)
        remove(partial)
        partial.mkdir(parents=True)
        sign(partial, UNFINISHED, whole=False)

    def end() -> None:
        TrainerContext.from_trainer(trainer).io_dump(ckpt_to_dir(partial) / "context", yaml_attrs=["model"])
        write_list(ckpt_to_dir(partial), 0)
        flush(partial)
        put_in_place(partial, checkpoint, replace=False)

    with explained(checkpoint):
        on_first(begin)
        try:
            trainer.save_checkpoint(partial, weights_only=True)
            on_first(end)
        except BaseException:
            if trainer.is_global_zero:
                remove(partial)
            raise


def rank_only(recipe: run.Partial, config: ElasticConfig, *, parent: str, out: str, checkpoint: str) -> run.Partial:
    """Turn a stock recipe, in any layout without pipeline stages, into one that ranks its parent; prints what changes.

    Args:
        recipe: what stage 1 would train, with stage 1's data: its first samples are looked at. Changed in place.
        config: the elastic block.
        parent: NeMo checkpoint of the parent.
        out, checkpoint: see `RankCallback`.

    Returns:
        A recipe of `llm.validate`, which reads a single global batch.

    Raises:
        ElasticError: pipeline stages; see `apply_elastic` and `already_ranked`.
    """
    strategy = getattr(getattr(recipe, "trainer", None), "strategy", None)
    stages = getattr(strategy, "pipeline_model_parallel_size", 1) or 1
    check_pipeline(stages, f"{STRATEGY}.")
    # no loss is taken; with one against the parent, the parent would be in memory twice
    block = replace(config, distill=DistillConfig(teacher="none"))
    changes = change(recipe, block, StageOptions(teacher=parent), trains=False)
    # where the checkpoint lies on this machine, one of another block is refused before anything starts
    already_ranked(Path(checkpoint), ElasticConfig.from_dict(recipe.model.elastic))
    trainer = recipe.trainer
    trainer.callbacks = [run.Config(RankCallback, out=out, checkpoint=checkpoint)]
    trainer.limit_val_batches = 1
    # Megatron builds an order of all validations that training would make: this many train batches have one
    trainer.val_check_interval = getattr(recipe.data, "num_train_samples", None) or trainer.max_steps
    trainer.strategy.ckpt_async_save = False
    trainer.strategy.setup_optimizers = False
    trainer.strategy.ddp = "pytorch"  # outside of training that is none at all, so no buffers for gradients
    log = run.Config(nl.NeMoLogger, name="rank", explicit_log_dir=recipe.log.explicit_log_dir)
    job = run.Partial(llm.validate, model=recipe.model, data=recipe.data, trainer=trainer, log=log)
    print(changes.text(job, "the ranking"), flush=True)
    return job
