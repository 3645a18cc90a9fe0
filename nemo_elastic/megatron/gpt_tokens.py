# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens out of a GPT dataset of megatron-core's, for ranking and search; and a look at those that a loader gives.

A loader's micro-batch is the one place that says where documents end: megatron-core's `cu_seqlens`, in the words of
all its versions, positions that start anew, or a mask of attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from megatron.core import parallel_state

from nemo_elastic.config.sections import APART, JOINED
from nemo_elastic.errors import bad
from nemo_elastic.nn.documents import Documents

#: of a micro-batch: cumulative lengths of its documents, those with the padding between them first
BOUNDS = ("cu_seqlens_q_padded", "cu_seqlens_q", "cu_seqlens")


class Looked(Iterator):
    """What a loader gives, once its tokens are seen to be in the vocabulary.

    On the CPU, where they still are, a look takes microseconds; on a GPU it would wait for all that was begun, an
    embedding that is on several ranks takes any token for zeros, and one that is not ends the process without a word.

    Args:
        loader: an iterator over micro-batches: a mapping with `tokens` and `labels`, or a tuple that begins with one.
        vocab: rows of the embedding.
        setting: how documents are read (`elastic.data.documents`).

    Attributes:
        documents: of the last micro-batch, where they are kept apart; pipeline ranks that are given no tokens see
            them here all the same, as each reads the data for itself.
    """

    def __init__(self, loader: Iterator[Any], vocab: int, setting: str | None = None) -> None:
        self._loader, self._vocab, self._setting = loader, vocab, setting
        self.documents: Documents | None = None

    def __next__(self) -> Any:
        batch = next(self._loader)
        tensors = batch[0] if isinstance(batch, tuple) else batch
        if isinstance(tensors, Mapping):
            check_tokens(tensors, self._vocab)
            self.documents = documents_of(tensors, self._setting)
        return batch


def documents_of(batch: Mapping[str, Any], setting: str | None = None) -> Documents | None:
    """Where documents end in a micro-batch, where they are kept apart.

    Args:
        batch: tensors of the host, [b, s].
        setting: joined, apart, or None for what the host does: documents that come with cumulative lengths are apart.

    Returns:
        None where rows are read as one text, or hold one document each.

    Raises:
        ElasticError: the data does not say where documents begin, or says it of other rows.
    """
    rows = next((batch[name] for name in ("tokens", "labels") if batch.get(name) is not None), None)
    if setting == JOINED or rows is None:
        return None
    bounds = next((batch[name] for name in BOUNDS if batch.get(name) is not None), None)
    positions, mask = batch.get("position_ids"), batch.get("attention_mask")
    if bounds is not None:
        documents = Documents.of_bounds(bounds, rows.shape[1])
    elif setting != APART:
        return None
    elif positions is not None:
        documents = Documents.of_positions(positions)
    elif mask is not None and mask.dim() == 4:
        documents = Documents.of_mask(mask[:, 0])
    else:
        raise bad("elastic.data.documents", APART, "joined: the data does not say where documents begin")
    return documents.check(rows.shape) if documents.several else None


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
