# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The search on losses whose optimum is known."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.cost import active_parameters, parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.plan import preset
from nemo_elastic.search import Space, search, uniform_family
from nemo_elastic.search import fullest as module
from nemo_elastic.search.chains import through
from nemo_elastic.search.fullest import fullest, fullest_chains
from nemo_elastic.search.measured import NOISE
from tests.search.common import BUDGETS, SMALL, SMALL_AXES, SMALL_DROPS, small_space
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


def flat_space(seed: int = 0) -> Space:
    """One width per axis: few enough to try every chain. Another order of layers by seed."""
    flat = {axis: AxisConfig(config.choices) for axis, config in SMALL_AXES.items()}
    return Space(SMALL, flat, np.random.default_rng(seed).permutation(12).tolist())


class Table:
    """A made-up loss by choice of each axis, larger for smaller widths; some cost more together."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.space, self.calls = space, list[Subnet]()
        self.steps = [np.cumsum([0, *rng.lognormal(-1, 1, n - 1)]) for n in space.sizes]
        self.together = rng.uniform(0, 0.5)

    def __call__(self, member: Subnet) -> float:
        self.calls.append(member)
        code = self.space.encode(member)
        own = np.array([steps[i] for steps, i in zip(self.steps, code, strict=True)])
        return float(own.sum() + self.together * (own.sum() ** 2 - (own**2).sum()))


def best_of_all_chains(space: Space, budgets: list[Budget], loss: Table) -> float:
    """The smallest product of losses of all nested chains that there are."""
    codes = np.array(list(np.ndindex(*space.sizes)))
    members = [space.decode(code) for code in codes]
    losses = np.log([loss(member) + NOISE for member in members])
    fits = [np.array([b.cost(SMALL, m) <= b.target(SMALL) for m in members]) for b in budgets]
    chains = np.where(fits[0], losses, np.inf)
    for own in fits[1:]:
        holds = ((codes <= code).all(axis=1) for code in codes)
        chains = np.where(own, losses + [np.min(chains[outer], initial=np.inf) for outer in holds], np.inf)
    return float(chains.min())


def served(share: float) -> dict[str, int]:
    """A limit on memory where the cache of long contexts is a large part."""
    own = {"batch": 32, "length": 1024}
    return {"size": int(share * Budget("x", memory={"size": 1, **own}).cost(SMALL, SMALL.full)), **own}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "budgets",
    [
        [Budget("half", ratio=0.6)],
        [Budget("large", ratio=0.72), Budget("small", ratio=0.5)],
        [Budget("large", ratio=0.8), Budget("middle", ratio=0.65), Budget("small", ratio=0.5)],
        [Budget("large", ratio=0.75, memory=served(0.8)), Budget("small", ratio=0.6, memory=served(0.7))],
        [Budget("large", memory=served(0.7)), Budget("small", ratio=0.6)],  # lacks a limit of the larger
    ],
    ids=["one", "two", "three", "several limits", "a limit less"],
)
def test_the_best_chain_of_all_is_found_with_few_candidates(budgets: list[Budget], seed: int) -> None:
    space = flat_space(seed)
    loss = Table(space, seed)
    wanted = best_of_all_chains(space, budgets, loss)
    loss.calls.clear()
    result = search(space, [Budget("full"), *budgets], loss)
    members = [result.members[b.name] for b in budgets]
    assert all(b.cost(SMALL, m) <= b.target(SMALL) for b, m in zip(budgets, members, strict=True))
    assert all(small <= large for large, small in itertools.pairwise(members))
    assert sum(math.log(result.losses[b.name] + NOISE) for b in budgets) == pytest.approx(wanted)
    assert len(loss.calls) == len(set(loss.calls)) == len(result.trace) < 200 < space.sizes.prod()


#: of each block, its parent and how many candidates the search measures at most
MEASURED = {
    "elastic_12b": (preset("nemotron-nano-12b-v2"), 66),
    "elastic_9b": (preset("nemotron-nano-9b-v2"), 71),
    "elastic_8b": (preset("nemotron-h-8b"), 31),
    "elastic_4b": (preset("nemotron-3-nano-4b"), 42),
    "elastic_30b_a3b": (NANO_30B, 33),
    "elastic_tiny": (preset("nemotron-h-tiny"), 96),
}


@pytest.mark.parametrize("name", MEASURED)
def test_the_blocks_need_few_of_their_candidates(name: str) -> None:
    """Of the demo's 388 fullest members and the 39 to 105 of the others, those that can be in the best chain."""
    config, (parent, most) = ElasticConfig.load(ROOT / "conf" / f"{name}.yaml"), MEASURED[name]
    parent = config.parent_shape(parent)
    order = np.random.default_rng(1).permutation(parent.num_layers).tolist()
    space, budgets = Space(parent, config.resolve_axes(parent), order), config.budgets[1:]
    codes = fullest_chains(space, budgets)
    assert codes is not None
    misses = [space.price(b).miss(space.price(b).codes(codes)) <= 0 for b in budgets]
    for seed in range(3):
        loss = Table(space, seed)
        found = search(space, config.budgets, loss, config.search.candidates)
        assert len(found.trace) <= most
        scores = np.log([loss(space.decode(code)) + NOISE for code in codes])
        chains = through(np.where(misses, scores, np.inf), np.stack([space.nested(codes, code) for code in codes]))
        assert sum(math.log(found.losses[b.name] + NOISE) for b in budgets) == pytest.approx(chains.min())
        assert len(found.trace) < len(codes) + len(budgets)


@pytest.mark.parametrize("candidates", [40, 128])
@pytest.mark.parametrize("seed", range(2))
def test_layers_with_widths_of_their_own_end_below_the_best_members_without(seed: int, candidates: int) -> None:
    space = small_space()
    loss, report = Toy(space, seed), []
    result = search(space, BUDGETS, loss, candidates=candidates, progress=lambda *a: report.append(a))
    assert len(loss.calls) == len(set(loss.calls)) == len(result.trace) <= candidates
    assert report == [(i, candidates, trial) for i, trial in enumerate(result.trace, 1)]
    for trial in result.trace:
        budget = next(b for b in BUDGETS if b.name == trial.budget)
        assert trial.cost == budget.cost(SMALL, trial.member)
    assert [t.origin for t in result.trace[:2]] == ["even", "even"] and {t.origin for t in result.trace} >= {"varied"}
    flat = [t.loss for t in result.trace if t.origin != "varied" and t.budget == "small"]
    assert result.losses["small"] < min(flat)
    assert not all(member.is_uniform for member in result.members.values())
    json.dumps(result.to_json(), allow_nan=False)


def test_the_same_seed_gives_the_same_search_and_another_seed_another():
    runs = [search(small_space(), BUDGETS, Toy(small_space()), candidates=40, seed=s) for s in (3, 3, 4)]
    assert runs[0].trace == runs[1].trace and runs[0].members == runs[1].members
    assert runs[0].trace != runs[2].trace


@pytest.mark.parametrize("candidates", [1, 2])
def test_few_candidates_still_give_nested_members_within_their_budgets(candidates):
    loss = Toy(small_space())
    result = search(small_space(), BUDGETS, loss, candidates=candidates)
    assert result.members == uniform_family(small_space(), BUDGETS) and len(loss.calls) == candidates
    assert math.isnan(result.losses["small"]) == (candidates == 1)


def test_losses_that_are_not_finite_are_avoided():
    space = small_space()
    loss = Toy(space)

    def broken(member):
        return math.nan if member.hidden < 128 else loss(member)

    result = search(space, BUDGETS[:2], broken, candidates=60)
    assert result.members["large"].hidden == 128 and math.isfinite(result.losses["large"])


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


def test_fullest_members_are_those_to_which_nothing_can_be_added() -> None:
    config = ElasticConfig.load(ROOT / "conf" / "elastic_30b_a3b.yaml")
    parent = config.parent_shape(NANO_30B)
    space = Space(parent, config.resolve_axes(parent))
    outer = (1, 1, 0, 0)
    for budget in config.budgets[1:]:
        within = {
            code
            for code in np.ndindex(*space.sizes)
            if all(i >= o for i, o in zip(code, outer, strict=True))
            and parameters(parent, space.decode(code)) <= budget.params
            and active_parameters(parent, space.decode(code)) <= budget.active_params
        }
        full = {c for c in within if not within & {(*c[:i], k - 1, *c[i + 1 :]) for i, k in enumerate(c)}}
        assert {tuple(code) for code in fullest(space, budget, outer).tolist()} == full


def test_the_search_keeps_several_limits_in_a_space_too_large_to_look_at(monkeypatch):
    space = small_space()
    large, small = (Budget("large", ratio=0.8, memory=served(0.9)), Budget("small", ratio=0.6, memory=served(0.55)))
    budgets = [Budget("full"), large, small]
    monkeypatch.setattr(module, "COUNTED", 10)
    assert fullest(space, large, (0,) * len(space.slots)) is None
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
