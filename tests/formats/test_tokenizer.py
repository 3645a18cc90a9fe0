# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which folder has a tokenizer, and opening it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_elastic.data.tokenizer import save_tokenizer
from nemo_elastic.data.words import word_tokenizer
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.tokenizer import find_tokenizer, load_tokenizer


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"])
def test_any_kind_of_vocabulary_makes_a_folder_one_with_a_tokenizer(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert find_tokenizer(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja", "merges.txt"])
def test_what_goes_with_a_vocabulary_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    (tmp_path / "tokenizer.json").mkdir()
    assert find_tokenizer(tmp_path) is None


def test_no_folder_has_no_tokenizer(tmp_path: Path) -> None:
    assert find_tokenizer(None) is None and find_tokenizer(tmp_path / "gone") is None


def test_a_tokenizer_that_was_saved_reads_text(tmp_path: Path) -> None:
    save_tokenizer(word_tokenizer(["one", "two"]), tmp_path)
    assert load_tokenizer(tmp_path).encode("two one").ids == [3, 2]


def test_a_folder_without_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").touch()
    with pytest.raises(ElasticError, match=r"^.*/tokenizer\.json: no tokenizer here$"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff"])
def test_a_damaged_file_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ElasticError, match=r"^.*/tokenizer\.json: not a tokenizer \(") as told:
        load_tokenizer(tmp_path)
    assert "\n" not in str(told.value)
