# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A chat folder as a host reads it: its rows by the host's own chat dataset, packed sequences by the packed one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from nemo_elastic.data.folder import METADATA, ChatFolder
from nemo_elastic.data.prepare import prepare
from tests.data.large import sums, write_tokenizer
from tests.hosts.here import ON_NEMO

pytestmark = pytest.mark.nemo
LENGTH = 128


@pytest.fixture(scope="module", params=[True, False] if ON_NEMO else [True], ids=lambda marks: f"marks: {marks}")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatFolder:
    place = tmp_path_factory.mktemp("chats")
    plain = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    tokenizer = write_tokenizer(place / "t", *(() if request.param else (plain,)))
    (place / "chats.jsonl").write_text(sums(40))
    packed = "npy" if ON_NEMO else "parquet"
    made = prepare(place / "out", [place / "chats.jsonl"], tokenizer, length=LENGTH, packed=packed)
    assert isinstance(made, ChatFolder) and made.marked == request.param
    return made


def datasets(folder: ChatFolder) -> tuple[Any, Any, Any]:
    """The host's, of the rows to train on, and of the packed sequences of both halves."""
    if ON_NEMO:
        from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
        from nemo.collections.llm.gpt.data.core import create_sft_dataset

        common = {"tokenizer": AutoTokenizer(str(folder.tokenizer_dir)), "seq_length": LENGTH, "is_test": True}
        metadata = {"pack_metadata_file_path": str(folder.path / METADATA)}
        return (
            create_sft_dataset(
                folder.path / "training.jsonl", chat=True, use_hf_tokenizer_chat_template=True, **common
            ),
            *(create_sft_dataset(folder.path / f"{half}.npy", **metadata, **common)
              for half in ("training", "validation")),
        )  # fmt: skip
    from megatron.bridge.data.datasets.gpt_sft import GPTSFTChatDataset
    from megatron.bridge.data.packing.parquet import GPTSFTPackedParquetDataset
    from megatron.bridge.training.tokenizers.config import TokenizerConfig
    from megatron.bridge.training.tokenizers.tokenizer import build_tokenizer

    config = TokenizerConfig(tokenizer_type="HuggingFaceTokenizer", tokenizer_model=str(folder.tokenizer_dir))
    common = {"tokenizer": build_tokenizer(config), "max_seq_length": LENGTH, "is_test": True}
    # as `GPTSFTDatasetConfig` builds it where nothing else is said
    fields = {"prompt_template": "{input} {output}", "label_key": "output", "truncation_field": "input"}
    return (
        GPTSFTChatDataset(file_path=str(folder.rows("train")), use_hf_tokenizer_chat_template=True, **common),
        *(GPTSFTPackedParquetDataset(file_path=str(folder.path / f"{half}.idx.parquet"), **fields, **common)
          for half in ("training", "validation")),
    )  # fmt: skip


def test_its_rows_and_its_packs_are_the_same_conversations(folder: ChatFolder) -> None:
    chats, packed, held_out = datasets(folder)
    assert len(packed) == folder.sequences["train"]
    ours, counted = [], 0
    for row in (packed[i] for i in range(len(packed))):
        if not ON_NEMO:
            packed.validate_row(0, row["input_ids"], row["loss_mask"], row["seq_boundaries"][:-1])
        for start, end in pairwise(row["seq_boundaries"]):
            ours.append((row["input_ids"][start:end], row["loss_mask"][start:end]))
        batch = packed.collate_fn([row])
        ends = batch["cu_seqlens" if ON_NEMO else "cu_seqlens_q"][0].tolist()
        assert ends[: len(row["seq_boundaries"])] == [at - i for i, at in enumerate(row["seq_boundaries"])]
        assert batch["tokens"].shape[1] <= LENGTH
        counted += int(batch["loss_mask"].sum())
    theirs = []
    for item in (chats[i] for i in range(len(chats))):
        ids, mask = item["input_ids"].tolist(), [int(m) for m in item["loss_mask"]]
        if not ON_NEMO and ids[-1] != chats.tokenizer.eod:  # which Bridge does not add, and NeMo does
            ids, mask = [*ids, chats.tokenizer.eod], [*mask, 1]
        # of each token whether the next one counts: what the loss sees, the first token aside
        theirs.append((ids, [*mask[1:], 0]))
    assert sorted(theirs) == sorted(ours) and len(theirs) == folder.conversations["train"]
    # tokens that count, but for a first token of each conversation, which nothing predicts
    first = 0 if folder.marked else sum(folder.conversations.values())
    rest = sum(sum(held_out[i]["loss_mask"]) for i in range(len(held_out)))
    assert counted + rest == folder.tally["counted"] - first
