# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of latencies: linear between widths, nothing beyond them; limits in milliseconds, alone and with others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.core.latency import DECODE, OUTSIDE, PHASES, PREFILL, REQUEST, LatencyTable, never_falling
from nemo_elastic.core.limits import LatencyLimit
from nemo_elastic.errors import ElasticError
from nemo_elastic.profile.measure import widths_of
from nemo_elastic.profile.roofline import on_paper
from nemo_elastic.search.space import Space
from tests.core.test_limits import AXES, SHAPE, TABLE, WORK
from tests.shapes import PARENT
from tests.slicing.test_experts import BLOCK


def block_of(*budgets: dict[str, Any]) -> ElasticConfig:
    return ElasticConfig.from_dict(BLOCK | {"budgets": [{"name": "whole"}, *budgets]})


@pytest.fixture
def table() -> LatencyTable:
    return TABLE


def rows_of(table: LatencyTable) -> dict[str, Any]:
    return json.loads(json.dumps(table))


def test_a_member_takes_what_its_layers_and_the_rest_take_wherever_widths_were_measured(table: LatencyTable) -> None:
    space = Space(SHAPE, AXES, tuple(range(SHAPE.num_layers)))
    for member in (space.full, space.smallest):
        for phase in PHASES:
            at = 0 if member == space.smallest else -1
            layers = [table.grids[layer.type].seconds[phase] for layer in member.layers]
            expected = table.grids[OUTSIDE].seconds[phase][at] + sum(grid.flat[at] for grid in layers)
            assert table.seconds(SHAPE, member)[phase] == pytest.approx(expected, rel=1e-12)
        seconds = table.seconds(SHAPE, member)
        assert seconds[REQUEST] == pytest.approx(seconds[PREFILL] + 8 * seconds[DECODE], rel=1e-12)


def test_between_measured_widths_it_is_linear_in_each() -> None:
    rows = rows_of(on_paper(PARENT, widths_of(PARENT, ends(PARENT), 2), WORK, "h100"))
    ffn = rows["grids"]["mlp"]
    low, high = ffn["axes"]["ffn"][0], ffn["axes"]["ffn"][-1]
    h = ffn["axes"]["hidden"]
    ffn["decode"] = [1.0, 2.0, 3.0, 6.0]
    rows["grids"][OUTSIDE]["decode"] = [0.0, 0.0]
    for name in set(rows["grids"]) - {"mlp", OUTSIDE}:
        rows["grids"][name]["decode"] = [0.0] * len(rows["grids"][name]["decode"])
    table, of_type = LatencyTable.read("table", rows), PARENT.types.count("mlp")
    member = PARENT.uniform(hidden=(h[0] + h[1]) // 2, ffn=(low + high) // 2)
    across = ((h[0] + h[1]) // 2 - h[0]) / (h[1] - h[0]), ((low + high) // 2 - low) / (high - low)
    one = (1 - across[0]) * (1 + across[1]) + across[0] * (3 + 3 * across[1])
    assert table.seconds(PARENT, member)[DECODE] == pytest.approx(one * of_type, rel=1e-12)


def ends(parent: Any) -> Any:
    """Half and whole of every width."""
    full = {a: parent.num_layers if a == DEPTH else parent.axis(a).size for a in parent.axes}
    return {a: AxisConfig((n, n // 2) if a in ("hidden", "ffn") else (n,)) for a, n in full.items()}


@given(arrays(np.float64, (3, 4), elements=st.floats(-1, 1)))
def test_what_was_measured_never_falls_afterwards_and_stays_where_it_did_not(seconds: np.ndarray) -> None:
    smooth = never_falling(seconds)
    assert (smooth >= 0).all()
    assert (np.diff(smooth, axis=0) >= 0).all() and (np.diff(smooth, axis=1) >= 0).all()
    rising = np.sort(np.sort(np.abs(seconds), axis=0), axis=1)
    rising = np.maximum.accumulate(rising, axis=0)
    assert np.array_equal(never_falling(rising), rising)


BAD: list[tuple[Any, str]] = [
    ({"table": [], "ms": 12}, "latency.table: []"),
    ({"ms": 12, "ratio": 0.5}, "one of ms and ratio"),
    ({"ms": 0}, "elastic.budgets[half].latency.ms: 0"),
    ({"ratio": 1.5}, "latency.ratio: 1.5"),
    ({"ms": 1, "phase": "decode"}, "latency: unknown field 'phase'"),
]


@pytest.mark.parametrize(("value", "said"), BAD, ids=lambda x: str(x)[:20])
def test_a_limit_that_is_none_is_refused_in_one_line(table: LatencyTable, value: dict[str, Any], said: str) -> None:
    with pytest.raises(ElasticError) as caught:
        Budget("half", latency={"table": table} | value)
    assert said in str(caught.value)


def every(phase: str, value: float) -> Any:
    return lambda rows: [grid.update({phase: [value] * len(grid[phase])}) for grid in rows["grids"].values()]


def moe(rows: dict[str, Any]) -> dict[str, Any]:
    return rows["grids"]["moe"]


BROKEN: list[tuple[Any, str]] = [
    (lambda rows: rows.update(format=2), "format: 2 is not allowed"),
    (lambda rows: moe(rows)["prefill"].pop(), "numbers: one for each combination"),
    (lambda rows: moe(rows)["prefill"].__setitem__(0, "1"), "'1' is not allowed; seconds"),
    (every("prefill", 0.0), "grids: 'prefill of 0 seconds or less' is not allowed"),
    (lambda rows: moe(rows)["axes"]["hidden"].reverse(), "ascending widths, each once"),
    (lambda rows: moe(rows)["axes"]["hidden"].__setitem__(-1, 10**30), "no model has more"),
    (lambda rows: rows["grids"].pop("moe"), "grids: "),
    (lambda rows: rows["workload"].update(batch=0), "batch: 0 is not allowed"),
]


@pytest.mark.parametrize(("change", "said"), BROKEN, ids=range(len(BROKEN)))
def test_a_table_that_cannot_be_used_is_refused_in_one_line(
    table: LatencyTable, change: Any, said: str, tmp_path: Path
) -> None:
    rows, file = rows_of(table), tmp_path / "table.json"
    change(rows)
    file.write_text(json.dumps(rows))
    with pytest.raises(ElasticError) as caught:
        Budget("half", latency={"table": str(file), "ms": 1})
    assert said in str(caught.value) and str(file) in str(caught.value)


def test_a_table_is_for_its_parent_and_for_the_widths_that_were_measured(table: LatencyTable) -> None:
    other = replace(SHAPE, hidden=SHAPE.hidden + 4)
    with pytest.raises(ElasticError, match=r"^latency\.table: 'a table of a parent with hidden 16' .* has 20$"):
        table.seconds(other, other.full)
    restriped = replace(SHAPE, experts_stripes=4)
    assert table.seconds(restriped, restriped.full) == table.seconds(SHAPE, SHAPE.full)
    more = replace(SHAPE, kv_heads_stripes=1)  # its members may keep some of the key-value heads
    with pytest.raises(ElasticError, match=r"with kv_heads_stripes None' is not allowed; this parent has 1$"):
        table.seconds(more, more.full)
    rows = rows_of(table)
    low = rows["grids"]["moe"]["axes"]["hidden"]
    small = SHAPE.uniform(hidden=low[0] // 2)
    with pytest.raises(ElasticError, match=rf"hidden: {low[0] // 2} is not allowed"):
        table.seconds(SHAPE, small)


def test_choices_beyond_what_was_measured_are_refused_before_anything_is_searched(table: LatencyTable) -> None:
    kind, axis = "moe", "experts"
    grid = rows_of(table)["grids"][kind]
    at = list(grid["axes"]).index(axis)
    widths = grid["axes"][axis]
    for phase in PHASES:
        shape = [len(each) for each in grid["axes"].values()]
        grid[phase] = np.delete(np.reshape(grid[phase], shape), 0, at).ravel().tolist()
    grid["axes"][axis] = widths[1:]
    rows = rows_of(table)
    rows["grids"][kind] = grid
    budget = block_of({"name": "half", "latency": {"table": rows, "ratio": 0.7}}).budgets[1]
    with pytest.raises(ElasticError) as caught:
        Space(SHAPE, AXES, tuple(range(SHAPE.num_layers))).price(budget).check()
    assert f"{kind}: {axis}: {widths[0]} is not allowed" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("t.json:12ms", {"ms": 12}),
        ("a:b.json:1.5s", {"ms": 1500}),
        ("t.json:0.6:request", {"ratio": 0.6, "of": "request"}),
    ],
)
def test_a_limit_on_the_command_line(
    table: LatencyTable, text: str, value: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("t.json", "a:b.json"):
        Path(name).write_text(json.dumps(table))
    read = LatencyLimit.parse("--latency", text, None)  # type: ignore[arg-type]
    assert {k: v for k, v in read.items() if k != "table"} == value and read["table"] == table
