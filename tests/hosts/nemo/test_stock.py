# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo's own recipes of Nemotron-Hs: what `apply_elastic` says of each, and that those it takes can train."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts.stock import ACCEPTED, Outcome, check_steps, markdown
from tests.workers import ROOT, work

pytestmark = pytest.mark.nemo


@pytest.fixture(scope="module")
def results() -> list[Outcome]:
    from tests.hosts.nemo.stock import outcomes

    return list(outcomes())


def test_the_table_in_the_documentation_is_what_apply_elastic_says(results: list[Outcome]) -> None:
    stored = (ROOT / "docs" / "tables" / "stock_nemo.md").read_text(encoding="utf-8")
    assert markdown(results) == stored, "make recipe-tables"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.dist
def test_every_accepted_recipe_takes_steps_at_small_scale(results: list[Outcome], tmp_path: Path) -> None:
    from tests.hosts.nemo.stock import STEPS

    work("tests.hosts.nemo.stock", "--steps", tmp_path)
    check_steps(tmp_path, [one.recipe for one in results if one.verdict == ACCEPTED], STEPS)
