# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of a job on NeMo: Lightning trains what the recipe builds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import fiddle
import lightning.pytorch as pl
import nemo_run as run
import torch
from nemo.lightning.pytorch.plugins import MegatronDataSampler

from nemo_elastic.hosts.nemo import model as nemo_model
from nemo_elastic.hosts.nemo.callbacks import ElasticCallback, MetricsWriter
from nemo_elastic.megatron import models
from tests.fake_gpu import gpu
from tests.fake_gpu.job import Watch, Zeros


class Data(pl.LightningDataModule):
    """A micro-batch a step for each pipeline stage."""

    def __init__(self, data: Any, batches: int) -> None:
        super().__init__()
        self.seq_length, self.micro_batch_size = data.seq_length, data.micro_batch_size
        self.tokenizer = SimpleNamespace(vocab_size=131072)
        self.data_sampler = MegatronDataSampler(
            seq_len=self.seq_length, micro_batch_size=self.micro_batch_size,
            global_batch_size=self.micro_batch_size * batches,
        )  # fmt: skip

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Zeros(self.seq_length), batch_size=self.micro_batch_size)

    def val_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Zeros(self.seq_length), batch_size=self.micro_batch_size)


class Callback(pl.Callback):
    def __init__(self, watch: Watch, soft: bool) -> None:
        self.watch, self.soft = watch, soft

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.watch.begin(module.family, self.soft)

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.watch.end("validation")

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.watch.end(f"step {trainer.global_step}")


def train(task: Any, watch: Watch, job: dict[str, Any]) -> None:
    """Run the steps of a stage.

    Args:
        task: the job's `nemo_run.Partial`.
        watch: takes the figures.
        job: see `tests.fake_gpu.job`.
    """
    models.load_model_weights = nemo_model.vocabulary_rows = gpu.always()  # nothing is loaded
    strategy, trainer = task.trainer.strategy, task.trainer
    replicas = job["gpus"] // strategy.tensor_model_parallel_size // strategy.context_parallel_size
    task.model.config.apply_rope_fusion = False  # needs TransformerEngine
    task.model.tokenizer = run.Config(SimpleNamespace, vocab_size=131072)
    trainer.max_steps, trainer.limit_val_batches = job["steps"], int(job["validated"])
    trainer.val_check_interval, trainer.num_sanity_val_steps = 1000, 0
    trainer.logger = trainer.enable_checkpointing = trainer.enable_progress_bar = False
    own = [callback for callback in trainer.callbacks if callback.__fn_or_cls__ in (ElasticCallback, MetricsWriter)]
    trainer.callbacks = [Callback(watch, job["soft"]), *own]
    model, trainer, optim = (fiddle.build(part) for part in (task.model, trainer, task.optim))
    with gpu.tensors(job["real"]):
        optim.connect(model)
        with watch.meter:
            trainer.fit(model, Data(task.data, replicas))
