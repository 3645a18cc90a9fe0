# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which folder has a tokenizer, and opening it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_elastic.data.bpe import save_tokenizer
from nemo_elastic.demo.words import word_tokenizer
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.tokenizer_files import find_tokenizer, load_tokenizer

DOUBLED = {"type": "Replace", "pattern": {"String": "ñ"}, "content": "ññ"}


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


def test_a_folder_without_the_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").touch()
    with pytest.raises(ElasticError, match=r"^.*/tokenizer\.json: no tokenizer here$"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff"])
def test_a_damaged_file_is_reported_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ElasticError, match=r"^.*/tokenizer\.json: not a tokenizer \(") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def bpe(**more) -> dict:
    """`tokenizer.json` of a whole BPE tokenizer, with other parts."""
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}  # fmt: skip
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
             "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model}  # fmt: skip
    return whole | more


def charsmap(text: str) -> dict:
    return {"type": "Precompiled", "precompiled_charsmap": text}


SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
SINGLE = [{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
#: what ends the process, or panics, at once or at the first text
PANICS = {
    "prefix": bpe(model=bpe()["model"] | {"continuing_subword_prefix": "xxxxxx"}),
    "charsmap cut short": bpe(normalizer=charsmap("AAAA")),
    "charsmap of 8 GiB": bpe(normalizer=charsmap("/////w==")),
    "charsmap without entries": bpe(normalizer=charsmap("BAAAAAEAAAA=")),
    "a token of a million letters": bpe(model={"type": "Unigram", "unk_id": 0, "vocab": [["a" * 10**6, 0.0]]}),
    "pieces of length 0": bpe(pre_tokenizer={"type": "FixedLength", "length": 0}),
    "an expression that goes back": bpe(pre_tokenizer=SPLIT),
    "a template's unknown token": bpe(
        post_processor={"type": "TemplateProcessing", "single": SINGLE, "pair": [], "special_tokens": {}}
    ),
    "decoded away": bpe(decoder={"type": "Strip", "content": "a", "start": 2**60, "stop": 2**60}),
}


@pytest.mark.parametrize("name", PANICS)
def test_what_ends_the_process_is_reported_in_one_line(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(PANICS[name]))
    with pytest.raises(ElasticError, match=r"^.*/tokenizer\.json: not a tokenizer \(.+\)$") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value) and capfd.readouterr() == ("", "")


def test_the_whole_one_of_these_is_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe()))
    assert load_tokenizer(tmp_path).encode("aab").ids == [0, 2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"vocab": {"far": 2**31}}}, f"its largest id is {2**31}"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "o"}, "content": "o" * 65}}, "65 times as long"),
        ({"normalizer": {"type": "Sequence", "normalizers": [DOUBLED] * 30}}, f"{2**30} times as long"),
    ],
)
def test_ids_and_texts_that_nothing_holds_are_refused(changes: dict, said: str, tmp_path: Path) -> None:
    save_tokenizer(word_tokenizer(["one", "two"]), tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] |= changes.pop("model", {}).get("vocab", {})
    path.write_text(json.dumps(content | changes))
    with pytest.raises(ElasticError, match=said):
        load_tokenizer(tmp_path)
