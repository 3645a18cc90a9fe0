# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every layout of ranks trains what one rank trains: the rows of `table.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.runs import Layout
from tests.parallel.table import (
    GRADIENT,
    HALF_GRADIENT,
    HALF_LOSS,
    HALF_MEMBERS,
    HALVES,
    LOADED,
    LONG_STEPS,
    LOSS,
    MEMBERS,
    REFUSED,
    ROWS,
    SHARDS,
    WEIGHT,
    markdown,
)
from tests.workers import work

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("table")
    work("tests.parallel.table", folder)
    return json.loads((folder / "table.json").read_text())


@pytest.mark.parametrize("layout", ROWS, ids=lambda layout: layout.name)
def test_a_layout_trains_what_one_rank_trains(found: dict[str, Any], layout: Any) -> None:
    row = found[layout.name]
    assert "error" not in row, row["error"]
    assert row["draws"], "another choice on some rank"
    assert row["budgets"], "not every rank knows the loss of every budget"
    assert row["replicas"], "routers or members differ among ranks"
    assert row["loss"] <= LOSS
    assert row["weight"] <= WEIGHT
    assert row["gradient"] <= GRADIENT
    assert row["members"] <= MEMBERS, "members have other losses when they are evaluated"


@pytest.mark.parametrize("layout", SHARDS, ids=lambda layout: layout.name)
def test_the_routers_clipping_is_the_same_whatever_shards_it(found: dict[str, Any], layout: Any) -> None:
    test_a_layout_trains_what_one_rank_trains(found, layout)
    # the average of two gradients, at the optimizer's 0.9; without clipping it is larger
    assert 0 < found[layout.name]["router"] <= (1 - 0.9**2) * layout.clip * (1 + 1e-3)
    assert found[Layout(tensor=2, soft=True).name]["router"] > 2 * layout.clip


@pytest.mark.parametrize("layout", HALVES, ids=lambda layout: layout.name)
def test_a_layout_in_bf16_trains_what_one_rank_trains(found: dict[str, Any], layout: Any) -> None:
    row = found[layout.name]
    assert "error" not in row, row["error"]
    assert row["draws"] and row["budgets"] and row["replicas"]
    assert row["loss"] <= HALF_LOSS
    assert row["gradient"] <= HALF_GRADIENT
    assert row["members"] <= HALF_MEMBERS


def test_routers_stay_the_same_on_all_ranks(found: dict[str, Any]) -> None:
    assert found["long"] == {"replicas": True, "steps": LONG_STEPS}


@pytest.mark.parametrize("mode", LOADED)
def test_a_stage_loads_its_own_layers_of_the_parent(found: dict[str, Any], mode: str) -> None:
    stages = found[f"loaded {mode}"]
    first, last = (set(stages[rank]["student"]) for rank in ("0", "1"))
    assert not first & last
    layers = [{int(name.split(".")[2]) for name in half if ".layers." in name} for half in (first, last)]
    assert layers == [{0, 1, 2, 3}, {4, 5, 6, 7}]
    assert "embedding.word_embeddings.weight" in first and "output_layer.weight" in last
    for stage in stages.values():
        assert stage["student is the parent"] and stage["teacher is the parent"]
        assert stage["teacher"] == (stage["student"] if mode == "frozen" else [])


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_run_is_refused_with_a_line(found: dict[str, Any], what: str) -> None:
    name, value, _ = REFUSED[what]
    assert found[what]["line"].startswith(f"recipe.trainer.strategy.{name}: {value!r} is not allowed")


def test_the_comparison_can_fail() -> None:
    import torch

    from tests.parallel.compare import deviation

    a, b = torch.ones(4), torch.ones(4)
    b[2] += 1e-2
    assert deviation({"a": b}, {"a": a}, relative=True) == pytest.approx(1e-2, rel=1e-4)
    assert deviation({"a": b}, {"a": a}) > WEIGHT
    with pytest.raises(AssertionError, match="b"):
        deviation({"a": a, "b": a}, {"a": a})


def test_one_line_for_each_layout_in_the_documentation() -> None:
    rows: dict[str, dict[str, Any]] = {layout.name: {"loss": 1e-6, "weight": 0.0} for layout in ROWS}
    rows |= {what: {"line": ""} for what in REFUSED} | {"versions": {}}
    assert len(markdown(rows).splitlines()) == 2 + len(ROWS) + 3 + len(REFUSED)
    told = (Path(__file__).parents[2] / "docs" / "tables" / "parallel.md").read_text().splitlines()
    for ours, theirs in zip(markdown(rows).splitlines(), told, strict=True):
        cut = 3 if ours.endswith("`` |") else 1 if ours.startswith("| refused with") else 10  # not what was measured
        assert theirs.split("|")[:cut] == ours.split("|")[:cut]
