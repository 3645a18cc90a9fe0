# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""From what a user asks for to a shape: limits, the largest shape within one, shapes in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nemo_elastic.core.cost import MemorySpec, memory, parameters
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.sizes import path
from nemo_elastic.formats.checkpoint import Origin, Shapes
from nemo_elastic.slicing.by_size import largest_within, read_limits, read_subnet
from tests.shapes import PARENT

MEMBERS = {
    "12b": PARENT.full,
    "9b": PARENT.uniform(keep=(0, 1, 3, 4), hidden=12, ffn=12, mamba_heads=4),
    "6b": PARENT.uniform(keep=(0, 1, 3), hidden=8, ffn=8, mamba_heads=4),
}
FAMILY = Family.of(PARENT, MEMBERS)
WHOLE = Shapes(Path("family"), PARENT, PARENT.full, {}, FAMILY, Origin.of(FAMILY))
SPEC = MemorySpec(batch=2, length=64)
COUNTS = {name: parameters(PARENT, member) for name, member in MEMBERS.items()}


def limit_of(limit: float) -> Any:
    return read_limits(SPEC, {"--params": str(limit)})


def test_any_limit_gets_the_largest_shape_of_the_path_within_it() -> None:
    prices = [parameters(PARENT, shape) for shape in path(FAMILY)]
    for at, price in enumerate(prices):
        for limit in (price, price + 1):
            fit = largest_within(WHOLE, limit_of(limit))
            larger = fit.to_json()["larger"]
            assert fit.subnet == path(FAMILY)[at] and price <= limit
            assert larger == (None if at == 0 else prices[at - 1])
            assert larger is None or larger > limit


def test_a_shape_between_members_says_between_which() -> None:
    fit = largest_within(WHOLE, limit_of(COUNTS["9b"] - 1))
    assert fit.name == "between 9b and 6b" and fit.between == ("9b", "6b")
    data = fit.to_json()
    used = parameters(PARENT, fit.subnet)
    assert data["between"] == ("9b", "6b") and data["below"] == 1 - used / (COUNTS["9b"] - 1)


def file(folder: Path, content: Any) -> Path:
    (folder / "shape.json").write_text(json.dumps(content))
    return folder / "shape.json"


def test_a_shape_is_read_alone_and_as_inspect_prints_it(tmp_path: Path) -> None:
    shape = MEMBERS["9b"].to_json()
    assert read_subnet(file(tmp_path, shape), PARENT) == MEMBERS["9b"]
    printed = {"subnet": shape, "parameters": COUNTS["9b"], "member": "9b", "between": None}
    assert read_subnet(file(tmp_path, printed), PARENT) == MEMBERS["9b"]


def test_several_limits_hold_together_and_the_nearest_binds() -> None:
    """Memory of long sequences and parameters: each of the two is what stops it, at one limit or the other."""
    spec, shapes = MemorySpec(batch=64, length=4096), path(FAMILY)
    costs = [(parameters(PARENT, shape), memory(PARENT, shape, spec)) for shape in shapes]
    stopped = set()
    for count, size in (costs[1], (costs[1][0], costs[3][1]), (costs[3][0], costs[1][1]), costs[-1]):
        limits = read_limits(spec, {"--params": str(count), "--memory": f"{size}B", "--ratio": None})
        fit = largest_within(WHOLE, limits)
        at = next(i for i, cost in enumerate(costs) if cost[0] <= count and cost[1] <= size)
        assert fit.subnet == shapes[at] and [limit.name for limit in fit.limits] == ["--params", "--memory"]
        data = fit.to_json()
        assert [x["below"] for x in data["limits"]] == [1 - costs[at][0] / count, 1 - costs[at][1] / size]
        assert [x["larger"] for x in data["limits"]] == list(costs[at - 1])
        over = [x["larger"] > x["limit"] for x in data["limits"]]
        assert any(over) and f"{count:,} parameters and " in str(fit)
        stopped |= {x["option"] for x, above in zip(data["limits"], over, strict=True) if above}
    assert stopped == {"--params", "--memory"}
