# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo as the host of a family's training (`train.seam`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nemo_elastic.megatron.choice import ElasticState
from nemo_elastic.megatron.cpu import cuda_as_cpu
from nemo_elastic.megatron.gpt_tokens import first_rows, last_batches
from nemo_elastic.megatron.megatron_host import MegatronHost
from nemo_elastic.ranking import Rows


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
    def wrapped(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        trainer = getattr(self.module, "_trainer", None)
        chunks = getattr(getattr(trainer, "strategy", None), "megatron_parallel", None)
        return chunks[0] if chunks else None

    @property
    def micro_batch_size(self) -> int:
        return self.module.trainer.datamodule.data_sampler.micro_batch_size

    @property
    def seq_length(self) -> int:
        return self.module.trainer.datamodule.data_sampler.seq_len

    @property
    def _loader(self) -> Any:
        trainer = self.module.trainer
        return trainer.train_dataloader or trainer.datamodule.train_dataloader()  # a ranking alone fits nothing

    def sequences(self, count: int, size: int) -> Iterator[Rows]:
        loader = self._loader
        return first_rows(loader.dataset, loader.collate_fn, self._read, count, size)

    def last_batches(self, sequences: int) -> list[dict[str, Any]]:
        loader = self._loader
        return last_batches(loader.dataset, loader.collate_fn, self._read, sequences, self.micro_batch_size)

    def _read(self, loader: Iterator[Any]) -> dict[str, Any]:
        with cuda_as_cpu():
            return self.module.data_step(loader)

    def weights_changed(self) -> None:
        for optimizer in self.module.trainer.optimizers:  # its fp32 copies still hold the old ones
            optimizer.mcore_optimizer.reload_model_params()

    @property
    def step(self) -> int:
        return self.module.trainer.global_step
