# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge as the host of a family's training (`train.seam`)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from megatron.bridge.data.loaders import get_train_valid_test_num_samples
from megatron.bridge.data.utils import get_dataset_provider
from megatron.bridge.training.gpt_step import get_batch
from megatron.bridge.training.utils.pg_utils import get_pg_collection

from nemo_elastic.megatron.compat import with_names
from nemo_elastic.megatron.gpt_tokens import Looked, first_rows, last_batches
from nemo_elastic.megatron.megatron_host import MegatronHost
from nemo_elastic.ranking import Rows

#: Bridge's, of whole rows where ranks share sequences out too: what a rank takes of them is `megatron.context`'s
whole_batch = with_names(
    get_batch,
    get_batch_on_this_cp_rank=lambda batch, **_: batch,
    _partition_packed_batch_for_cp=lambda batch, _: batch,
)


class BridgeHost(MegatronHost):
    """A model that Megatron-Bridge trains.

    Attributes:
        run: Bridge's state of the run, and optimizer: its optimizer; both since `enter`.
    """

    run: Any
    optimizer: Any
    setting: str | None

    def enter(self, run: Any, optimizer: Any, setting: str | None = None) -> None:
        """Take what Bridge has built around the model, and how documents are read (`elastic.data.documents`)."""
        self.run, self.optimizer, self.setting = run, optimizer, setting

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
        return self.datasets(samples, 0, 0)[0]

    def datasets(self, *samples: int) -> Sequence[Any]:
        """Training, validation and test data of so many samples each, as Bridge builds them."""
        config = self.run.cfg.dataset
        provider = get_dataset_provider(config)
        context = {"tokenizer": self.run.tokenizer, "pg_collection": get_pg_collection(self.core)}
        asked = inspect.signature(provider).parameters
        return provider(list(samples), config, **{name: value for name, value in context.items() if name in asked})

    def sequences(self, count: int, size: int) -> Iterator[Rows]:
        return first_rows(self._data, getattr(self._data, "collate_fn", None), self.read, count, size)

    def last_batches(self, sequences: int) -> list[dict[str, Any]]:
        collate = getattr(self._data, "collate_fn", None)
        return last_batches(self._data, collate, self.read, sequences, self.micro_batch_size)

    def read(self, loader: Iterator[Any]) -> dict[str, Any]:
        """The next micro-batch: tokens on the first pipeline stage, labels and mask on the last, None elsewhere.

        Where its documents end every stage knows: those in the middle are given packed data too, and other data is
        read apart on two stages at most (`checks.check_data`).
        """
        looked = Looked(loader, self.core.vocab_size, self.setting)
        tokens, labels, mask, *_ = whole_batch(looked, self.run.cfg, pg_collection=get_pg_collection(self.core))
        weights = None if mask is None else mask.float()
        return {"tokens": tokens, "labels": labels, "loss_mask": weights, "documents": looked.documents}

    def weights_changed(self) -> None:
        self.optimizer.reload_model_params()  # its fp32 copies still hold the old ones

    @property
    def step(self) -> int:
        return self.run.train_state.step
