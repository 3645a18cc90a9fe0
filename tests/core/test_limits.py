# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Limits of a budget, alone and together: members that keep them, counted by the tensors of their folders."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import MemorySpec, active_parameters, cache_elements, memory, parameters
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.core.latency import DECODE, OUTSIDE, LatencyTable, Workload
from nemo_elastic.core.limits import RatioLimit
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.hf.reading import open_tensors
from nemo_elastic.profile.measure import widths_of
from nemo_elastic.profile.roofline import on_paper
from nemo_elastic.slicing.slicer import slice_checkpoint
from nemo_elastic.slicing.untrained import init_family
from tests.ranking.test_sorting import unstriped
from tests.shapes import MOE
from tests.slicing.test_experts import BLOCK, plain

SPEC = MemorySpec(batch=3, length=40)
PLAIN = ElasticConfig.from_dict(BLOCK)
SHAPE, AXES = PLAIN.parent_shape(unstriped(MOE)), PLAIN.resolve_axes(unstriped(MOE))
WORK = Workload(batch=2, prompt=24, answer=9, dtype="bf16")
TABLE = on_paper(SHAPE, widths_of(SHAPE, AXES, 3), WORK, "h100")
#: each leaves a member something else to give up: experts, widths of them, the residual stream and with it the cache
ASKED: dict[str, Any] = {
    "params": 0.6 * parameters(MOE, MOE.full),
    "active_params": 0.75 * active_parameters(MOE, MOE.full),
    "ratio": 0.62,
    "memory": {"size": round(0.7 * memory(MOE, MOE.full, SPEC)), "batch": 3, "length": 40},
    "latency": {"table": json.loads(json.dumps(TABLE)), "ms": 0.75 * TABLE.milliseconds(SHAPE, SHAPE.full)},
}
SEVERAL = [("params", "active_params"), ("ratio", "memory"), ("memory", "latency"), tuple(ASKED)]


def timed(shapes: dict[str, tuple[int, ...]], table: LatencyTable) -> float:
    """Milliseconds of a token, of layers as wide as their tensors."""
    hidden = shapes["backbone.embeddings.weight"][1]
    taken = [table.grids[OUTSIDE].at({HIDDEN: hidden})[DECODE]]
    for i in range(1 + max(int(name.split(".")[2]) for name in shapes if ".layers." in name)):
        prefix = f"backbone.layers.{i}.mixer."
        rows = {name.removeprefix(prefix): shape[0] for name, shape in shapes.items() if name.startswith(prefix)}
        if "A_log" in rows:
            kind = "mamba"
            widths = {"mamba_heads": rows["A_log"], "mamba_head_dim": rows["norm.weight"] // rows["A_log"]}
        elif "q_proj.weight" in rows:
            kind, widths = "attention", {"attention_heads": rows["q_proj.weight"] // MOE.size("attention_head_dim")}
        else:
            own = {"expert_ffn": "experts.0.up_proj.weight", "shared_ffn": "shared_experts.up_proj.weight"}
            kind, widths = "moe", {axis: rows[name] for axis, name in own.items()} | {"experts": rows["gate.weight"]}
        taken.append(table.grids[kind].at({HIDDEN: hidden, **widths})[DECODE])
    return 1e3 * sum(taken)


def counted(folder: Path, top_k: int) -> dict[str, float]:
    """What the tensors in a folder add up to: all, those of a token, bytes, milliseconds."""
    tensors = open_tensors(folder)
    sizes = {name: math.prod(raw.shape) for name, raw in tensors.items()}
    experts = {name.partition(".experts.")[0]: set[str]() for name in sizes if ".experts." in name}
    for name in sizes:
        layer, _, rest = name.partition(".experts.")
        if rest:
            experts[layer].add(rest.partition(".")[0])
    share = {name: top_k / len(experts[layer]) for name in sizes if (layer := name.partition(".experts.")[0]) != name}
    return {
        "params": sum(sizes.values()),
        "active_params": sum(size * share.get(name, 1) for name, size in sizes.items()),
        "memory": sum(size * (4 if "correction_bias" in name else 2) for name, size in sizes.items()),
        "latency": timed({name: tuple(raw.shape) for name, raw in tensors.items()}, TABLE),
    }


@pytest.mark.parametrize("fields", SEVERAL, ids="-".join)
def test_a_member_keeps_all_limits_by_the_tensors_of_its_folder(fields: tuple[str, ...], tmp_path: Path) -> None:
    own = {"name": "small", **{field: ASKED[field] for field in fields}}
    block = ElasticConfig.from_dict(BLOCK | {"budgets": [{"name": "whole"}, own]})
    init_family(plain(tmp_path / "plain", unstriped(MOE)), block, tmp_path / "family")
    family = Family.load(tmp_path / "family")
    member = family.member("small")
    assert member.budget == json.loads(json.dumps({field: ASKED[field] for field in fields}))
    slice_checkpoint(tmp_path / "family", tmp_path / "cut", member="small")
    actual = counted(tmp_path / "cut", MOE.size("top_k"))
    cache = cache_elements(family.parent, member.subnet, SPEC.batch, SPEC.length)
    actual["memory"] += 2 * (cache["kv"] + cache["conv"]) + 4 * cache["ssm"]
    actual["ratio"] = actual["params"] / parameters(MOE, MOE.full)
    asked = ASKED | {"memory": ASKED["memory"]["size"], "latency": ASKED["latency"]["ms"]}
    shares = [actual[field] / asked[field] for field in fields]
    assert all(share <= 1 for share in shares) and max(shares) > 0.9, shares
    limits = Budget(**own).limits
    assert [limit.share(family.parent, member.subnet) for limit in limits] == pytest.approx(shares, rel=1e-12)
    assert f"{fields[0]} {shares[0]:.1%}" in (tmp_path / "cut" / "README.md").read_text()
    assert f"{fields[1]} {shares[1]:.1%}" in (tmp_path / "family" / "README.md").read_text()


def test_a_budget_has_the_limits_that_it_names_and_the_parents_is_the_parent() -> None:
    budget = Budget("small", **ASKED)
    assert [limit.field for limit in budget.limits] == list(ASKED) and not budget.is_parent
    assert budget.target(MOE) == 1.0
    assert budget.cost(MOE, MOE.full) == max(limit.share(MOE, MOE.full) for limit in budget.limits) > 1
    assert Budget(name="small", **(budget.to_json() or {})) == budget
    other = pickle.loads(pickle.dumps(budget))
    assert other == budget and other.limits == budget.limits
    whole = Budget("whole")
    assert whole.is_parent and whole.limits == (RatioLimit(1.0, "elastic.budgets[whole].ratio"),)
    assert whole.cost(MOE, MOE.full) == whole.target(MOE) == parameters(MOE, MOE.full)


def test_a_limit_moves_to_another_parent_as_the_same_share() -> None:
    for limit in Budget("small", **ASKED).limits:
        half = type(limit)(limit.moved(limit.most(MOE) / 2), "half")
        assert half.most(MOE) == pytest.approx(limit.most(MOE) / (1 if isinstance(limit, RatioLimit) else 2), rel=1e-3)


@pytest.mark.parametrize(
    ("second", "refused"),
    [
        ({"params": 6000, "active_params": 3500}, None),  # one is lower, none is higher
        ({"params": 6000, "active_params": 4000}, "each"),
        ({"params": 6000}, "each"),  # without the other it is larger
    ],
)
def test_budgets_go_down_by_their_smallest_shares(second: dict[str, Any], refused: str | None) -> None:
    first = {"name": "a", "params": 6000, "active_params": 4000}
    config = ElasticConfig.from_dict(BLOCK | {"budgets": [{"name": "whole"}, first, {"name": "b", **second}]})
    if refused is None:
        assert config.targets(MOE)["b"] == 1.0
        return
    line = r"^elastic\.budgets\[b\]: '.* of the parent' .* below 'a' \(0\.\d+ and 0\.\d+\): from the largest"
    with pytest.raises(ElasticError, match=line):
        config.targets(MOE)
