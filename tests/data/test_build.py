# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.data import build
from nemo_elastic.data.build import (
    EOS_ID,
    encode,
    read_texts,
    train_tokenizer,
)
from nemo_elastic.data.folder import SPLITS, DataFolder
from nemo_elastic.data.reasoning import TASKS, Problem
from nemo_elastic.formats.tokenizer import FamilyTokenizer

from .conftest import SMALL


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes(small: DataFolder, small_sources: list[Path], tmp_path: Path) -> None:
    """In another process, because Python and the tokenizers library both randomise their hash tables."""
    code = (
        "import sys; from nemo_elastic.data.build import build_data; "
        f"build_data(sys.argv[1], sys.argv[2:], **{SMALL!r})"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "again"), *map(str, small_sources)]
    subprocess.run(command, check=True, env=environment)
    assert contents(tmp_path / "again") == contents(small.path)


def test_splits_share_no_file_and_no_problem(small: DataFolder, small_sources: list[Path]) -> None:
    tokenizer = small.tokenizer()
    text = {name: tokenizer.decode(small.tokens(name).tolist(), skip_special_tokens=False) for name in SPLITS}
    held_out = set(text["val"].split("<eos>"))
    questions = {d.split("\nsteps:")[0] for d in held_out if d.startswith("question: ")}
    assert len(questions) == small.splits["val"].problems > 0
    for name in ("train", "train_long"):
        documents = text[name].split("<eos>")
        assert not questions & {d.split("\nsteps:")[0] for d in documents}
        train, validation, _ = read_texts(small_sources)
        assert {row.text for row in train} <= set(documents)
        assert not {row.text for row in validation} & set(documents)
    for problem in small.problems():
        assert f"question: {problem.question}\nsteps:" not in text["train"] + text["train_long"]


def test_every_split_has_its_share_of_problems(small: DataFolder) -> None:
    for name, info in small.splits.items():
        assert info.problem_tokens / info.tokens == pytest.approx(0.25, abs=0.03 if name == "val" else 0.005)
    assert small.splits["train"].problems > 2 * small.splits["train_long"].problems


# ------------------------------------------------------------------ from texts and problems to documents


@pytest.fixture(scope="module")
def tokenizer(small: DataFolder) -> FamilyTokenizer:
    return FamilyTokenizer.read(small.tokenizer_dir)


@pytest.fixture(scope="module")
def pools(tokenizer: FamilyTokenizer) -> dict[str, build.Pool]:
    return {length: build.fill_pool(tokenizer, length, 1, 20_000, 60) for length in ("short", "long")}


def test_chosen_problems_are_balanced(pools: dict[str, build.Pool]) -> None:
    chosen = build.choose_problems(pools, 60)
    assert len(chosen) == 60 == len({(p.task, p.question) for p in chosen})
    assert Counter(p.length for p in chosen) == {"short": 40, "long": 20}
    assert {p.task for p in chosen[:15]} == set(TASKS)
    easiest = [p for p in chosen if p.level == 1]
    assert {p.task for p in easiest} == set(TASKS) and len(easiest) >= 10
    assert build.choose_problems(pools, 12) == chosen[:12]
    assert build.choose_problems({"short": build.Pool(), "long": build.Pool()}, 12) == []


def test_the_long_split_repeats_some_short_problems(pools: dict[str, build.Pool]) -> None:
    problems = build.long_problems(pools, 10_000)
    short = sum(len(ids) for ids in problems if len(ids) <= 129)
    assert 10_000 <= sum(map(len, problems)) < 10_501
    assert 0.19 < short / 10_000 < 0.22


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=5), st.integers(0, 30))
def test_held_out_files_are_cut_and_no_problem_follows_half_a_file(sizes: list[int], count: int) -> None:
    files = [np.append(np.arange(size) + 10_000 * (n + 1), EOS_ID) for n, size in enumerate(sizes)]
    problems = [np.array([2, n + 100, EOS_ID]) for n in range(count)]
    split = build.val_split(files, problems, 0)
    assert all(0 < len(d) <= build.VAL_PIECE for d in split.documents)
    stream = np.concatenate(split.documents)
    assert sorted(stream) == sorted(np.concatenate([*files, *problems]))
    assert all(stream[at - 1] == EOS_ID for at in np.flatnonzero(stream == 2) if at)
    assert (split.problems, split.problem_tokens) == (count, 3 * count)


def test_an_eos_inside_of_a_text_is_no_end_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "VAL_PIECE", 2)
    file = np.array([5, EOS_ID, 7, EOS_ID, 9, EOS_ID])  # each of its pieces ends in one
    split = build.val_split([file], [np.array([6, EOS_ID])], seed=0)
    assert split.problems == 1 and sorted(map(tuple, split.documents)) == [
        (5, EOS_ID), (6, EOS_ID), (7, EOS_ID), (9, EOS_ID)
    ]  # fmt: skip


# ------------------------------------------------------------------ its tokenizer


TOKENIZER = train_tokenizer(["def f(x):\n    return x + 12\n" * 20, "12 apples and 345 pears"], 300)


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    (ids,) = FamilyTokenizer(TOKENIZER).encode_texts([text])
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@given(st.text(st.characters(codec="ascii") | st.sampled_from("0123456789")))
def test_digits_stand_alone(text: str) -> None:
    for token in TOKENIZER.encode(text).tokens:
        assert len(token) == 1 or not any(c.isdigit() for c in token)


def test_many_texts_keep_their_order_and_get_an_end() -> None:
    texts = [f"text {n}" for n in range(150)]
    encoded = list(encode(FamilyTokenizer(TOKENIZER), texts))
    assert [TOKENIZER.decode(ids[:-1].tolist()) for ids in encoded] == texts
    assert all(ids.dtype == np.int32 and ids[-1] == EOS_ID for ids in encoded)


@given(st.sampled_from(["12+3", "red blue", "A1", "none", "take 3"]), st.text("0123456789 +-=%ABXYZ", min_size=1))
def test_any_step_leaves_the_prompt_alone(step: str, question: str) -> None:
    problem = Problem("x", 1, question, (step,), "1")
    prompt = TOKENIZER.encode(problem.prompt).ids
    assert TOKENIZER.encode(problem.text).ids[: len(prompt)] == prompt


# ------------------------------------------------------------------ its text


PARAGRAPH = "A line of text, with numbers such as 1234 and words.\nAnother line of it.\n\n"


def fill(path: Path, name: str = "", chars: int = 16_384) -> Path:
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
    assert texts.keys() == {"a.txt", *(f"d.jsonl#{n}" for n in range(1, 31))}
    assert texts["d.jsonl#1"] == rows[0]["text"]


def test_copies_are_dropped_and_equal_names_distinguished(tmp_path: Path) -> None:
    for folder, name in (("one", "x"), ("two", "x"), ("three", "y")):
        (tmp_path / folder).mkdir()
        fill(tmp_path / folder / "a.txt", name)
    files = [tmp_path / folder / "a.txt" for folder in ("one", "two", "three")]
    train, validation, _ = read_texts(files)
    assert {row.name for row in (*train, *validation)} == {"a.txt", "a.txt~2"}
