# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of latencies: linear between widths, nothing beyond them; limits in milliseconds, alone and with others."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.core.latency import DECODE, OUTSIDE, PHASES, PREFILL, REQUEST, LatencyTable, never_falling
from nemo_elastic.core.limits import LATENCY
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.profile.measure import widths_of
from nemo_elastic.profile.roofline import on_paper
from nemo_elastic.router import Router
from nemo_elastic.search.space import Space
from nemo_elastic.slicing.untrained import init_family
from tests.core.test_limits import AXES, SHAPE, TABLE, WORK
from tests.ranking.test_sorting import unstriped
from tests.shapes import MOE, PARENT
from tests.slicing.test_experts import BLOCK, plain


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


@pytest.mark.parametrize("phase", [DECODE, PREFILL, REQUEST])
def test_the_routers_expected_latency_is_the_mean_over_all_choices_and_its_gradient_that_of_differences(
    table: LatencyTable, phase: str
) -> None:
    config = block_of({"name": "half", "latency": {"table": table, "ratio": 0.7, "of": phase}})
    axes = {**AXES, "depth": AXES["depth"]}
    space = Space(SHAPE, axes, tuple(range(SHAPE.num_layers)))
    router = Router(space, config.budgets)
    pi = {a: p.detach() for a, p in router.probabilities("half", noise=(0, 0)).items()}
    limit = config.budgets[1].limits[0]
    free = [(axis, row) for axis in router.axes for row in range(len(pi[axis]))]
    mean = 0.0
    for code in product(*(range(pi[axis].shape[1]) for axis, _ in free)):
        chance = float(np.prod([float(pi[axis][row, i]) for (axis, row), i in zip(free, code, strict=True)]))
        mean += chance * limit.share(SHAPE, space.decode(code))
    assert float(router.expected_cost(pi, "half")) == pytest.approx(mean, rel=1e-5)

    def cost(flat: torch.Tensor) -> torch.Tensor:
        parts, at = {}, 0
        for axis, p in pi.items():
            parts[axis] = flat[at : at + p.numel()].view(p.shape) if axis in router.axes else p
            at += p.numel() if axis in router.axes else 0
        return router.expected_cost(parts, "half")[0]

    flat = torch.cat([pi[axis].double().flatten() for axis in router.axes]).requires_grad_()
    assert torch.autograd.gradcheck(cost, flat, eps=1e-6, atol=1e-6)


def test_a_family_has_the_table_of_its_budget_with_it(table: LatencyTable, tmp_path: Path) -> None:
    file = tmp_path / "paper.json"
    file.write_text(json.dumps(table))
    own = {"name": "small", "latency": {"table": str(file), "ratio": 0.75}}
    init_family(plain(tmp_path / "plain", unstriped(MOE)), block_of(own), tmp_path / "family")
    file.unlink()
    family = Family.load(tmp_path / "family")
    member = family.member("small")
    assert member.budget is not None and member.budget["latency"]["table"] == rows_of(table)
    spent = table.milliseconds(family.parent, member.subnet) / table.milliseconds(SHAPE, SHAPE.full)
    assert 0.9 * 0.75 < spent <= 0.75


def test_a_budget_with_a_table_goes_to_another_process_and_back_into_a_block(table: LatencyTable) -> None:
    config = block_of({"name": "half", "latency": {"table": table, "ms": 1e-2}})
    assert pickle.loads(pickle.dumps(config)) == config
    assert ElasticConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert len(repr(config.budgets[1])) < 300, "tables are not written out in messages"


BAD: list[tuple[Any, str]] = [
    ({"ms": 12}, "elastic.budgets[half].latency.table: missing"),
    ({"table": "gone.json", "ms": 12}, "gone.json: no such file"),
    ({"table": [], "ms": 12}, "latency.table: [] is not allowed; a table of `nemo-elastic profile`"),
    ({"ms": 12, "ratio": 0.5}, "is not allowed; {table: FILE, ms: 12} or"),
    ({"ms": 0}, "elastic.budgets[half].latency.ms: 0 is not allowed; milliseconds, above 0"),
    ({"ratio": 1.5}, "latency.ratio: 1.5 is not allowed"),
    ({"ms": 1, "of": "token"}, "latency.of: 'token' is not allowed; one of prefill, decode, request"),
    ({"ms": 1, "phase": "decode"}, "latency: unknown field 'phase'"),
]


@pytest.mark.parametrize(("value", "said"), BAD, ids=lambda x: str(x)[:20])
def test_a_limit_that_is_none_is_refused_in_one_line(table: LatencyTable, value: dict[str, Any], said: str) -> None:
    whole = {"table": table} | value if "table" in value or value != {"ms": 12} else value
    with pytest.raises(ElasticError) as caught:
        Budget("half", latency=whole)
    assert said in str(caught.value)


def every(phase: str, value: float) -> Any:
    return lambda rows: [grid.update({phase: [value] * len(grid[phase])}) for grid in rows["grids"].values()]


def moe(rows: dict[str, Any]) -> dict[str, Any]:
    return rows["grids"]["moe"]


BROKEN: list[tuple[Any, str]] = [
    (lambda rows: rows.update(format=2), "format: 2 is not allowed"),
    (lambda rows: moe(rows)["decode"].__setitem__(3, None), "1 of"),
    (lambda rows: moe(rows)["prefill"].pop(), "numbers: one for each combination"),
    (lambda rows: moe(rows)["prefill"].__setitem__(0, "1"), "'1' is not allowed; seconds"),
    (every("prefill", 0.0), "grids: 'prefill of 0 seconds or less' is not allowed"),
    (every("decode", -1.0), "grids: 'decode of 0 seconds or less' is not allowed"),
    (lambda rows: moe(rows)["axes"]["hidden"].reverse(), "ascending widths, each once"),
    (lambda rows: rows["grids"].pop("moe"), "grids: "),
    (lambda rows: rows.pop("workload"), "workload: missing"),
    (lambda rows: rows["workload"].update(batch=0), "batch: 0 is not allowed"),
    (lambda rows: rows["parent"].update(hidden="x"), "parent.hidden: 'x' is not allowed"),
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
    with pytest.raises(ElasticError, match=r"latency\.table: 'a table of a parent with pattern .* is not allowed"):
        Budget("half", latency={"table": table, "ms": 1}).target(PARENT)
    other = replace(SHAPE, hidden=SHAPE.hidden + 4)
    with pytest.raises(
        ElasticError, match=r"^latency\.table: 'a table of a parent with hidden 16' .*; this parent has 20$"
    ):
        table.seconds(other, other.full)
    restriped = replace(SHAPE, experts_stripes=4)
    assert table.seconds(restriped, restriped.full) == table.seconds(SHAPE, SHAPE.full)
    more = replace(SHAPE, kv_heads_stripes=1)  # its members may keep some of the key-value heads
    with pytest.raises(ElasticError, match=r"with kv_heads_stripes None' is not allowed; this parent has 1$"):
        table.seconds(more, more.full)
    rows = rows_of(table)
    low = rows["grids"]["moe"]["axes"]["hidden"]
    small = SHAPE.uniform(hidden=low[0] // 2)
    with pytest.raises(
        ElasticError, match=rf"hidden: {low[0] // 2} is not allowed; the table has widths from {low[0]} to"
    ):
        table.seconds(SHAPE, small)


@pytest.mark.parametrize(("kind", "axis"), [(OUTSIDE, "hidden"), ("moe", "experts")])
def test_choices_beyond_what_was_measured_are_refused_before_anything_is_searched(
    table: LatencyTable, kind: str, axis: str
) -> None:
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
    said = f"{axis}: {widths[0]} is not allowed; the table has widths from {widths[1]} to {widths[-1]}"
    assert str(caught.value) == f"latency table of roofline: {kind}: {said}"


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
    read = LATENCY.parse("--latency", text, None)  # type: ignore[arg-type]
    assert {k: v for k, v in read.items() if k != "table"} == value and read["table"] == table


@pytest.mark.parametrize("text", ["12ms", "t.json", "t.json:fast", "t.json:-1ms", "t.json:decode", "t.json:3"])
def test_a_limit_on_the_command_line_that_is_none(
    table: LatencyTable, text: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.json").write_text(json.dumps(table))
    with pytest.raises(ElasticError, match="--latency"):
        LATENCY.parse("--latency", text, None)  # type: ignore[arg-type]


def test_limits_that_exclude_each_other_are_named_with_the_nearest_that_can_be_met(table: LatencyTable) -> None:
    budget = block_of({"name": "half", "params": 1000, "latency": {"table": table, "ratio": 0.01}}).budgets[1]
    space = Space(SHAPE, AXES, tuple(range(SHAPE.num_layers)))
    count, ms = (limit.cost(SHAPE, space.smallest) for limit in budget.limits)
    with pytest.raises(ElasticError) as caught:
        space.price(budget).check()
    line = str(caught.value)
    assert line.startswith("elastic.budgets[half]: ") and f"{count:,} parameters" in line and f"{ms:.3g} ms" in line
