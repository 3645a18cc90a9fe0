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
    """A dataset whose i-th sequence is of i, and whose labels are of i + 100."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.read: list[int] = []

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> dict[str, Any]:
        self.read.append(i)
        return {"tokens": torch.full((3,), i, dtype=torch.int32), "labels": [i + 100] * 3, "loss_mask": None}


@pytest.fixture
def rank_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    from megatron.core import parallel_state

    def of(rank: int, ranks: int) -> None:
        monkeypatch.setattr(parallel_state, "get_data_parallel_rank", lambda: rank)
        monkeypatch.setattr(parallel_state, "get_data_parallel_world_size", lambda: ranks)

    return of


def firsts(batches: Any) -> list[list[int]]:
    return [batch[:, 0].tolist() for batch in batches]


def test_tokens_and_labels_are_those_of_every_step_th_sequence() -> None:
    from nemo_elastic.megatron.gpt_tokens import dataset_tokens

    tokens, labels = dataset_tokens(Numbered(9), 3, offset=1, step=3)
    assert tokens.tolist() == [[i] * 3 for i in (1, 4, 7)] and torch.equal(labels, tokens + 100)
    assert tokens.dtype == labels.dtype == torch.int64


def test_the_last_sequence_may_be_the_last_of_the_data_and_no_later() -> None:
    from nemo_elastic.megatron.gpt_tokens import dataset_tokens

    assert len(dataset_tokens(Numbered(8), 3, offset=1, step=3)[0]) == 3
    with pytest.raises(ElasticError, match=r"^data: 'list' is not allowed; text, to rank and to search on"):
        dataset_tokens([{"input_ids": [1, 2]}], 1)  # as data of prompts and answers has them
    with pytest.raises(ElasticError, match=r"^data: '7 sequences' is not allowed; at least 8 are needed$"):
        dataset_tokens(Numbered(7), 3, offset=1, step=3)


def test_ranks_share_the_first_sequences_in_turn(rank_of: Any) -> None:
    from nemo_elastic.hosts.nemo.host import training_batches

    seen = []
    for rank in range(2):
        rank_of(rank, 2)
        trainer = SimpleNamespace(datamodule=SimpleNamespace(_train_ds=Numbered(12)))
        seen.append(firsts(training_batches(trainer, 10, 2)))
    assert seen == [[[0, 2], [4, 6], [8]], [[1, 3], [5, 7], [9]]]


def test_batches_are_read_as_they_are_asked_for(rank_of: Any) -> None:
    from nemo_elastic.hosts.nemo.host import training_batches

    rank_of(0, 1)
    dataset = Numbered(8)
    batches = training_batches(SimpleNamespace(datamodule=SimpleNamespace(_train_ds=dataset)), 8, 2)
    next(batches)
    assert dataset.read == [0, 1]


def test_too_little_data_is_reported_before_any_is_read(rank_of: Any) -> None:
    from nemo_elastic.hosts.nemo.host import training_batches

    rank_of(1, 2)
    dataset = Numbered(9)
    with pytest.raises(ElasticError, match=r"^data: '9 sequences' is not allowed; at least 10 are needed$"):
        list(training_batches(SimpleNamespace(datamodule=SimpleNamespace(_train_ds=dataset)), 10, 2))
    assert dataset.read == []


@pytest.mark.parametrize(("sequences", "ranks", "share"), [(10, 2, 5), (11, 2, 5), (3, 4, 1)])
def test_every_rank_looks_at_as_many_and_at_one_at_least(rank_of: Any, sequences: int, ranks: int, share: int) -> None:
    from nemo_elastic.megatron.gpt_tokens import training_share

    rank_of(0, ranks)
    assert training_share(sequences) == share


@pytest.mark.parametrize(
    ("name", "value", "sound"),
    [("tokens", 8, False), ("tokens", -1, False), ("labels", 8, False), ("labels", -100, True), ("tokens", 7, True)],
)
def test_what_a_loader_gives_is_looked_at(name: str, value: int, sound: bool) -> None:
    from nemo_elastic.megatron.gpt_tokens import Looked

    batch = {"tokens": torch.zeros(2, 3, dtype=torch.long), "labels": torch.ones(2, 3, dtype=torch.long)}
    batch[name][1, 2] = value
    for given in (batch, (batch, 0, 0), {**batch, "loss_mask": None}):
        if sound:
            assert next(Looked(iter([given]), 8)) is given
            continue
        with pytest.raises(
            ElasticError, match=rf"^data: {value} is not allowed; tokens are 0 to 7, as the model has$"
        ):
            next(Looked(iter([given]), 8))
    with pytest.raises(StopIteration):
        next(Looked(iter([]), 8))


def test_what_is_ranked_by_is_looked_at(rank_of: Any) -> None:
    from nemo_elastic.megatron.gpt_tokens import first_batches

    rank_of(0, 1)
    assert firsts(first_batches(Numbered(8), 4, 2, vocab=104)) == [[0, 1], [2, 3]]
    with pytest.raises(ElasticError, match=r"^data: 103 is not allowed; tokens are 0 to 102, as the model has$"):
        list(first_batches(Numbered(8), 4, 2, vocab=103))


def test_a_micro_batch_says_where_its_documents_end_and_the_block_whether_it_matters() -> None:
    from nemo_elastic.megatron.gpt_tokens import Looked, documents_of

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
    with pytest.raises(
        ElasticError, match=r"^elastic\.data\.documents: 'apart' is not allowed; joined: the data does"
    ):
        documents_of(rows, "apart")
    with pytest.raises(ElasticError, match=r"^documents: \(1, 6\) is not allowed; the rows and length of the tokens"):
        documents_of(packed | {"cu_seqlens": torch.tensor([0, 2, 6])})
    looked = Looked(iter([packed, rows]), 8)
    seen = [(next(looked), looked.documents)[1] for _ in range(2)]
    assert seen == [wanted, None]
