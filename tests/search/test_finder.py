# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The search on losses whose optimum is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.cost import active_parameters, parameters
from nemo_elastic.errors import ElasticError
from nemo_elastic.search import Space, search, uniform_family
from nemo_elastic.search.finder import NOISE, fullest
from tests.search.common import BUDGETS, SMALL, SMALL_AXES, SMALL_DROPS, small_space, spaces
from tests.shapes import NANO_30B

ROOT = Path(__file__).parents[2]


class Toy:
    """Damage per axis and layer, as method §12 saw it: depth is cheap, Mamba heads are dear, layers differ."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.parent = space.parent
        self.calls: list = []
        place = {j: i for i, j in enumerate(space.drop_order)}
        self.worth = {j: 0.05 * 1.4 ** place[j] * rng.lognormal(0, 0.3) for j in range(space.parent.num_layers)}
        self.hidden = 4.0 * rng.lognormal(0, 0.5)

    def __call__(self, member) -> float:
        self.calls.append(member)
        parent, kept = self.parent, member.by_index
        x, y = self.hidden * (1 - member.hidden / parent.hidden) ** 1.5, 0.0
        for j, worth in self.worth.items():
            layer = kept.get(j)
            if layer is None:
                y += worth
            elif layer.type == "mlp":
                y += worth * (1 - layer.widths["ffn"] / parent.ffn) ** 2
            else:
                for axis, width in layer.widths.items():
                    y += worth * (1 if axis == "mamba_head_dim" else 3) * (1 - width / parent.size(axis))
        return x + y + 0.3 * x * y


def test_an_optimum_known_by_enumeration_is_found():
    axes = {a: SMALL_AXES[a] for a in ("hidden", "mamba_head_dim", "attention_heads", "depth")}
    axes["ffn"] = AxisConfig(SMALL_AXES["ffn"].choices)
    space = Space(SMALL, axes, SMALL_DROPS)
    loss, budget = Toy(space, 1), Budget("half", ratio=0.6)
    everything = [space.decode(c) for c in np.ndindex(*space.sizes)]
    best = min(loss(m) for m in everything if budget.cost(SMALL, m) <= budget.target(SMALL))
    result = search(space, [BUDGETS[0], budget], loss, candidates=96)
    assert result.losses["half"] <= best * 1.05


def test_the_count_of_candidates_is_the_count_of_calls_and_no_member_is_measured_twice():
    space = small_space()
    loss, report = Toy(space), []
    result = search(space, BUDGETS, loss, candidates=60, progress=lambda *a: report.append(a))
    assert len(loss.calls) == len(set(loss.calls)) == len(result.trace) == 60
    assert [t[:2] for t in report] == [(i, 60) for i in range(1, 61)]
    assert [t[2] for t in report] == result.trace
    for trial in result.trace:
        budget = next(b for b in BUDGETS if b.name == trial.budget)
        assert trial.cost == budget.cost(SMALL, trial.member)
    assert {t.origin for t in result.trace} >= {"descent", "even", "refine"}
    json.dumps(result.to_json(), allow_nan=False)


def test_the_same_seed_gives_the_same_search_and_another_seed_another():
    runs = [search(small_space(), BUDGETS, Toy(small_space()), candidates=24, seed=s) for s in (3, 3, 4)]
    assert runs[0].trace == runs[1].trace and runs[0].members == runs[1].members
    assert runs[0].trace != runs[2].trace


@pytest.mark.parametrize("candidates", [1, 2])
def test_few_candidates_still_give_nested_members_within_their_budgets(candidates):
    loss = Toy(small_space())
    result = search(small_space(), BUDGETS, loss, candidates=candidates)
    members = [result.members[b.name] for b in BUDGETS]
    assert members[2] <= members[1] <= members[0] and len(loss.calls) <= candidates
    assert all(b.cost(SMALL, m) <= b.target(SMALL) for b, m in zip(BUDGETS, members))


def cell(member) -> tuple:
    """What candidates that are kept beside each other differ in."""
    return member.hidden, len(member.layers), *member.widths("experts")


@settings(max_examples=10)
@given(space=spaces(), seed=st.integers(0, 9), keep=st.integers(1, 8))
def test_what_is_kept_differs_uses_its_budget_and_is_nested(space, seed, keep):
    price = space.price(Budget("full"))
    least = price(space.smallest)
    targets = {"a": least + 0.7 * (price.whole - least), "b": least + 0.3 * (price.whole - least)}
    budgets = [Budget("full"), *(Budget(name, params=target) for name, target in targets.items())]
    rng = np.random.default_rng(seed)
    result = search(space, budgets, lambda m: float(rng.random()), candidates=24, seed=seed, keep=keep)
    assert result.kept["full"] == [space.full]
    for budget in budgets[1:]:
        first, *others = own = result.kept[budget.name]
        assert first == result.members[budget.name] and len(own) <= keep
        assert len({cell(m) for m in own}) == len(own)
        used = [budget.cost(space.parent, m) / budget.target(space.parent) for m in others]
        assert all(0.95 - 1e-9 <= share <= 1 for share in used)
        known = {t.member: t.loss for t in result.trace}
        assert all(known[m] + NOISE <= 2 * (known[first] + NOISE) + 1e-9 for m in others)
    assert all(any(small <= large for large in result.kept["a"]) for small in result.kept["b"])
    assert all(any(small <= large for small in result.kept["b"]) for large in result.kept["a"])


def test_losses_that_are_not_finite_are_avoided():
    space = small_space()
    loss = Toy(space)

    def broken(member):
        return math.nan if member.hidden < 128 else loss(member)

    result = search(space, BUDGETS[:2], broken, candidates=60, keep=4)
    assert result.members["large"].hidden == 128 and math.isfinite(result.losses["large"])
    assert {m.hidden for m in result.kept["large"]} == {128}


def test_members_are_chosen_together():
    """The large member's own best would ruin the small one: the chain with the smallest product of losses wins."""
    axes = {"hidden": AxisConfig((128, 64)), "ffn": AxisConfig((512, 128)), "depth": AxisConfig((12, 6))}
    space = Space(SMALL, axes, SMALL_DROPS)
    thin = Budget("full").cost(SMALL, SMALL.uniform(keep=SMALL_DROPS[6:], ffn=128))
    budgets = [Budget("full"), Budget("large", ratio=0.72), Budget("small", params=thin)]

    def loss(member):
        depth, ffn = len(member.layers), member.widths("ffn")[0]
        if member.hidden == 64:  # tempting for the large budget, hopeless for the small one
            return 0.9 if (depth, ffn) == (12, 512) else 50.0
        return {(12, 512): 0.0, (12, 128): 1.0, (6, 512): 1.0, (6, 128): 2.0}[depth, ffn]

    everything = [space.decode(c) for c in np.ndindex(*space.sizes)]
    large, small = ([m for m in everything if b.cost(SMALL, m) <= b.target(SMALL)] for b in budgets[1:])
    tempting = min(large, key=loss)
    assert tempting.hidden == 64 and loss(tempting) == 0.9
    best = min((loss(a) + NOISE) * (loss(b) + NOISE) for a in large for b in small if b <= a)
    result = search(space, budgets, loss, candidates=24)
    assert (result.losses["large"] + NOISE) * (result.losses["small"] + NOISE) == pytest.approx(best)
    assert result.members["large"].hidden == 128


def test_where_few_members_lie_near_all_limits_they_are_all_measured():
    """The 30B's: of 4,320 members those count to which nothing can be added, and the best chain of them is found."""
    config = ElasticConfig.load(ROOT / "conf" / "elastic_30b_a3b.yaml")
    parent = config.parent_shape(NANO_30B)
    space = Space(parent, config.resolve_axes(parent))
    rng = np.random.default_rng(2)
    worth = {s.axis: rng.lognormal(0, 0.7) for s in space.slots}

    def loss(member) -> float:
        code = space.encode(member)
        return sum(w * (1 - space.shares[i, code[i]]) ** 1.5 for i, w in enumerate(worth.values()))

    counts = {}
    for code in np.ndindex(*space.sizes):
        member = space.decode(code)
        counts[code] = parameters(parent, member), active_parameters(parent, member)
    asked = [(b.params, b.active_params) for b in config.budgets[1:]]
    within = [{c for c, (n, m) in counts.items() if n <= params and m <= active} for params, active in asked]

    def added(code) -> list:
        return [(*code[:i], c - 1, *code[i + 1 :]) for i, c in enumerate(code) if c]

    full = [{c for c in own if not own.intersection(added(c))} for own in within]
    assert [{tuple(c) for c in fullest(space, b).tolist()} for b in config.budgets[1:]] == full
    result = search(space, config.budgets, loss, candidates=256)
    assert {t.origin for t in result.trace} == {"all"} and len(result.trace) == len(full[0] | full[1]) < 100
    assert {space.encode(t.member) for t in result.trace} == full[0] | full[1]
    losses = {c: loss(space.decode(c)) + NOISE for c in full[0] | within[1]}
    nested = ((a, b) for a in full[0] for b in within[1] if all(x <= y for x, y in zip(a, b, strict=True)))
    best = min(losses[a] * losses[b] for a, b in nested)
    assert (result.losses["23b"] + NOISE) * (result.losses["12b"] + NOISE) == pytest.approx(best)
    # with fewer candidates than there are such members they are sampled, as in any space
    few = search(space, config.budgets, loss, candidates=40)
    assert {t.origin for t in few.trace} - {"all"} and len(few.trace) <= 40
    for budget in config.budgets[1:]:
        assert space.price(budget)(few.members[budget.name]) <= 1


def test_the_search_keeps_several_limits_in_a_space_too_large_to_look_at():
    space = small_space()
    size = int(0.55 * Budget("x", memory={"size": 1, "batch": 8, "length": 4096}).cost(SMALL, SMALL.full))
    served = {"size": size, "batch": 8, "length": 4096}
    budgets = [Budget("full"), Budget("large", ratio=0.8, memory={**served, "size": size * 3 // 2}),
               Budget("small", ratio=0.6, memory=served)]  # fmt: skip
    assert fullest(space, budgets[1]) is None
    loss = Toy(space, 0)
    result = search(space, budgets, loss, candidates=64)
    even = uniform_family(space, budgets)
    assert result.members["small"] <= result.members["large"]
    for budget in budgets[1:]:
        shares = [limit.share(SMALL, result.members[budget.name]) for limit in budget.limits]
        assert 0.9 < max(shares) <= 1
        assert result.losses[budget.name] < loss(even[budget.name])


def test_bad_requests_are_reported_before_anything_is_measured():
    space = small_space()
    loss = Toy(space)
    with pytest.raises(ElasticError, match="nearest cost"):
        search(space, [*BUDGETS, Budget("none", ratio=0.01)], loss)
    with pytest.raises(ElasticError, match=r"elastic\.budgets\[large\].*below 0\.5"):
        search(space, [BUDGETS[0], BUDGETS[2], BUDGETS[1]], loss)
    with pytest.raises(ElasticError, match="candidates"):
        search(space, BUDGETS, loss, candidates=0)
    assert loss.calls == []
