# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A chat folder as NeMo reads it: its rows by NeMo's own chat dataset, and packed sequences by its packed one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from nemo_elastic.data.chat_folder import METADATA, ChatFolder
from nemo_elastic.data.prepare import prepare
from tests.data.large import sums, write_tokenizer

pytestmark = pytest.mark.nemo


@pytest.fixture(scope="module", params=[True, False], ids=["marks", "no marks"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatFolder:
    place = tmp_path_factory.mktemp("chats")
    plain = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    tokenizer = write_tokenizer(place / "t", *(() if request.param else (plain,)))
    (place / "chats.jsonl").write_text(sums(40))
    made = prepare(place / "out", [place / "chats.jsonl"], tokenizer, length=128, workers=1)
    assert isinstance(made, ChatFolder) and made.marked == request.param
    return made


def dataset(folder: ChatFolder, name: str, **more: Any) -> Any:
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
    from nemo.collections.llm.gpt.data.core import create_sft_dataset

    tokenizer = AutoTokenizer(str(folder.tokenizer_dir))
    return create_sft_dataset(folder.path / name, tokenizer=tokenizer, seq_length=128, is_test=True, **more)


def test_its_rows_are_tokens_and_masks_as_ours(folder: ChatFolder) -> None:
    chats = dataset(folder, "training.jsonl", chat=True, use_hf_tokenizer_chat_template=True)
    theirs = sorted(
        (item["input_ids"].tolist(), item["loss_mask"].tolist()) for item in map(chats.__getitem__, range(len(chats)))
    )
    ours = []
    for row in np.load(folder.path / "training.npy", allow_pickle=True):
        for start, end in pairwise([*row["seq_start_id"], len(row["input_ids"])]):
            ours.append((row["input_ids"][start:end], row["loss_mask"][start:end]))
    assert len(theirs) == folder.conversations["train"]
    # of each token whether the next one counts: what the loss sees, the first token aside
    assert [(ids, [int(m) for m in mask[1:]] + [0]) for ids, mask in theirs] == sorted(ours)


def test_packed_sequences_come_with_their_boundaries(folder: ChatFolder) -> None:
    from nemo.collections.llm.gpt.data.packed_sequence import PackedSequenceSpecs

    specs = PackedSequenceSpecs(
        packed_sequence_size=128,
        packed_train_data_path=str(folder.path / "training.npy"),
        packed_val_data_path=str(folder.path / "validation.npy"),
        packed_metadata_path=str(folder.path / METADATA),
    )
    packed = dataset(
        folder, specs.packed_train_data_path.name, pack_metadata_file_path=str(specs.packed_metadata_path)
    )
    assert len(packed) == folder.sequences["train"]
    rows = [packed[i] for i in range(len(packed))]
    counted = 0
    for row in rows:
        batch = packed.collate_fn([row])
        ends = batch["cu_seqlens"][0].tolist()
        lengths = [end - start - 1 for start, end in pairwise(row["seq_boundaries"])]
        assert [b - a for a, b in pairwise(ends)][: len(lengths)] == lengths
        assert batch["tokens"].shape[1] <= 128
        counted += int(batch["loss_mask"].sum())
    val = np.load(specs.packed_val_data_path, allow_pickle=True)
    # tokens that count, but for a first token of each conversation, which nothing predicts
    first = 0 if folder.marked else sum(folder.conversations.values())
    assert counted + sum(sum(row["loss_mask"]) for row in val) == folder.tally["counted"] - first
