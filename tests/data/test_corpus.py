# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.data.build import MIN_CHARS, read_texts
from nemo_elastic.data.sources import Row, cut_in_blocks
from nemo_elastic.errors import ElasticError

PARAGRAPH = "A line of text, with numbers such as 1234 and words.\nAnother line of it.\n\n"


def fill(path: Path, name: str = "", chars: int = MIN_CHARS) -> Path:
    lines = (f"{name} {number} {PARAGRAPH}" for number in range(chars // len(PARAGRAPH) + 1))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_the_standard_library_is_a_corpus() -> None:
    train, validation, corpus = read_texts()
    names = {row.name for row in (*train, *validation)}
    assert corpus.kind == "python-stdlib"
    assert corpus.documents == len(names) > 300 and {"ast.py", "json/decoder.py"} <= names
    assert not any(set(Path(n).parts) & {"test", "tests", "site-packages", "encodings", "lib2to3"} for n in names)
    assert not any("_sysconfigdata" in n for n in names)
    held_out = sum(len(row.text.encode()) for row in validation)
    assert 0.03 < held_out / corpus.bytes < 0.10
    assert corpus == read_texts()[2]


def test_a_file_keeps_its_split_when_others_come(tmp_path: Path) -> None:
    for number in range(40):
        fill(tmp_path / f"{number}.txt", str(number), 2000)
    before = [{row.name for row in half} for half in read_texts([tmp_path])[:2]]
    for number in range(40, 60):
        fill(tmp_path / f"{number}.txt", str(number), 2000)
    after = [{row.name for row in half} for half in read_texts([tmp_path])[:2]]
    assert len(after[0] | after[1]) == 60 and all(before) and len(before[0] | before[1]) == 40
    assert all(old <= new for old, new in zip(before, after, strict=True))


def test_files_and_records_are_documents(tmp_path: Path) -> None:
    (tmp_path / "sub" / ".hidden").mkdir(parents=True)
    fill(tmp_path / "sub" / "a.txt", "a", 10_000)
    fill(tmp_path / "sub" / ".hidden" / "b.txt", "b")
    (tmp_path / "sub" / "c.bin").write_bytes(b"\xff\xfe")
    rows = [{"text": f"record {n} " + PARAGRAPH * 20, "id": n} for n in range(30)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    train, validation, corpus = read_texts([tmp_path / "sub", tmp_path / "d.jsonl"])
    assert corpus.kind == "files"
    texts = {row.name: row.text for row in (*train, *validation)}
    assert texts.keys() == {"sub/a.txt", *(f"d.jsonl#{n}" for n in range(1, 31))}
    assert texts["d.jsonl#1"] == rows[0]["text"]


def test_copies_are_dropped_and_equal_names_distinguished(tmp_path: Path) -> None:
    for folder, name in (("one", "x"), ("two", "x"), ("three", "y")):
        (tmp_path / folder).mkdir()
        fill(tmp_path / folder / "a.txt", name)
    files = [tmp_path / folder / "a.txt" for folder in ("one", "two", "three")]
    train, validation, _ = read_texts(files)
    names = {row.name.partition("#")[0] for row in (*train, *validation)}
    assert names == {"a.txt", "a.txt~2"}


def test_one_long_file_gives_both_splits(tmp_path: Path) -> None:
    file = fill(tmp_path / "book.txt", chars=200_000)
    train, validation, _ = read_texts([file])
    assert train and validation
    blocks = sorted((*train, *validation), key=lambda row: int(row.name.partition("#")[2]))
    assert "".join(row.text for row in blocks) == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("chars", [MIN_CHARS, 30_000])
def test_the_shortest_text_gives_both_splits(tmp_path: Path, chars: int) -> None:
    train, validation, _ = read_texts([fill(tmp_path / "short.txt", chars=chars)])
    assert train and validation


@given(st.text(alphabet="ab \n", max_size=60_000) | st.integers(0, 60_000).map("é".__mul__))
def test_blocks_are_the_text(text: str) -> None:
    blocks = list(cut_in_blocks(Row("x", "x", text=text)))
    assert "".join(b.text for b in blocks) == text
    assert len({b.name for b in blocks}) == len(blocks)
    assert all(0 < len(b.text) <= 12_288 for b in blocks)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff" * 20_000, "a.txt: not UTF-8 at byte 0"),
        ("a.txt", b"short", "5 characters"),
        ("a.txt", b" \n" * 20_000, "0 characters"),
        ("a.csv", b"x" * 20_000, "use .txt"),
        ("a.jsonl", b"[1]", "a.jsonl line 1: no object with a field 'text'"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ElasticError, match=message) as error:
        read_texts([tmp_path / name])
    assert "\n" not in str(error.value)


def test_missing_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(ElasticError, match=r"gone\.txt: no such file or folder"):
        read_texts([tmp_path / "gone.txt"])
    with pytest.raises(ElasticError, match="this folder has no"):
        read_texts([tmp_path])
