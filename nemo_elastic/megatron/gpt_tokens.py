# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Rows out of a data module's training data, for ranking and search; and a look at those that a loader gives.

A loader's micro-batch is the one place that says where documents end: megatron-core's `cu_seqlens`, in the words of
all its versions, positions that start again at 0, or a mask of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from megatron.core import parallel_state
from torch.utils.data import default_collate

from nemo_elastic.config.sections import APART, JOINED
from nemo_elastic.errors import bad
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.rows import Rows

#: of a micro-batch: cumulative lengths of its documents, those with the padding between them first
BOUNDS = ("cu_seqlens_q_padded", "cu_seqlens_q", "cu_seqlens")


class CheckedBatches(Iterator):
    """A loader's micro-batches, unchanged, once their tokens are seen to be in the vocabulary.

    On the CPU, where they still are, the check takes microseconds; on a GPU it would wait for all that was begun, an
    embedding that is on several ranks takes any token for zeros, and one that is not ends the process without a word.

    Args:
        loader: an iterator over micro-batches: a mapping with `tokens` and `labels`, or a tuple that begins with one.

    Attributes:
        documents: where documents end in the last micro-batch, see `documents_of`; pipeline ranks that are given no
            tokens see them here all the same, as each reads the data for itself.
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
    """Raise for a token id outside the vocabulary, or a label above it (a label below 0 is left out of the loss)."""
    for name, low in (("tokens", 0), ("labels", None)):
        values = batch.get(name)
        if not isinstance(values, torch.Tensor) or values.is_cuda or not values.numel():
            continue
        least, most = (int(x) for x in values.aminmax())
        if most >= vocab or (low is not None and least < low):
            raise bad("data", most if most >= vocab else least, f"tokens are 0 to {vocab - 1}, as the model has")


def dataset_tokens(dataset: Any, sequences: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first items of a dataset, as its loader makes a batch of them: tokens and labels, [n, s] int64."""
    _check_length(dataset, sequences)
    batch = _collated(dataset, range(sequences), getattr(dataset, "collate_fn", None))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return batch["tokens"].long().to(device), batch["labels"].long().to(device)


def _collated(dataset: Any, wanted: Iterable[int], collate: Callable[[list[Any]], Any] | None) -> Any:
    return (collate or default_collate)([dataset[i] for i in wanted])


def training_share(sequences: int) -> int:
    """How many of the first training sequences each data-parallel rank looks at."""
    return max(1, sequences // parallel_state.get_data_parallel_world_size())


def first_rows(
    dataset: Any,
    collate: Callable[[list[Any]], Any] | None,
    read: Callable[[Iterator[Any]], Mapping[str, Any]],
    sequences: int,
    size: int,
) -> Iterator[Rows]:
    """This data-parallel rank's share of the first training sequences, as its loader would give them.

    Ranks take them in turn, so that the first of all ranks are the first of all. They are read as they are asked for.

    Args:
        dataset: the loader's: sequences, or whatever it makes them of, by number.
        collate: the loader's; torch's own by default.
        read: the host's step, from an iterator over micro-batches: `tokens`, `loss_mask` and `documents`.
        sequences: how many all ranks look at.
        size: how many make a micro-batch. Their rows are fewer where the data packs them.
    """
    each = training_share(sequences)
    _check_length(dataset, each * parallel_state.get_data_parallel_world_size())
    for wanted in _dealt(each, size):
        batch = read(iter([_collated(dataset, wanted, collate)]))
        yield _as_long(Rows.masked(batch["tokens"], batch["loss_mask"], batch["documents"]))


def _dealt(each: int, size: int) -> Iterator[range]:
    """Numbers of the sequences of this data-parallel rank's micro-batches: ranks take them in turn, `each` in all."""
    rank, ranks = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    numbers = range(rank, each * ranks, ranks)
    return (numbers[at : at + size] for at in range(0, each, size))


def _check_length(dataset: Any, least: int) -> None:
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise bad(
            "data",
            type(dataset).__name__,
            "a dataset with numbered sequences, to find shapes on; a stream has no numbers",
        )
    if least > len(dataset):
        raise bad("data", f"{len(dataset)} sequences", f"at least {least} are needed")


def _as_long(rows: Rows) -> Rows:
    """Rows as long as those of all ranks that share experts: these are shown their tokens together."""
    group = parallel_state.get_data_parallel_group()
    if parallel_state.get_expert_model_parallel_world_size() == 1 or group.size() == 1:
        return rows
    longest = torch.tensor(rows.ids_bl.shape[1], device=rows.ids_bl.device)
    torch.distributed.all_reduce(longest, torch.distributed.ReduceOp.MAX, group=group)
    return rows.padded(int(longest))
