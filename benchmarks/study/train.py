# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Training runs of the studies, all through NeMo: the parent, nested families, single members, models from scratch.

Every run has the same optimizer, schedule, data order and tokens per step; only what is named differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.study.rates import BEST

#: peak learning rates of the parents, and of what is cut from them
PARENT_LR, LR = 3e-3, BEST["ours"]["all"]
#: of the data order; a study's seed is added
ORDER = 1234


@dataclass(frozen=True)
class Batch:
    """Sequences per step and their length."""

    sequences: int = 4
    length: int = 256

    @property
    def tokens(self) -> int:
        return self.sequences * self.length


PARENT_BATCH = Batch(8, 256)
BATCH = Batch()


def recipe(
    data: Path, out: Path, steps: int, batch: Batch, seed: int, config: Any = None, split: str = "train",
    total: int | None = None, lr: float = LR, model: str = "study",
) -> Any:  # fmt: skip
    """The stock recipe of every run; `config` is a `run.Config` of another model than the parent `model`."""
    import nemo_run as run

    from benchmarks.study.model import MODELS
    from nemo_elastic.hosts.nemo.tiny.recipe import tiny_recipe

    return tiny_recipe(
        data,
        out,
        steps=steps,
        seq_length=batch.length,
        micro_batch_size=batch.sequences,
        global_batch_size=batch.sequences,
        lr=lr,
        warmup_steps=max(1, (total or steps) // 20),
        min_ratio=0.1,
        split=split,
        label=out.name,
        eval_sequences=8,
        seed=ORDER + seed,
        config=config or run.Config(MODELS[model]),
    )


def train_parent(
    data: Path,
    out: Path,
    steps: int,
    batch: Batch = PARENT_BATCH,
    split: str = "train",
    model: str = "study",
    lr: float = PARENT_LR,
    start: Path | None = None,
) -> Path:
    """The parent: cross-entropy, a stock recipe; from random weights, or from those of the checkpoint `start`."""
    import nemo_run as run
    from nemo import lightning as nl

    made = recipe(data, out, steps, batch, seed=0, split=split, lr=lr, model=model)
    if start is not None:
        made.resume.restore_config = run.Config(nl.RestoreConfig, path=str(start))
    return launch(made, out)


def train_dense(
    data: Path, out: Path, steps: int, sizes: Mapping[str, Any], batch: Batch, seed: int, lr: float
) -> Path:
    """A model of its own, from random weights by cross-entropy; `sizes` are fields of its config."""
    import nemo_run as run

    from benchmarks.study.model import StudyNemotronH

    config = run.Config(StudyNemotronH, **{k: v for k, v in sizes.items() if k != "vocab_size"})
    return launch(recipe(data, out, steps, batch, seed, config, lr=lr), out)


def train_elastic(
    data: Path,
    out: Path,
    parent: Path,
    block: Mapping[str, Any],
    steps: int,
    batch: Batch = BATCH,
    seed: int = 0,
    stage: int = 1,
    previous: Path | None = None,
    done: int = 0,
    total: int | None = None,
    split: str = "train",
    lr: float = LR,
    model: str = "study",
) -> Path:
    """A nested family of the parent, distilled from it."""
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic

    order = seed + 1000 * (stage - 1)  # a second stage goes on with other pieces
    elastic = recipe(data, out, steps, batch, order, split=split, total=total, lr=lr, model=model)
    apply_elastic(
        elastic,
        {**block, "seed": seed},
        teacher=str(parent),
        stage=stage,
        previous=str(previous) if previous else None,
        done_steps=done,
        total_steps=total or steps,
        out=str(out / "elastic"),
        verbose=False,
    )
    return launch(elastic, out)


def launch(task: Any, out: Path) -> Path:
    """Run a recipe in this process; returns its last checkpoint."""
    import fiddle
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    destroy_num_microbatches_calculator()
    fiddle.build(task)()
    return last_checkpoint(out)
