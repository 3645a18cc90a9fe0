# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of a job on Megatron-Bridge: its `pretrain` runs what the recipe builds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from megatron.bridge.training import initialize, pretrain
from megatron.bridge.training.callbacks import Callback
from megatron.bridge.training.utils import sig_utils

from nemo_elastic.hosts.bridge import step
from nemo_elastic.hosts.bridge.checks import PLACEHOLDER
from nemo_elastic.megatron import models
from tests.fake_gpu import gpu
from tests.fake_gpu.job import Watch, Zeros


class Watcher(Callback):
    def __init__(self, watch: Watch, family: Any, soft: bool) -> None:
        self.watch, self.family, self.soft, self.steps = watch, family, soft, 0

    def on_train_start(self, context: Any) -> None:
        self.watch.begin(self.family, self.soft)

    def on_train_step_end(self, context: Any) -> None:
        self.steps += 1
        self.watch.end(f"step {self.steps}")


def on_a_gpu(family: Any) -> Any:
    """A family whose recipe has what Bridge gives it beside TransformerEngine."""

    def stock() -> Any:
        config = family.stock()
        config.model.gradient_accumulation_fusion = True
        return config

    return replace(family, stock=stock)


def train(built: Any, watch: Watch, job: dict[str, Any]) -> None:
    """Run the steps of a stage.

    Args:
        built: the job's `ElasticRun`.
        watch: takes the figures.
        job: see `tests.fake_gpu.job`.
    """
    config = built.config
    models.load_model_weights = models.check_rows = gpu.always()  # nothing is loaded
    initialize.compile_helpers = gpu.always()  # needs a compiler, once a machine
    sig_utils.all_gather_item = gpu.always([False])  # whether a rank had a signal: a number of each rank, every step
    length = config.dataset.seq_length

    def zeros(*_: Any) -> Any:
        return lambda samples, *_: [Zeros(length, count) if count else None for count in samples]

    pretrain.get_dataset_provider = step.get_dataset_provider = zeros
    model = config.model
    for needs_te in ("apply_rope_fusion", "moe_permute_fusion"):
        setattr(model, needs_te, False)
    config.tokenizer.tokenizer_type, config.tokenizer.vocab_size = PLACEHOLDER, model.vocab_size
    config.logger.tensorboard_dir = None  # the last rank writes tensors' numbers there
    config.checkpoint.save = config.checkpoint.load = config.checkpoint.pretrained_checkpoint = None
    built.forward_step.before, built.callbacks[0].previous = gpu.always(), None
    config.train.train_iters, config.validation.eval_iters, config.dataset.num_workers = job["steps"], 0, 0
    ranks = model.tensor_model_parallel_size * model.context_parallel_size  # a micro-batch for each pipeline stage
    config.train.global_batch_size = config.train.micro_batch_size * job["gpus"] // ranks
    built.callbacks.insert(0, Watcher(watch, built.forward_step.family, job["soft"]))  # ours asks for the members
    with gpu.tensors(job["real"]), watch.meter:
        built.pretrain()
