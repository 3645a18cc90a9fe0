# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo as the host of a family's training (`train.seam`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from nemo_elastic.megatron.choice import ElasticState
from nemo_elastic.megatron.gpt_tokens import first_batches
from nemo_elastic.megatron.megatron_host import MegatronHost


class NemoHost(MegatronHost):
    """A model of NeMo's in training.

    Args:
        module: the Lightning module, which knows its trainer.
        state, core, frozen: see `MegatronHost`.
    """

    def __init__(self, module: Any, state: ElasticState, core: Any, frozen: Any = None) -> None:
        super().__init__(state, core, frozen)
        self.module = module

    @property
    def micro_batch_size(self) -> int:
        return self.module.trainer.datamodule.data_sampler.micro_batch_size

    @property
    def seq_length(self) -> int:
        return self.module.trainer.datamodule.data_sampler.seq_len

    def sequences(self, count: int, size: int) -> Iterator[torch.Tensor]:
        return training_batches(self.module.trainer, count, size, self.core.vocab_size)

    def weights_changed(self) -> None:
        for optimizer in self.module.trainer.optimizers:  # its fp32 copies still hold the old ones
            optimizer.mcore_optimizer.reload_model_params()

    @property
    def step(self) -> int:
        return self.module.trainer.global_step


def training_batches(trainer: Any, sequences: int, size: int, vocab: int | None = None) -> Iterator[torch.Tensor]:
    """`first_batches` of a trainer's training data."""
    return first_batches(trainer.datamodule._train_ds, sequences, size, vocab)
