# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens out of a data module: which sequences each rank looks at, and in which order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.documents import Documents

pytestmark = pytest.mark.nemo


class Numbered:
    """A dataset whose i-th sequence is of i, whose labels are of i + 100, and of whose tokens the first count."""

    collate_fn: Any = None

    def __init__(self, length: int, counted: int = 3) -> None:
        self._length, self._counted = length, counted
        self.read: list[int] = []

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> dict[str, Any]:
        self.read.append(i)
        mask = torch.arange(3) < self._counted
        return {"tokens": torch.full((3,), i), "labels": torch.full((3,), i + 100), "loss_mask": mask.long()}


@pytest.fixture
def rank_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    from megatron.core import parallel_state

    def of(rank: int, ranks: int) -> None:
        monkeypatch.setattr(parallel_state, "get_data_parallel_rank", lambda: rank)
        monkeypatch.setattr(parallel_state, "get_data_parallel_world_size", lambda: ranks)
        monkeypatch.setattr(parallel_state, "get_data_parallel_group", lambda: None)
        monkeypatch.setattr(parallel_state, "get_expert_model_parallel_world_size", lambda: 1)

    return of


def firsts(batches: Any) -> list[list[int]]:
    return [rows.ids_bl[:, 0].tolist() for rows in batches]


def rows_of(dataset: Any, count: int, size: int, vocab: int = 200) -> Any:
    """As a host reads them."""
    from nemo_elastic.megatron.gpt_tokens import CheckedBatches, first_rows

    def read(loader: Any) -> Any:
        return {**next(CheckedBatches(loader, vocab)), "documents": None}

    return first_rows(dataset, None, read, count, size)


def test_tokens_and_labels_are_as_the_loader_makes_a_batch_of_them() -> None:
    from nemo_elastic.megatron.gpt_tokens import dataset_tokens

    tokens, labels = dataset_tokens(Numbered(9), 3)
    assert tokens.tolist() == [[i] * 3 for i in range(3)] and torch.equal(labels, tokens + 100)
    assert tokens.dtype == labels.dtype == torch.int64
    with pytest.raises(ElasticError, match=r"^data: '2 sequences' "):
        dataset_tokens(Numbered(2), 3)


def test_ranks_share_the_first_sequences_in_turn(rank_of: Any) -> None:
    seen = []
    for rank in range(2):
        rank_of(rank, 2)
        dataset = Numbered(12)
        rows = rows_of(dataset, 10, 2)
        first = next(rows)
        assert dataset.read == [rank, rank + 2], "as they are asked for"
        seen.append(firsts([first, *rows]))
    assert seen == [[[0, 2], [4, 6], [8]], [[1, 3], [5, 7], [9]]]


def test_too_little_data_is_reported_before_any_is_read(rank_of: Any) -> None:
    rank_of(1, 2)
    dataset = Numbered(9)
    with pytest.raises(ElasticError, match=r"^data: '9 sequences' "):
        list(rows_of(dataset, 10, 2))
    assert dataset.read == []
    with pytest.raises(ElasticError, match=r"^data: 'generator' "):
        list(rows_of((i for i in range(9)), 4, 2))


def test_rows_have_the_loaders_mask(rank_of: Any) -> None:
    rank_of(0, 1)
    masked, whole = rows_of(Numbered(4, counted=2), 4, 4), rows_of(Numbered(4), 4, 4)
    assert next(masked).counts_bl.tolist() == [[1.0, 1.0, 0.0]] * 4 and next(whole).counts_bl is None


def test_rows_are_as_long_as_those_of_ranks_that_share_experts(rank_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are shown what experts do for all of their tokens in one tensor."""
    from megatron.core import parallel_state

    def longest(t: torch.Tensor, *_: Any, **__: Any) -> None:
        t.fill_(5)

    rank_of(0, 2)
    monkeypatch.setattr(parallel_state, "get_expert_model_parallel_world_size", lambda: 2)
    monkeypatch.setattr(parallel_state, "get_data_parallel_group", lambda: SimpleNamespace(size=lambda: 2))
    monkeypatch.setattr(torch.distributed, "all_reduce", longest)
    (rows,) = rows_of(Numbered(4), 4, 2)
    assert rows.ids_bl.tolist() == [[0, 0, 0, 0, 0], [2, 2, 2, 0, 0]]
    assert rows.counts_bl.tolist() == [[1, 1, 1, 0, 0]] * 2


def test_every_rank_looks_at_as_many_and_at_one_at_least(rank_of: Any) -> None:
    from nemo_elastic.megatron.gpt_tokens import training_share

    for ranks, share in ((2, 5), (14, 1)):
        rank_of(0, ranks)
        assert training_share(11) == share


@pytest.mark.parametrize(
    ("name", "value", "sound"),
    [("tokens", -1, False), ("labels", 8, False), ("labels", -100, True), ("tokens", 7, True)],
)
def test_what_a_loader_gives_is_looked_at(name: str, value: int, sound: bool) -> None:
    from nemo_elastic.megatron.gpt_tokens import CheckedBatches

    batch = {"tokens": torch.zeros(2, 3, dtype=torch.long), "labels": torch.ones(2, 3, dtype=torch.long)}
    batch[name][1, 2] = value
    for given in (batch, (batch, 0, 0), {**batch, "loss_mask": None}):
        if sound:
            assert next(CheckedBatches(iter([given]), 8)) is given
            continue
        with pytest.raises(ElasticError, match=rf"^data: {value} "):
            next(CheckedBatches(iter([given]), 8))


def test_a_micro_batch_says_where_its_documents_end_and_the_block_whether_it_matters() -> None:
    from nemo_elastic.megatron.gpt_tokens import CheckedBatches, documents_of

    rows = {"tokens": torch.zeros(2, 6, dtype=torch.long), "labels": torch.zeros(2, 6, dtype=torch.long)}
    wanted = Documents(((2, 6), (6,)))
    bounds = torch.tensor([[0, 2, 6, -1], [0, 6, -1, -1]])
    packed = rows | {"cu_seqlens": bounds, "position_ids": torch.arange(6).expand(2, 6)}
    assert documents_of(packed) == documents_of(packed, "apart") == wanted
    assert documents_of(packed, "joined") is None
    padded = packed | {"cu_seqlens_q": torch.tensor([[0, 1, 5], [0, 6, 6]]), "cu_seqlens_q_padded": bounds}
    assert documents_of(padded) == wanted, "padding between documents is no document's"
    counted = rows | {"position_ids": torch.tensor([[0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])}
    assert documents_of(counted) is None and documents_of(counted, "apart") == wanted
    index = wanted.index(torch.device("cpu"))
    hidden = (index[:, :, None] != index[:, None]) | torch.ones(6, 6, dtype=torch.bool).triu(1)
    assert documents_of(rows | {"attention_mask": hidden[:, None]}, "apart") == wanted
    assert documents_of({**packed, "tokens": None}) == wanted, "a pipeline rank has labels alone"
    for one in (packed | {"cu_seqlens": torch.tensor([[0, 6]] * 2)}, {**packed, "tokens": None, "labels": None}):
        assert documents_of(one) is None
    with pytest.raises(ElasticError, match=r"^elastic\.data\.documents: 'apart' "):
        documents_of(rows, "apart")
    with pytest.raises(ElasticError, match=r"^documents: \(1, 6\) "):
        documents_of(packed | {"cu_seqlens": torch.tensor([0, 2, 6])})
    batches = CheckedBatches(iter([packed, rows]), 8)
    seen = [(next(batches), batches.documents)[1] for _ in range(2)]
    assert seen == [wanted, None]
