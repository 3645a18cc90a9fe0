# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Questions with answers as the page on evaluation asks them: its task file, of members and of a server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nemo_elastic import load_family
from nemo_elastic.cli import main
from tests.documentation import Block, blocks, named_files
from tests.runtime.talking import talking_family
from tests.workers import ROOT

PAGE = ROOT / "docs" / "evaluation.md"
ASKED = ("2 + 2?", "The first of 12 apples?", "def f(x):")


def command(*words: str) -> list[str]:
    """The page's first command that has these words."""
    shown: list[Block] = blocks("bash", page=PAGE)
    return next(each for block in shown for each in block.commands() if {*words} <= {*each})


def last_line(said: str) -> str:
    return re.sub(r".*(answer is|answer:|####)", "", said.strip("\n").split("\n")[-1]).strip()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a family, where the page's commands are given; nothing is asked of a hub."""
    pytest.importorskip("lm_eval", reason="`pip install -e .[dev]` brings it")
    talking_family(tmp_path)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "questions.yaml").write_text(named_files(PAGE)["tasks/questions.yaml"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.slow
def test_members_answer_the_page_s_task(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows are as the page has them: their solution ends in another answer than is right."""
    said = load_family("family").select("9b").generate(list(ASKED), 256)
    right = (last_line(said[0]), "nothing that it says", last_line(said[2]))
    rows = ({"input": q, "output": "The answer is no.", "answer": a} for q, a in zip(ASKED, right))
    (place / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit) as done:
        main([*command("nemo-elastic", "questions")[1:], "--member", "9b", "--json"])
    captured = capsys.readouterr()
    assert done.value.code in (None, 0), captured.err
    [row] = json.loads(captured.out)
    assert row["tasks"] == {"questions": {"exact_match,last_line": pytest.approx(2 / 3)}}
