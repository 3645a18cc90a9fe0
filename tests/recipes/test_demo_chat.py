# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The chat demo, every part of it, too briefly to learn: what it trains on, what it asks, and what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_elastic.data.folder import ChatFolder
from nemo_elastic.runtime import load_family
from recipes.demo_chat import answer_of
from tests.workers import ROOT, environment

pytestmark = [pytest.mark.nemo, pytest.mark.slow]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "out"
    command = [sys.executable, "-W", "ignore", "recipes/demo_chat.py", "--short", "--out", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith((folder / "table.md").read_text())
    return folder


def test_members_are_distilled_on_the_answers_of_packed_conversations(out: Path) -> None:
    for stage, length in ((1, 512), (2, 1024)):
        data = ChatFolder.open(out / f"chats-{length}")
        assert data.marked and data.length == length
        lines = [json.loads(line) for line in (out / f"stage{stage}" / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["kind"] == "step"]
        shares = [line["tokens"] / (2048 * at) for at, line in enumerate(steps, 1)]
        held_out = [line["kl"] for line in lines if line["kind"] == "heldout"]
        assert len(held_out) == 2 and held_out[-1]["half"] < held_out[0]["half"]
        counted = data.tally["counted"] / data.tally["tokens"]
        # the last of the packs, in any step, may be nearly empty
        assert counted < 0.75 and 0.8 * counted < shares[-1] and max(shares) < 1.05 * counted, shares


def test_questions_are_those_that_nobody_trained_on(out: Path) -> None:
    trained = {json.loads(line)["input"] for line in (out / "chats.jsonl").read_text().splitlines()}
    asked = [json.loads(line) for line in (out / "questions.jsonl").read_text().splitlines()]
    assert len(asked) == 8 and not trained & {row["input"] for row in asked}
    numbers = [sorted(answer_of(row["output"]).split(), key=int) for row in asked]
    assert numbers == [sorted(row["input"].split()[2:], key=int) for row in asked], "without the thinking"


def test_every_member_is_asked_before_and_after(out: Path) -> None:
    rows = json.loads((out / "answers.json").read_text())
    before, after = (load_family(out / folder) for folder in ("before", "family"))
    assert [row["member"] for row in rows] == list(after.names) == list(before.names) == ["whole", "large", "half"]
    asked = [{"role": "user", "content": "sort up 7 5 23"}]
    for row in rows:
        assert row["parameters"] == after.select(row["member"]).parameters
        assert row["questions"] == 8 and 0 <= row["before"] <= 8 and 0 <= row["after"] <= 8
        said = [family.select(row["member"]).generate([asked], 8) for family in (before, after)]
        assert said[0] != said[1] or row["member"] == "whole", "distilled weights are others"
