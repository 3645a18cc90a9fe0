# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nemo_elastic.data.folder import DataFolder
from tests.slicing.helpers import run


def test_it_builds_a_folder(small_sources: list[Path], tmp_path: Path) -> None:
    arguments = (*small_sources[:2], "--out", tmp_path / "x")
    code, out, err = run("data", *arguments)
    assert code == 0, err
    folder = DataFolder.open(tmp_path / "x")
    assert (folder.vocab_size, folder.reasoning) == (1024, 0.25)
    assert "train_long" in out and f"{folder.splits['val'].tokens:,}" in out and "problems held out" in out
    steps = [line.partition(": ")[2] for line in err.splitlines()]
    assert steps[:2] == ["tokenising text", "tokenising held-out text"] and len(steps) == len({*steps})

    code, out, _ = run("data", *arguments, "--force", "--json")
    assert code == 0 and json.loads(out) == folder.to_json()


@pytest.mark.parametrize(
    ("row", "options"), [({"text": "words " * 200}, ()), ({"input": "a", "output": ""}, ("--tokenizer",))]
)
def test_names_need_not_be_utf8(row: dict, options: tuple[str, ...], small: DataFolder, tmp_path: Path) -> None:
    source, out = (tmp_path / os.fsdecode(b"\xff\x1b[31m" + end) for end in (b".jsonl", b""))
    rows = (row | {name: f"{row[name]}{i or ''}" for name in ("text", "output") if name in row} for i in range(40))
    source.write_text("".join(json.dumps(each) + "\n" for each in rows))
    given = (*options, small.tokenizer_dir) if options else ()
    code, told, err = run("data", source, "--out", out, *given)
    assert code == 0 and "\x1b" not in told and r"\udcff\x1b[31m" in told.replace("\n", ""), err
