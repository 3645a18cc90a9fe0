# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Texts that ask for what they said: every answer was said, as far back as its question says."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from nemo_elastic.data.bpe import EOS_ID, MIN_VOCAB, PAD_ID
from nemo_elastic.data.folder import SPLITS, DataFolder
from nemo_elastic.demo.demo_settings import SHORT_TEXT, WHOLE_TEXT
from nemo_elastic.demo.facts import ASKS, NAMES, STATES, WORDS, build_recall, build_words, documents, word_tokenizer
from nemo_elastic.demo.recall_family import LEVELS
from nemo_elastic.errors import ElasticError


@pytest.mark.parametrize("length", [SHORT_TEXT, WHOLE_TEXT])
def test_every_answer_was_said_where_its_question_says(length: int) -> None:
    for text in islice(documents("val", length), 20):
        assert len(text.words) == length - 1
        said: dict[str, tuple[str, int]] = {}
        places = []
        for at in range(0, length - 3, 3):
            mark, name, value = text.words[at : at + 3]
            if mark == STATES:
                assert name not in said, "nothing is said twice"
                said[name] = value, at + 2
            else:
                assert mark == ASKS and value == said[name][0]
                places.append((at + 2, at + 2 - said[name][1]))
        assert text.questions == [p for p in places if p[0] < length - 1]


def test_near_and_far_are_asked_for() -> None:
    asked = Counter(
        next(level for level in LEVELS if distance <= level)
        for text in islice(documents("val", WHOLE_TEXT), 50) for _, distance in text.questions
    )  # fmt: skip
    assert all(asked[level] > 150 for level in LEVELS), asked


def test_splits_differ_and_stay(tmp_path: Path) -> None:
    counts = {"train": (4, 64), "train_long": (3, 512), "val": (2, 512)}
    folder = build_recall(tmp_path / "data", counts)
    again = build_recall(tmp_path / "again", counts)
    assert folder.digest == again.digest and DataFolder.open(tmp_path / "data").vocab_size == len(WORDS) + 2
    rows = folder.tokens("val").reshape(-1, 512)
    words = [folder.tokenizer().id_to_token(int(i)) for i in rows[0]]
    assert words == [*next(documents("val", 512)).words, "<eos>"]
    assert rows.tolist() != folder.tokens("train_long").reshape(-1, 512)[:2].tolist()
    assert set(words[:-1]) <= set(WORDS[: 2 + NAMES])
    with pytest.raises(ElasticError, match="already exists"):
        build_recall(tmp_path / "data", counts)


# ------------------------------------------------------------------ a data folder of words

SOME = [f"w{i}" for i in range(MIN_VOCAB)]
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


def test_it_is_a_data_folder_that_says_what_is_in_it(folder: DataFolder) -> None:
    assert DataFolder.open(folder.path) == folder
    assert folder.vocab_size == len(SOME) + 2 and folder.problems() == []
    assert (folder.corpus.documents, folder.corpus.bytes) == (4, sum(len(folder.tokens(s)) for s in SPLITS))


def test_the_same_texts_have_the_same_digest_and_others_have_not(folder: DataFolder, tmp_path: Path) -> None:
    assert build_words(tmp_path / "same", SOME, TEXTS).corpus == folder.corpus
    other = build_words(tmp_path / "other", SOME, TEXTS | {"val": ["w256 w0"]})
    assert other.corpus.sha256 != folder.corpus.sha256 and other.digest != folder.digest


def test_a_folder_that_is_there_stays_as_it_is(folder: DataFolder) -> None:
    with pytest.raises(ElasticError, match="already exists"):
        build_words(folder.path, SOME, TEXTS)


def test_texts_that_lack_a_split_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        build_words(tmp_path / "data", SOME, {"train": ["w0"]})
    assert list(tmp_path.iterdir()) == []
