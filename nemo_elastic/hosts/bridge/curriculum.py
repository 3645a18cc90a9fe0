# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The curriculum on Megatron-Bridge: rank → stage 1 → stage 2 → slice, each started by itself.

DIR/rank/checkpoints      sorted weights, first members, the router's start
DIR/stage1/checkpoints    and router, found members, optimizer state
DIR/stage2/checkpoints
DIR/family, DIR/members/NAME   Hugging Face folders
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import bad
from nemo_elastic.plan import NODE, Layout, RunShape, best, preset
from nemo_elastic.plan.curriculum import PAPER, Curriculum, Stage
from nemo_elastic.slicing.all_members import slice_family

from .apply import ElasticRun, apply_elastic

__all__ = ["JOBS", "BridgeFamily", "job_of", "slice_job"]

#: in their order
JOBS = ("rank", "stage1", "stage2", "slice")
#: steps between checkpoints, validations of a stage, and global batches of one
SAVE_EVERY, VALIDATIONS, VALIDATION_BATCHES = 100, 10, 1
#: shares of the data for training, validation and test
SPLIT = "998,1,1"


def job_of(
    config: Any, block: ElasticConfig, job: str, *, parent: str, dir: str, curriculum: Curriculum
) -> ElasticRun:
    """Make a stock container one of the curriculum's jobs.

    Args:
        config: with the data, the batch and the layout of the job; its steps, rates and folders are set here.
        block: the elastic block.
        job: rank, stage1 or stage2.
        parent: checkpoint of the parent, the teacher of both stages.
        dir: folder of the curriculum, an absolute path.
        curriculum: both stages.

    Raises:
        ElasticError: another job, or see `apply_elastic`.
    """
    if job not in JOBS[:3]:
        raise bad("job", job, f"one of {', '.join(JOBS)}")
    if not os.path.isabs(dir):
        raise bad("dir", dir, "an absolute path, the same on all nodes")
    number = 2 if job == "stage2" else 1
    stage = curriculum.stage(number)
    config.train.train_iters = stage.max_steps
    config.optimizer.lr, config.optimizer.min_lr = curriculum.lr, curriculum.lr * curriculum.min_ratio
    config.scheduler.lr_warmup_iters, config.scheduler.lr_decay_iters = curriculum.warmup_steps, curriculum.steps
    checkpoint = config.checkpoint
    checkpoint.save = checkpoint.load = _checkpoints(dir, job)
    return apply_elastic(
        config, stage.block(block), teacher=parent, stage=number, rank_only=job == "rank",
        ranked=_checkpoints(dir, "rank") if job == "stage1" else None,
        previous=_checkpoints(dir, "stage1") if number == 2 else None,
        done_steps=curriculum.stage1.max_steps if number == 2 else 0, total_steps=curriculum.steps,
        out=os.path.join(dir, job, "elastic"),
    )  # fmt: skip


def slice_job(dir: str) -> None:
    """Cut every member out of the end of stage 2, on one process, without a GPU."""
    slice_family(_checkpoints(dir, "stage2"), dir, os.path.join(dir, "rank", "elastic", "ranking"))


def _checkpoints(dir: str, job: str) -> str:
    return os.path.join(dir, job, "checkpoints")


@dataclass(frozen=True)
class BridgeFamily:
    """A family that is trained from one of Megatron-Bridge's own recipes.

    Attributes:
        stock: Bridge's recipe of the parent.
        shape: the parent's name in `nemo_elastic.plan`.
        block: YAML file with the elastic block.
    """

    stock: Callable[[], Any]
    shape: str
    block: Path

    def layout(self, number: int, curriculum: Curriculum, gpus: int, gpu: str, node: int = NODE) -> Layout:
        """The layout of a stage that `nemo_elastic.plan.best` takes.

        Raises:
            ElasticError: none fits, or the batch does not divide.
        """
        stage = curriculum.stage(number)
        sizes = stage.seq_length, stage.global_batch_size, stage.micro_batch_size
        return best(preset(self.shape), ElasticConfig.load(self.block), RunShape(*sizes, gpus, gpu, number, node=node))

    def job(
        self,
        job: str,
        parent: str,
        data: Sequence[str | float],
        dir: str,
        gpus: int = 128,
        gpu: str = "h100",
        curriculum: Curriculum = PAPER,
        tokenizer: str | None = None,
    ) -> ElasticRun:
        """A job of the curriculum, as every rank of it calls it.

        Args:
            job: rank, stage1 or stage2. The ranking takes one node: each GPU holds the parent whole.
            parent: checkpoint of the parent: the teacher.
            data: prefixes of Megatron's token files, with weights before them or not.
            dir: folder for everything, an absolute path that all nodes see.
            gpus, gpu: all of the job, and their kind (h100, h200); by them the layout is planned.
            curriculum: lengths, batches, steps and rates of both stages.
            tokenizer: of the parent, a folder or hub name; the vocabulary alone in Bridge's recipe.
        """
        number = 2 if job == "stage2" else 1
        stage = curriculum.stage(number)
        config = self.stock()
        if job == "rank":
            model = config.model
            model.tensor_model_parallel_size, model.sequence_parallel = 1, False
            config.train.global_batch_size, config.train.micro_batch_size = gpus * stage.micro_batch_size, 1
        else:
            _lay_out(config.model, self.layout(number, curriculum, gpus, gpu))
            config.train.global_batch_size = stage.global_batch_size
        config.train.micro_batch_size = stage.micro_batch_size
        _data(config, data, stage, dir, tokenizer)
        config.checkpoint.save_interval = SAVE_EVERY
        return job_of(config, ElasticConfig.load(self.block), job, parent=parent, dir=dir, curriculum=curriculum)


def _lay_out(model: Any, layout: Layout) -> None:
    model.tensor_model_parallel_size, model.pipeline_model_parallel_size = layout.tensor, layout.pipeline
    model.sequence_parallel = layout.sequence_parallel
    if layout.recompute:
        model.recompute_granularity, model.recompute_method, model.recompute_num_layers = "full", "uniform", 1


def _data(config: Any, data: Sequence[str | float], stage: Stage, dir: str, tokenizer: str | None) -> None:
    if not data or isinstance(data, str):
        raise bad("data", data, "a list of prefixes of token files, such as [0.7, /data/a, 0.3, /data/b]")
    weights = [float(x) for x in data if not isinstance(x, str)]
    prefixes = [x for x in data if isinstance(x, str)]
    if weights and len(weights) != len(prefixes):
        raise bad("data", list(data), "a weight before each prefix, or before none")
    config.dataset.blend, config.dataset.split = (prefixes, weights or None), SPLIT
    config.dataset.seq_length = stage.seq_length
    config.dataset.path_to_cache = os.path.join(dir, "index")
    config.validation.eval_interval = max(1, stage.max_steps // VALIDATIONS)
    config.validation.eval_iters = VALIDATION_BATCHES
    if tokenizer is not None:
        config.tokenizer.tokenizer_type, config.tokenizer.tokenizer_model = "HuggingFaceTokenizer", tokenizer
        config.tokenizer.vocab_size = None
