# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A published family goes on by distillation: its members keep their shapes, and are fronts of the new weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_elastic.core.manifest import Family
from tests.slicing import strangers as theirs
from tests.workers import work

from .published import SMALL, STEPS


@pytest.mark.slow(minutes=2)
def test_both_stages_train_the_published_members(tmp_path: Path) -> None:
    work("tests.support.bridge", "-m", "tests.hosts.bridge.published", tmp_path)
    before, after = (Family.load(tmp_path / name) for name in ("parent", "family"))
    assert after.parent == before.parent
    assert {m.name: m.subnet for m in after} == {m.name: m.subnet for m in before}
    whole = json.loads((tmp_path / "parent" / "config.json").read_text())
    trained = theirs.words_of(tmp_path / "family")
    assert theirs.same(theirs.cut(trained, whole, whole | SMALL), theirs.words_of(tmp_path / "members" / "small"))
    assert not theirs.same(trained, theirs.words_of(tmp_path / "parent"))
    for stage in (1, 2):
        lines = (tmp_path / f"stage{stage}" / "checkpoints" / "metrics.jsonl").read_text().splitlines()
        assert [x["step"] for x in map(json.loads, lines) if x["kind"] == "step"] == [*range(1, STEPS + 1)]
