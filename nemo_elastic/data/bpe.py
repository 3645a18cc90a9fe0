# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A small byte-level BPE, trained on the data itself, kept as a tokenizer folder that transformers and NeMo read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nemo_elastic.io.values import integer

from .sources import BATCH, grouped

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Padding differs from the end of a document: Megatron's datasets give no loss to a label that equals the padding.
PAD, EOS = "<pad>", "<eos>"
PAD_ID, EOS_ID = 0, 1
#: The special tokens and the 256 bytes.
MIN_VOCAB = 258
MAX_VOCAB = 65_536


def check_vocab(vocab: int) -> None:
    """Refuse a vocabulary size that cannot be made or stored, by an ElasticError."""
    integer("vocab", vocab, MIN_VOCAB, f"use {MIN_VOCAB} to {MAX_VOCAB}", MAX_VOCAB)


def train_tokenizer(texts: Iterable[str], vocab: int) -> Tokenizer:
    """Train the vocabulary.

    Args:
        texts: Training texts; a few megabytes settle a small vocabulary.
        vocab: Wanted size; a short text yields fewer.

    Returns:
        A tokenizer of at most `vocab` entries, single digits always on their own.

    Raises:
        ElasticError: If the size is out of range.
    """
    check_vocab(vocab)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[PAD, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the folder that `AutoTokenizer.from_pretrained` of transformers (4.57 and 5) and NeMo load offline."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    # The begin of a text is the end of the one before it: harnesses that prefix a token then use what was trained.
    special = {"bos_token": EOS, "eos_token": EOS, "pad_token": PAD}
    config = {
        **special,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", special)):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Token ids of each text, as int32, without special tokens."""
    for batch in grouped(texts, len, BATCH):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield np.array(encoding.ids, dtype=np.int32)
