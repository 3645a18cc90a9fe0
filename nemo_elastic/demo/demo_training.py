# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's training phases: stock recipe, then the same recipe made elastic, twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .demo_settings import PARENT, STAGE1, STAGE2, Settings


def train_parent(data: Path, out: Path, settings: Settings, on_validation: Callable[[int], None]) -> Path:
    """Train the parent with a stock recipe.

    Args:
        data: data folder; out: the phase's own.
        settings: sizes.
        on_validation: called after each validation with the steps that are done.

    Returns:
        Its NeMo checkpoint.
    """
    import lightning.pytorch as pl

    from nemo_elastic.hosts.nemo.tiny.recipe import tiny_recipe

    class Watcher(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            on_validation(trainer.global_step)

    batch, length = PARENT
    return launch(
        tiny_recipe(
            data,
            out,
            steps=settings.parent_steps,
            seq_length=length,
            micro_batch_size=batch,
            global_batch_size=batch,
            lr=settings.parent_lr,
            warmup_steps=max(1, settings.parent_steps // 25),
            min_ratio=0.03,
            label="parent",
            eval_every=settings.eval_every,
        ),
        out,
        Watcher(),
    )


def train_stage(
    stage: int, data: Path, out: Path, settings: Settings, parent: Path, previous: Path | None = None,
    block: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Train one stage of the curriculum; returns its NeMo checkpoint."""
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic
    from nemo_elastic.hosts.nemo.tiny.recipe import tiny_recipe

    batch, length = STAGE1 if stage == 1 else STAGE2
    steps = settings.stage1_steps if stage == 1 else settings.stage2_steps
    total = settings.stage1_steps + settings.stage2_steps
    recipe = tiny_recipe(
        data,
        out,
        steps=steps,
        seq_length=length,
        micro_batch_size=batch,
        global_batch_size=batch,
        lr=settings.elastic_lr,
        warmup_steps=max(1, total // 20),
        split="train" if stage == 1 else "train_long",
        label=f"stage {stage}",
        eval_every=settings.stage_eval_every,
        eval_sequences=32 if stage == 1 else 8,
    )
    apply_elastic(
        recipe,
        block or (settings.block if stage == 1 else settings.stage2_block()),
        teacher=str(parent),
        stage=stage,
        previous=str(previous) if previous else None,
        total_steps=total,
        out=str(out / "elastic"),
        verbose=stage == 1,
    )
    return launch(recipe, out)


def launch(recipe: Any, out: Path, *callbacks: Any) -> Path:
    """Run a recipe in this process, with more callbacks behind its own; returns its last checkpoint."""
    import fiddle
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    destroy_num_microbatches_calculator()  # phases of one process have batches of their own
    task = fiddle.build(recipe)
    task.keywords["trainer"].callbacks += callbacks
    task()
    return last_checkpoint(out)
