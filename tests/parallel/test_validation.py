# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every member is validated, in every layout alike, and logged: `validation.py`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.parallel.table import LOSS
from tests.parallel.validation import LAYOUTS, STEPS
from tests.workers import part, parts, work

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow, pytest.mark.long]
NAMES = {"full", "large", "small"}
FIRST = LAYOUTS[0]
EACH = pytest.mark.parametrize("layout", [pytest.param(one, marks=part(one.name), id=one.name) for one in LAYOUTS])


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("validation")
    work("tests.parallel.validation", folder, *parts(request))
    return json.loads((folder / "validation.json").read_text())


@EACH
def test_a_layout_measures_what_one_rank_measures(results: dict[str, Any], layout: Any) -> None:
    ours, alone = (results[of.name]["heldout"] for of in (layout, layout.alone))
    assert [line["step"] for line in ours] == [line["step"] for line in alone] == list(range(STEPS + 1))
    for line, wanted in zip(ours, alone, strict=True):
        assert set(line["losses"]) == NAMES
        # without a teacher of its own a family has its whole model, which is not measured by itself
        assert set(line["kl"]) == (NAMES if layout.teacher else NAMES - {"full"})
        assert line["losses"] == pytest.approx(wanted["losses"], rel=LOSS)
        assert line["kl"] == pytest.approx(wanted["kl"], abs=LOSS)
    assert ours[0]["kl"]["small"] > 10 * LOSS, "the comparison of divergences can fail"
    assert ours[0]["losses"] != ours[-1]["losses"]


@EACH
def test_loggers_and_monitors_get_it(results: dict[str, Any], layout: Any) -> None:
    kinds = {"val_loss": NAMES, "val_kl": NAMES if layout.teacher else NAMES - {"full"}}
    wanted = {f"{kind}/{name}" for kind, names in kinds.items() for name in names}
    assert set(results[layout.name]["tags"]) == wanted
    for rank in results[layout.name]["ranks"]:
        assert set(rank["monitored"]) == wanted | {"val_loss"}, "not on every rank"


@EACH
def test_the_newest_checkpoints_stay_under_names_known_before(results: dict[str, Any], layout: Any) -> None:
    assert results[layout.name]["whole"] == [f"step={step}-last" for step in (STEPS - 2, STEPS - 1)]


@pytest.mark.part(FIRST.name)
def test_validating_changes_nothing_of_the_training(results: dict[str, Any]) -> None:
    (often,), (seldom,) = (results[n]["ranks"] for n in (FIRST.alone.name, "seldom"))
    assert [line["step"] for line in results["seldom"]["heldout"]] == [0, 2, STEPS], "before, when due, and at the end"
    assert all(often["training"]) and len(often["training"]) == STEPS
    for name in ("samples", "losses", "weights"):
        assert often[name] == seldom[name], name
