# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A chat folder as Megatron-Bridge reads it: its rows by Bridge's own chat dataset, packed sequences from Parquet."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from nemo_elastic.data.chat_folder import ChatFolder
from nemo_elastic.data.prepare import prepare
from tests.data.large import sums, write_tokenizer

pytest.importorskip("megatron.core.models.hybrid", reason="Megatron-Bridge has an environment of its own")
from tests.support.bridge import import_bridge

import_bridge()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ChatFolder:
    place = tmp_path_factory.mktemp("chats")
    (place / "chats.jsonl").write_text(sums(40))
    tokenizer = write_tokenizer(place / "t")
    made = prepare(place / "out", [place / "chats.jsonl"], tokenizer, length=128, packed="parquet", workers=1)
    assert isinstance(made, ChatFolder)
    return made


@pytest.fixture(scope="module")
def tokenizer(folder: ChatFolder) -> Any:
    from megatron.bridge.training.tokenizers.config import TokenizerConfig
    from megatron.bridge.training.tokenizers.tokenizer import build_tokenizer

    config = TokenizerConfig(tokenizer_type="HuggingFaceTokenizer", tokenizer_model=str(folder.tokenizer_dir))
    return build_tokenizer(config)


def test_its_rows_and_its_packs_are_the_same_conversations(folder: ChatFolder, tokenizer: Any) -> None:
    from megatron.bridge.data.datasets.gpt_sft import GPTSFTChatDataset
    from megatron.bridge.data.packing.config import PackedSequenceSpecs
    from megatron.bridge.data.packing.parquet import GPTSFTPackedParquetDataset

    specs = PackedSequenceSpecs(
        packed_sequence_size=128, packed_train_data_path=str(folder.path / "training.idx.parquet")
    )
    # as `GPTSFTDatasetConfig` builds it where nothing else is said
    fields = {"prompt_template": "{input} {output}", "label_key": "output", "truncation_field": "input"}
    packed = GPTSFTPackedParquetDataset(
        file_path=str(specs.packed_train_data_path), tokenizer=tokenizer, max_seq_length=128, is_test=True, **fields
    )
    assert len(packed) == folder.sequences["train"]
    ours = []
    for row in (packed[i] for i in range(len(packed))):
        packed.validate_row(0, row["input_ids"], row["loss_mask"], row["seq_boundaries"][:-1])
        for start, end in pairwise(row["seq_boundaries"]):
            ours.append((row["input_ids"][start:end], row["loss_mask"][start:end]))
        batch = packed.collate_fn([row])
        ends = batch["cu_seqlens_q"][0].tolist()
        assert ends[: len(row["seq_boundaries"])] == [at - i for i, at in enumerate(row["seq_boundaries"])]
    chats = GPTSFTChatDataset(
        file_path=str(folder.rows("train")), tokenizer=tokenizer, max_seq_length=128, is_test=True,
        use_hf_tokenizer_chat_template=True,
    )  # fmt: skip
    theirs = []
    for item in (chats[i] for i in range(len(chats))):
        ids, mask = item["input_ids"].tolist(), [int(m) for m in item["loss_mask"]]
        if ids[-1] != tokenizer.eod:  # which Bridge does not add, and NeMo does
            ids, mask = [*ids, tokenizer.eod], [*mask, 1]
        theirs.append((ids, [*mask[1:], 0]))
    assert sorted(theirs) == sorted(ours) and len(theirs) == folder.conversations["train"]
