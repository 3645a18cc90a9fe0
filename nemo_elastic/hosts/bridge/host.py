# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge as the host of a family's training (`train.seam`)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from megatron.bridge.data.loaders import get_train_valid_test_num_samples
from megatron.bridge.data.utils import get_dataset_provider

from nemo_elastic.megatron.gpt_tokens import first_batches
from nemo_elastic.megatron.megatron_host import MegatronHost


class BridgeHost(MegatronHost):
    """A model that Megatron-Bridge trains.

    Attributes:
        run: Bridge's state of the run, and optimizer: its optimizer; both since `enter`.
    """

    run: Any
    optimizer: Any

    def enter(self, run: Any, optimizer: Any) -> None:
        """Take what Bridge has built around the model."""
        self.run, self.optimizer = run, optimizer

    @property
    def micro_batch_size(self) -> int:
        return self.run.cfg.train.micro_batch_size

    @property
    def seq_length(self) -> int:
        return self.run.cfg.dataset.seq_length

    @cached_property
    def _data(self) -> Any:
        """The training data, built as Bridge builds it, which hands out iterators alone: to rank is to look ahead."""
        samples, _, _ = get_train_valid_test_num_samples(self.run.cfg)
        return get_dataset_provider(self.run.cfg.dataset)([samples, 0, 0], self.run.cfg.dataset)[0]

    def sequences(self, count: int, size: int) -> Iterator[torch.Tensor]:
        return first_batches(self._data, count, size, self.core.vocab_size)

    def weights_changed(self) -> None:
        self.optimizer.reload_model_params()  # its fp32 copies still hold the old ones

    @property
    def step(self) -> int:
        return self.run.train_state.step
