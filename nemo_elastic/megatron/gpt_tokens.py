# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens out of a GPT dataset of megatron-core's, for ranking and search; and a look at those that a loader gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from megatron.core import parallel_state

from nemo_elastic.errors import bad


class Looked(Iterator):
    """What a loader gives, once its tokens are seen to be in the vocabulary.

    On the CPU, where they still are, a look takes microseconds; on a GPU it would wait for all that was begun, an
    embedding that is on several ranks takes any token for zeros, and one that is not ends the process without a word.

    Args:
        loader: an iterator over micro-batches: a mapping with `tokens` and `labels`, or a tuple that begins with one.
        vocab: rows of the embedding.
    """

    def __init__(self, loader: Iterator[Any], vocab: int) -> None:
        self._loader, self._vocab = loader, vocab

    def __next__(self) -> Any:
        batch = next(self._loader)
        tensors = batch[0] if isinstance(batch, tuple) else batch
        if isinstance(tensors, Mapping):
            check_tokens(tensors, self._vocab)
        return batch


def check_tokens(batch: Mapping[str, Any], vocab: int) -> None:
    """Raise where a token is none, or a label above all of them (one below 0 is left out of the loss)."""
    for name, low in (("tokens", 0), ("labels", None)):
        values = batch.get(name)
        if not isinstance(values, torch.Tensor) or values.is_cuda or not values.numel():
            continue
        least, most = (int(x) for x in values.aminmax())
        if most >= vocab or (low is not None and least < low):
            raise bad("data", most if most >= vocab else least, f"tokens are 0 to {vocab - 1}, as the model has")


def dataset_tokens(
    dataset: Any, sequences: int, offset: int = 0, step: int = 1, vocab: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack `sequences` items of a GPT dataset, every `step`-th from `offset` on: tokens and labels, [n, s] int64.

    Raises:
        ElasticError: the dataset is shorter than that, or a token is not in the vocabulary.
    """
    wanted = range(offset, offset + sequences * step, step)
    if wanted and wanted[-1] >= len(dataset):
        raise bad("data", f"{len(dataset)} sequences", f"at least {wanted[-1] + 1} are needed")
    items = [dataset[i] for i in wanted]
    if any("tokens" not in item for item in items):
        raise bad("data", type(dataset).__name__, "text, to rank and to search on: items with `tokens` and `labels`")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stacked = {k: torch.stack([torch.as_tensor(x[k]) for x in items]).long() for k in ("tokens", "labels")}
    if vocab is not None:
        check_tokens(stacked, vocab)
    return stacked["tokens"].to(device), stacked["labels"].to(device)


def training_share(sequences: int) -> int:
    """How many of the first training sequences each data-parallel rank looks at."""
    return max(1, sequences // parallel_state.get_data_parallel_world_size())


def first_batches(dataset: Any, sequences: int, size: int, vocab: int | None = None) -> Iterator[torch.Tensor]:
    """This data-parallel rank's share of the first sequences, read as they are asked for: [up to size, s].

    Ranks take them in turn, so that the first of all ranks are the first of all.

    Raises:
        ElasticError: there are not so many, or a token is not in the vocabulary.
    """
    each = training_share(sequences)
    rank, ranks = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    if each * ranks > len(dataset):
        raise bad("data", f"{len(dataset)} sequences", f"at least {each * ranks} are needed")
    for at in range(0, each, size):
        yield dataset_tokens(dataset, min(size, each - at), offset=at * ranks + rank, step=ranks, vocab=vocab)[0]
