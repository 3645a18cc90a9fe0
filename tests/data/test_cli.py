# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nemo_elastic.data.folder import DataFolder
from tests.slicing.helpers import run


def test_it_builds_a_folder(small: DataFolder, small_sources: list[Path], tmp_path: Path) -> None:
    """With the tokenizer that is given, of the texts that are given and nothing else."""
    arguments = (*small_sources[:2], "--tokenizer", small.path, "--out", tmp_path / "x")
    code, out, err = run("data", *arguments)
    assert code == 0, err
    folder = DataFolder.open(tmp_path / "x")
    assert (folder.vocab_size, folder.reasoning, folder.held_out_problems) == (small.vocab_size, 0, 0)
    assert f"{folder.splits['val'].tokens:,}" in out and err.splitlines() == ["tokenising"]

    code, out, _ = run("data", *arguments, "--force", "--json")
    assert code == 0 and json.loads(out) == folder.to_json()


@pytest.mark.parametrize("left_out", ["--tokenizer", "sources"])
def test_nobodys_text_is_mixed_with_problems(
    left_out: str, small: DataFolder, small_sources: list[Path], tmp_path: Path
) -> None:
    given = [small_sources[0]] if left_out == "--tokenizer" else ["--tokenizer", small.path]
    code, out, err = run("data", *given, "--out", tmp_path / "x")
    assert (code, out, err.count("\n")) == (2, "", 1) and left_out in err


@pytest.mark.parametrize("row", [{"text": "words " * 200}, {"input": "a", "output": ""}])
def test_names_need_not_be_utf8(row: dict, small: DataFolder, tmp_path: Path) -> None:
    source, out = (tmp_path / os.fsdecode(b"\xff\x1b[31m" + end) for end in (b".jsonl", b""))
    rows = (row | {name: f"{row[name]}{i or ''}" for name in ("text", "output") if name in row} for i in range(40))
    source.write_text("".join(json.dumps(each) + "\n" for each in rows))
    code, told, err = run("data", source, "--out", out, "--tokenizer", small.tokenizer_dir)
    assert code == 0 and "\x1b" not in told and r"\udcff\x1b[31m" in told.replace("\n", ""), err
