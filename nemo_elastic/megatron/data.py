# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens out of a GPT dataset of megatron-core's, for ranking and search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core import parallel_state

from nemo_elastic.errors import bad


def dataset_tokens(dataset: Any, sequences: int, offset: int = 0, step: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack `sequences` items of a GPT dataset, every `step`-th from `offset` on: tokens and labels, [n, s] int64.

    Raises:
        ElasticError: the dataset is shorter than that.
    """
    wanted = range(offset, offset + sequences * step, step)
    if wanted and wanted[-1] >= len(dataset):
        raise bad("data", f"{len(dataset)} sequences", f"at least {wanted[-1] + 1} are needed")
    items = [dataset[i] for i in wanted]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return tuple(torch.stack([torch.as_tensor(x[k]) for x in items]).long().to(device) for k in ("tokens", "labels"))  # pyright: ignore


def training_share(sequences: int) -> int:
    """How many of the first training sequences each data-parallel rank looks at."""
    return max(1, sequences // parallel_state.get_data_parallel_world_size())


def first_batches(dataset: Any, sequences: int, size: int) -> Iterator[torch.Tensor]:
    """This data-parallel rank's share of the first sequences, read as they are asked for: [up to size, s].

    Ranks take them in turn, so that the first of all ranks are the first of all.

    Raises:
        ElasticError: there are not so many.
    """
    each = training_share(sequences)
    rank, ranks = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    if each * ranks > len(dataset):
        raise bad("data", f"{len(dataset)} sequences", f"at least {each * ranks} are needed")
    for at in range(0, each, size):
        yield dataset_tokens(dataset, min(size, each - at), offset=at * ranks + rank, step=ranks)[0]
