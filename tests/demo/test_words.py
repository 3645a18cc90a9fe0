# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A data folder of texts whose words are its tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_elastic.data.build import EOS_ID, PAD_ID
from nemo_elastic.data.folder import SPLITS, DataFolder
from nemo_elastic.demo.words import build_words, word_tokenizer

SOME = [f"w{i}" for i in range(258)]
TEXTS = {"train": ["w0 w1 w2", "w3"], "train_long": ["w2 " * 40], "val": ["w257 w0"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return build_words(tmp_path_factory.mktemp("words") / "data", SOME, TEXTS)


def test_words_between_spaces_are_tokens_behind_the_special_ones() -> None:
    tokenizer = word_tokenizer(["one", "two"])
    assert tokenizer.encode("two  one\ntwo").ids == [3, 2, 3]
    assert tokenizer.encode("three").ids == [PAD_ID] and tokenizer.get_vocab_size() == 4


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_is_its_documents_each_with_its_end(folder: DataFolder, split: str) -> None:
    expected = [t for text in TEXTS[split] for t in (*(2 + SOME.index(w) for w in text.split()), EOS_ID)]
    assert folder.tokens(split).tolist() == expected
    assert folder.splits[split].documents == len(TEXTS[split])


def test_it_is_a_data_folder_whose_digest_is_of_its_texts(folder: DataFolder, tmp_path: Path) -> None:
    assert DataFolder.open(folder.path) == folder and folder.vocab_size == len(SOME) + 2
    assert build_words(tmp_path / "same", SOME, TEXTS).corpus == folder.corpus
    assert build_words(tmp_path / "other", SOME, TEXTS | {"val": ["w256 w0"]}).digest != folder.digest
