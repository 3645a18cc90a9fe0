# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family's recipe whose jobs are small: the same code builds them, from a narrow parent and a short curriculum.

As in `rehearsal.nemo.family`, what they differ in is found by comparing them, and must be declared in `declared`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.pretrain import pretrain

from nemo_elastic.core.family import Parent
from nemo_elastic.formats.megatron.shape import stock_sizes
from nemo_elastic.hosts.bridge.apply import use_our_layers
from nemo_elastic.hosts.bridge.curriculum import BridgeFamily, checkpoints
from nemo_elastic.hosts.bridge.platform import bridge_on_this_machine
from nemo_elastic.plan import Layout
from nemo_elastic.plan.curriculum import Curriculum, Stage
from nemo_elastic.plan.machine import NODE
from nemo_elastic.rehearsal.places import data_dir, text_of
from nemo_elastic.rehearsal.short import PARENT_BATCH, PARENT_LR, PARENT_STEPS, Machines, Short, Small


@dataclass(frozen=True)
class SmallBridgeFamily(BridgeFamily):
    """A recipe's family whose jobs are small.

    Attributes:
        small: what is rehearsed of it.
        short: how much is trained.
    """

    small: Small
    short: Short

    @classmethod
    def of(cls, family: BridgeFamily, short: Short, machines: Machines) -> SmallBridgeFamily:
        """The rehearsal of a family on these machines.

        Raises:
            ElasticError: as the recipe itself: no layout fits.
        """
        small = Small.of(family, short, machines)
        return cls(family.name, family.stock, family.shape, small.config, small, short)

    @property
    def parent(self) -> Parent:
        """The narrow parent."""
        return self.small.parent

    def layout(self, number: int, curriculum: Curriculum, gpus: int, gpu: str, node: int = NODE) -> Layout:
        """What was planned for all GPUs, in small."""
        return self.small.layouts[number - 1]

    def stock_config(self, job: str, *args: Any, **kwargs: Any) -> Any:
        config = super().stock_config(job, *args, **kwargs)
        set_sizes(config.model, self.parent)
        if job != "rank":
            steps = self.small.curriculum.stage(2 if job == "stage2" else 1).max_steps
            config.validation.eval_interval = max(1, steps // self.short.validations)
        config.checkpoint.save_interval = max(1, self.short.steps // 3)
        # a rank has its share of two cores, and these sequences are short
        config.dataset.num_workers, config.dataset.persistent_workers = 0, False
        if not self.short.cuda:
            config.dist.distributed_backend = "gloo"  # it says that no kernels have to take these widths
        return config


def set_sizes(model: Any, parent: Parent) -> None:
    """Give a provider a parent's widths; its pattern, which is under Bridge's own name, stays."""
    for name, value in stock_sizes(parent, parent.full, experts=True).items():
        if name not in ("hybrid_override_pattern", "num_layers") and getattr(model, name) != value:
            setattr(model, name, value)


def train_parent(family: SmallBridgeFamily, dir: str) -> None:
    """Train the narrow parent for a moment, by Bridge's own recipe of it, on every rank."""
    ranks = family.short.ranks
    stage = Stage(family.short.seq_length, PARENT_BATCH, PARENT_STEPS, micro_batch_size=max(1, PARENT_BATCH // ranks))
    config = family.stock_config("parent", text_of(dir), dir, ranks, stage, None, f"{data_dir(dir)}/tokenizer")
    use_our_layers(config.model)
    config.model.seq_length = stage.seq_length
    config.train.train_iters, config.train.global_batch_size = stage.max_steps, stage.global_batch_size
    config.optimizer.lr, config.optimizer.min_lr = PARENT_LR, 0.1 * PARENT_LR
    config.scheduler.lr_warmup_iters, config.scheduler.lr_decay_iters = PARENT_STEPS // 10, PARENT_STEPS
    config.validation.eval_iters = 0
    config.comm_overlap = None
    config.ddp.overlap_grad_reduce = config.ddp.overlap_param_gather = False
    config.checkpoint.save = config.checkpoint.load = checkpoints(dir, "parent")
    config.checkpoint.save_interval = PARENT_STEPS
    with bridge_on_this_machine(config):
        pretrain(config, forward_step)
