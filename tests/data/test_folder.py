# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_elastic.data.build import EOS_ID
from nemo_elastic.data.folder import MANIFEST, PROBLEMS, SPLITS, DataFolder
from nemo_elastic.errors import ElasticError


@pytest.fixture
def copy(small: DataFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.path, tmp_path / "copy"))


def set_in(folder: Path, key: str, value: Any) -> None:
    data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    *parents, last = key.split(".")
    target = data
    for name in parents:
        target = target[name]
    if value is None:
        del target[last]
    else:
        target[last] = value
    (folder / MANIFEST).write_text(json.dumps(data), encoding="utf-8")


def test_a_folder_opens_without_megatron(small: DataFolder) -> None:
    folder = DataFolder.open(small.path)
    assert folder == small
    assert folder.to_json() == json.loads((small.path / MANIFEST).read_text(encoding="utf-8"))
    for split in SPLITS:
        tokens = folder.tokens(split)
        assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint16
        assert len(tokens) == folder.splits[split].tokens
        assert tokens.max() < folder.vocab_size
        assert (tokens == EOS_ID).sum() <= folder.splits[split].documents
    assert (folder.tokens("train") == EOS_ID).sum() == folder.splits["train"].documents


def test_problems_come_back(small: DataFolder) -> None:
    problems = small.problems()
    assert len(problems) == small.held_out_problems == 24
    assert all(p.held_out for p in problems)
    tokenizer = small.tokenizer()
    assert all(len(tokenizer.encode(p.text).ids) == p.tokens for p in problems)
    assert {p.length for p in problems} == {"short", "long"}
    row = json.loads((small.path / PROBLEMS).read_text(encoding="utf-8").splitlines()[0])
    assert row["prompt"] == problems[0].prompt and row["answer"] == problems[0].answer


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("path", "x", "path: 'x'"),
        ("vocab_size", 511, "512 rows"),
        ("reasoning", 0.95, "reasoning: 0.95"),
        ("held_out_problems", 23, "the 23 problems"),
        ("splits.test", {}, "splits"),
        ("splits.val", None, "splits"),
        ("splits.val.tokens", 5, "says 5"),
        ("splits.train.documents", 5, "in 5"),
    ],
)
def test_numbers_that_the_files_contradict(copy: Path, key: str, value: Any, message: str) -> None:
    set_in(copy, key, value)
    with pytest.raises(ElasticError, match=message):
        DataFolder.open(copy)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        (None, "prompt and length"),
    ],
)
def test_every_problem_is_checked(copy: Path, line: str | None, message: str) -> None:
    lines = (copy / PROBLEMS).read_text(encoding="utf-8").splitlines()
    lines[0] = line or lines[0].replace("question: ", "Question: ")
    (copy / PROBLEMS).write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ElasticError, match=message):
        DataFolder.open(copy)


def test_unknown_names_are_refused(small: DataFolder, tmp_path: Path) -> None:
    with pytest.raises(ElasticError, match="split: 'test'"):
        small.tokens("test")
    with pytest.raises(ElasticError, match="not a data folder"):
        DataFolder.open(tmp_path)
