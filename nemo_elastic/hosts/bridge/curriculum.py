# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The curriculum on Megatron-Bridge: rank → stage 1 → stage 2 → slice, each a job.

DIR/rank/checkpoints      sorted weights, first members, the router's start
DIR/stage1/checkpoints    and router, found members, optimizer state
DIR/stage2/checkpoints
DIR/family, DIR/members/NAME   Hugging Face folders
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from megatron.bridge.training.mixed_precision import get_mixed_precision_config

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.data.indexed import check_prefix
from nemo_elastic.errors import STOPPED, bad
from nemo_elastic.hosts.common.planned import (
    NODES,
    SAVE_EVERY,
    SPLIT,
    VALIDATIONS,
    PlannedFamily,
    Precision,
    ranking_experts,
)
from nemo_elastic.plan import NODE, Layout, preset
from nemo_elastic.plan.curriculum import PAPER, Curriculum, Stage
from nemo_elastic.slicing.all_members import slice_family

from .apply import ElasticRun, apply_elastic

if TYPE_CHECKING:
    from nemo_elastic.hosts.common.experiment import Executors

__all__ = ["JOBS", "Blend", "BridgeFamily", "checkpoints", "job_of", "ranking_dir", "slice_job", "train_to_the_end"]

#: prefixes of Megatron's token files, with weights before them or not, or such lists by split
Blend = Sequence[str | float] | Mapping[str, Sequence[str | float]]
SPLITS = ("train", "validation", "test")

#: in their order
JOBS = ("rank", "stage1", "stage2", "slice")
#: global batches that a validation runs, for every member
VALIDATION_BATCHES = 1
DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
#: checkpoints of a run that are kept: a new one is whole before the one before it goes
KEPT = 2


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
    checkpoint.save = checkpoint.load = checkpoints(dir, job)
    return apply_elastic(
        config, stage.block(block), teacher=parent, stage=number, rank_only=job == "rank",
        ranked=checkpoints(dir, "rank") if job == "stage1" else None,
        previous=checkpoints(dir, "stage1") if number == 2 else None,
        done_steps=curriculum.stage1.max_steps if number == 2 else 0, total_steps=curriculum.steps,
        out=os.path.join(dir, job, "elastic"),
    )  # fmt: skip


def slice_job(dir: str) -> None:
    """Cut every member out of the end of stage 2, on one process, without a GPU."""
    slice_family(checkpoints(dir, "stage2"), dir, ranking_dir(dir))


def train_to_the_end(built: ElasticRun, stopped: int = STOPPED) -> None:
    """Train; SIGTERM, which Slurm sends before the time of a job is over, ends it with a checkpoint.

    Args:
        built: what is trained.
        stopped: exit code of one that was stopped before its end: with 0, what waits for success goes on.
    """
    built.config.train.exit_signal_handler = True
    try:
        built.pretrain()
    except SystemExit as end:  # Bridge leaves with exit code 0
        if not end.code and not built.ended:
            raise SystemExit(stopped) from None
        raise


def checkpoints(dir: str, job: str) -> str:
    """What a job leaves."""
    return os.path.join(dir, job, "checkpoints")


def ranking_dir(dir: str) -> str:
    """The ranking, as the family's record names it."""
    return os.path.join(dir, "rank", "elastic", "ranking")


@dataclass(frozen=True)
class BridgeFamily(PlannedFamily):
    """A family that is trained from one of Megatron-Bridge's own recipes: a function without arguments."""

    host = "bridge"

    @property
    def parent(self) -> Parent:
        """Shape of the parent, with its vocabulary."""
        return preset(self.shape)

    @cached_property
    def precision(self) -> Precision:
        """What Bridge's setup makes of the recipe's."""
        config = self._stock()
        low = config.mixed_precision and get_mixed_precision_config(config.mixed_precision)
        weights = DTYPES[(low or config.model).params_dtype]
        return Precision(weights, "fp32" if (low or config.ddp).grad_reduce_in_fp32 else weights)

    def job(
        self,
        job: str,
        parent: str,
        data: Blend,
        dir: str,
        gpus: int = NODE * NODES,
        gpu: str = "h100",
        curriculum: Curriculum = PAPER,
        tokenizer: str | None = None,
        node: int = NODE,
    ) -> ElasticRun:
        """A job of the curriculum, as every rank of it calls it.

        Args:
            job: rank, stage1 or stage2. The ranking takes one node: each GPU holds the parent, but for its experts,
                which they share.
            parent: checkpoint of the parent: the teacher.
            data: prefixes of Megatron's token files, with weights before them or not, or such lists by split.
            dir: folder for everything, an absolute path that all nodes see.
            gpus, gpu, node: all of the job, their kind (h100, h200), and those of a node; by them the layout is
                planned.
            curriculum: lengths, batches, steps and rates of both stages.
            tokenizer: of the parent, a folder or hub name; the vocabulary's size alone is known without.
        """
        number = 2 if job == "stage2" else 1
        layout = None if job == "rank" else self.layout(number, curriculum, gpus, gpu, node)
        config = self.stock_config(job, data, dir, gpus, curriculum.stage(number), layout, tokenizer)
        return job_of(config, self.config, job, parent=parent, dir=dir, curriculum=curriculum)

    def jobs(
        self,
        parent: str,
        data: Blend,
        dir: str,
        long_data: Blend | None = None,
        num_nodes: int = NODES,
        num_gpus_per_node: int = NODE,
        gpu: str = "h100",
        curriculum: Curriculum = PAPER,
        tokenizer: str | None = None,
    ) -> dict[str, ElasticRun]:
        """The three jobs that run a model, by name, in order; `slice_job` is the fourth.

        Args:
            long_data: data of stage 2, if other.
            num_nodes, num_gpus_per_node: machines of both stages; the ranking takes one node.
            parent, data, dir, gpu, curriculum, tokenizer: as in `job`.
        """
        own = {"rank": data, "stage1": data, "stage2": long_data or data}
        return {
            name: self.job(
                name, parent, own[name], dir, num_gpus_per_node * (1 if name == "rank" else num_nodes), gpu,
                curriculum, tokenizer, num_gpus_per_node,
            )
            for name in JOBS[:3]
        }  # fmt: skip

    def family_experiment(
        self,
        parent: str,
        data: Blend,
        dir: str,
        executors: Executors,
        long_data: Blend | None = None,
        num_nodes: int = NODES,
        num_gpus_per_node: int = NODE,
        gpu: str = "h100",
        curriculum: Curriculum = PAPER,
        tokenizer: str | None = None,
        repeat: int = 1,
        dryrun: str | None = None,
    ) -> None:
        """All four jobs as one experiment of NeMo-Run's.

        Args:
            executors: (nodes, GPUs per node) -> where a job runs.
            repeat, dryrun: see `hosts.common.experiment.run_jobs`.
            parent, data, dir, long_data, num_nodes, num_gpus_per_node, gpu, curriculum, tokenizer: as in `jobs`.

        Raises:
            ElasticError: no layout fits, or the block does not fit the parent; a job failed.
        """
        from nemo_elastic.hosts.common.experiment import run_jobs

        from .experiment import described

        machines = {"num_nodes": num_nodes, "num_gpus_per_node": num_gpus_per_node, "gpu": gpu}
        jobs = described(self, parent, data, dir, long_data, curriculum=curriculum, tokenizer=tokenizer, **machines)
        estimates = self.estimates(curriculum, num_nodes, num_gpus_per_node, gpu)
        run_jobs(self.name, jobs, executors, repeat=repeat, dryrun=dryrun, estimates=estimates)

    def stock_config(
        self, job: str, data: Blend, dir: str, gpus: int, stage: Stage, layout: Layout | None, tokenizer: str | None
    ) -> Any:
        """Bridge's container for a job, not yet elastic; without a layout GPUs share nothing but experts."""
        config = self._stock()
        model = config.model
        if layout is None:
            model.tensor_model_parallel_size, model.sequence_parallel = 1, False
            model.expert_model_parallel_size, model.expert_tensor_parallel_size = ranking_experts(self.parent, gpus), 1
            config.train.global_batch_size = gpus * stage.micro_batch_size
        else:
            _lay_out(model, layout)
            config.train.global_batch_size = stage.global_batch_size
        config.train.micro_batch_size = stage.micro_batch_size
        # Bridge's recipe has none, and takes that of a tokenizer that is no parent's
        model.vocab_size, model.should_pad_vocab = self.parent.vocab, False
        config.tokenizer.vocab_size = self.parent.vocab
        if tokenizer is not None:
            config.tokenizer.tokenizer_type, config.tokenizer.tokenizer_model = "HuggingFaceTokenizer", tokenizer
            config.tokenizer.vocab_size = None
        else:  # some of Bridge's recipes name one on a hub
            config.tokenizer.tokenizer_type, config.tokenizer.tokenizer_model = "NullTokenizer", None
        _data(config, data, stage, dir)
        checkpoint = config.checkpoint
        checkpoint.save_interval, checkpoint.most_recent_k = SAVE_EVERY, KEPT
        # a tensor that is missing in a hand-over is an error, where Bridge's recipe has a line in the log
        checkpoint.dist_ckpt_strictness = "assume_ok_unexpected"
        config.logger.tensorboard_dir = os.path.join(dir, job, "tensorboard")
        return config

    def _stock(self) -> Any:
        """Bridge's container, with gradients summed in fp32: those of a weight come from many micro-batches."""
        config = self.stock()
        low = config.mixed_precision and get_mixed_precision_config(config.mixed_precision)
        if low and not low.grad_reduce_in_fp32:  # it has the last word in Bridge's setup
            low.grad_reduce_in_fp32, config.mixed_precision = True, low
        config.ddp.grad_reduce_in_fp32 = True
        return config


def _lay_out(model: Any, layout: Layout) -> None:
    model.tensor_model_parallel_size, model.pipeline_model_parallel_size = layout.tensor, layout.pipeline
    model.sequence_parallel = layout.sequence_parallel
    if layout.expert is not None:
        model.expert_model_parallel_size, model.expert_tensor_parallel_size = layout.expert, 1
    if layout.recompute:
        model.recompute_granularity, model.recompute_method, model.recompute_num_layers = "full", "uniform", 1


def _data(config: Any, data: Blend, stage: Stage, dir: str) -> None:
    dataset = config.dataset
    if not data or isinstance(data, str):
        raise bad("data", data, "a list of prefixes of token files, such as [0.7, /data/a, 0.3, /data/b]")
    if isinstance(data, Mapping):
        if not {"train", "validation"} <= set(data) <= set(SPLITS):
            raise bad("data", sorted(data), "the splits train and validation, and test if there is one")
        each = {"test": data["validation"], **data}
        dataset.blend, dataset.split = None, None
        dataset.blend_per_split = [_blend(each[split]) for split in SPLITS]
    else:
        dataset.blend, dataset.split = _blend(data), SPLIT
    dataset.seq_length = stage.seq_length
    dataset.path_to_cache = os.path.join(dir, "index")
    # nothing reads it, and at 49152 tokens each micro-batch would have one of 2.4 GB
    dataset.create_attention_mask = False
    config.validation.eval_interval = max(1, stage.max_steps // VALIDATIONS)
    config.validation.eval_iters = VALIDATION_BATCHES


def _blend(data: Sequence[str | float]) -> tuple[list[str], list[float] | None]:
    """Prefixes and their weights; a command line has both as text."""
    numbers = [_number(x) for x in data]
    weights = [x for x in numbers if x is not None]
    prefixes = [str(x) for x, number in zip(data, numbers, strict=True) if number is None]
    if weights and len(weights) != len(prefixes):
        raise bad("data", list(data), "a weight before each prefix, or before none")
    for prefix in prefixes:
        check_prefix("data", prefix)
    return prefixes, weights or None


def _number(value: str | float) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
