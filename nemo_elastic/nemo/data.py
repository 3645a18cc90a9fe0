# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens out of a NeMo data module, for ranking, search and held-out losses."""

from __future__ import annotations

from collections.abc import Iterator
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


def training_share(sequences: int) -> int:
    """How many of the first training sequences each data-parallel rank looks at."""
    return max(1, sequences // parallel_state.get_data_parallel_world_size())


def training_batches(trainer: Any, sequences: int, size: int) -> Iterator[torch.Tensor]:
    """This data-parallel rank's share of the first training sequences, read as they are asked for: [up to size, s].

    Raises:
        ElasticError: there are not so many.
    """
    dataset, each = trainer.datamodule._train_ds, training_share(sequences)
    first = parallel_state.get_data_parallel_rank() * each
    if first + each > len(dataset):
        raise bad("data", f"{len(dataset)} sequences", f"at least {first + each} are needed")
    for at in range(0, each, size):
        yield dataset_tokens(dataset, min(size, each - at), offset=first + at)[0]


def training_tokens(trainer: Any, sequences: int) -> torch.Tensor:
    """This data-parallel rank's share of the first training sequences, [n, s]."""
    return next(training_batches(trainer, sequences, sequences))
