# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Weights, router, members and the distributed optimizer's moments go from a layout of ranks to any other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.parallel.handover import SECOND, STEPS
from tests.parallel.table import HALF_LOSS, LOSS
from tests.workers import part, parts, work

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow(minutes=2), pytest.mark.long]
PRECISIONS = {"float32": LOSS, "bf16": HALF_LOSS}
EACH = pytest.mark.parametrize(
    ("precision", "layout"),
    [pytest.param(p, layout, marks=part(f"{p} {layout}", f"{p} tp2-dp2")) for p in PRECISIONS for layout in SECOND],
)


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("handover")
    work("tests.parallel.handover", folder, *parts(request))
    return json.loads((folder / "handover.json").read_text())


@EACH
def test_stage_2_starts_with_the_bytes_that_stage_1_left(results: dict[str, Any], precision: str, layout: str) -> None:
    run = results[precision][layout]
    assert run["other"] == []
    assert run["moments"] > run["of the router"] > 0
    assert run["zeros"] == [], "nothing was to be lost"
    assert ("torch.bfloat16" in run["kinds"]) == (precision == "bf16")


@EACH
def test_it_goes_on_as_in_the_layout_of_stage_1(results: dict[str, Any], precision: str, layout: str) -> None:
    same, other = results[precision]["tp2-dp2"]["losses"], results[precision][layout]["losses"]
    assert len(other) == STEPS
    assert other == pytest.approx(same, rel=PRECISIONS[precision])


@pytest.mark.part("float32 fewer", "float32 gathered")
def test_stage_1_goes_on_with_fewer_data_parallel_ranks(results: dict[str, Any]) -> None:
    fewer = results["float32"]["fewer"]
    assert fewer["other"] == [] and fewer["moments"] and not fewer["zeros"]
    assert fewer["losses"] == pytest.approx(results["float32"]["gathered"]["losses"], rel=LOSS)


@pytest.mark.part("float32 gathered")
def test_the_save_that_needs_no_memory_of_gpus_writes_the_same(results: dict[str, Any]) -> None:
    assert results["float32"]["gathered"]["other"] == []


@pytest.mark.part("default")
def test_what_nemo_saves_by_default_goes_on_in_no_other_layout(results: dict[str, Any]) -> None:
    """Else `apply_elastic` would have nothing to set."""
    assert "re-save the checkpoint with `ckpt_optim_fully_reshardable=True`" in results["default"]
