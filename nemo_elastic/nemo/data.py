# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens out of a NeMo data module, for ranking, search and held-out losses."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state

from nemo_elastic.errors import bad


def dataset_tokens(dataset: Any, sequences: int, offset: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack `sequences` items of a GPT dataset from `offset` on: tokens and labels, both [n, s] int64.

    Raises:
        ElasticError: the dataset is shorter than that.
    """
    if offset + sequences > len(dataset):
        raise bad("data", f"{len(dataset)} sequences", f"at least {offset + sequences} are needed")
    items = [dataset[i] for i in range(offset, offset + sequences)]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return tuple(torch.stack([torch.as_tensor(x[k]) for x in items]).long().to(device) for k in ("tokens", "labels"))  # pyright: ignore


def training_tokens(trainer: Any, sequences: int) -> torch.Tensor:
    """This data-parallel rank's share of the first training sequences, [n, s]."""
    dataset = trainer.datamodule._train_ds
    world, rank = parallel_state.get_data_parallel_world_size(), parallel_state.get_data_parallel_rank()
    each = max(1, sequences // world)
    return dataset_tokens(dataset, each, offset=rank * each)[0]
