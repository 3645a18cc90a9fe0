# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The router's numbers: probabilities, noise, gates, cost, schedule, precision, saving."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.config.sections import RouterConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.kinds.registry import AXES, DEPTH
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.gates import Gates
from nemo_elastic.router import Router
from tests.search.common import BUDGETS, NANO, codes, nano_space, small_space, spaces
from tests.support.expected import expected_member

some = settings(max_examples=40)


def router_of(space=None, budgets=BUDGETS, seed=0, **config) -> Router:
    return Router(space or small_space(), budgets, RouterConfig(**config), seed)


def one_hot(space, code) -> dict[str, torch.Tensor]:
    """Probabilities that choose a code."""
    out = {axis: torch.ones(1, 1) for axis in space.choices}
    for axis in space.choices:
        slots = space.positions(axis)
        if slots:
            picked = torch.tensor([code[s] for s in slots])
            out[axis] = torch.nn.functional.one_hot(picked, len(space.choices[axis])).float()
    return out


def decided(router: Router, code, monkeypatch) -> None:
    monkeypatch.setattr(router, "probabilities", lambda *a, **k: one_hot(router.space, code))


def assert_same_gates(a: Gates, b: Gates) -> None:
    assert torch.equal(a.hidden, b.hidden)
    for x, y in zip(a.layers, b.layers, strict=True):
        assert torch.equal(x.keep, y.keep) and x.widths.keys() == y.widths.keys()
        if x.keep:  # the widths of a layer that is not kept multiply nothing
            assert all(torch.equal(gate, y[axis]) for axis, gate in x.widths.items())


@some
@given(data=st.data(), space=spaces(), hard=st.booleans())
def test_decided_probabilities_give_exactly_the_members_gates(data, space, hard):
    """Soft at one-hot probabilities is the masked-hard model, bit for bit."""
    code = data.draw(codes(space))
    router = router_of(space, (Budget("full"),))
    with pytest.MonkeyPatch.context() as patch:
        decided(router, code, patch)
        routed = router.gates("full", hard=hard)
    member = space.decode(code)
    assert routed.choice == member
    assert_same_gates(routed.gates, Gates.of(space.parent, member))


@some
@given(space=spaces(), seed=st.integers(0, 9), step=st.integers(0, 5))
def test_pitfall_5_hard_gates_are_zeros_and_ones_however_undecided_the_router_is(space, seed, step):
    """Public code multiplied by a probability at every site of a choice (p^k); a hard value must be the submodel's."""
    router = router_of(space, (Budget("full"), Budget("any", params=space.price(Budget("x"))(space.smallest))), seed)
    routed = router.gates("any", tau=1.0, scale=1.0, noise=(step, 0), hard=True)
    assert_same_gates(routed.gates, Gates.of(space.parent, routed.choice))


@some
@given(space=spaces(), seed=st.integers(0, 9))
def test_gates_are_the_probability_that_a_channel_is_kept(space, seed):
    router = router_of(space, (Budget("full"),), seed)
    routed = router.gates("full", tau=0.7, noise=(0, seed), hard=False)
    pi, parent = routed.probabilities, space.parent
    member = expected_member(space, pi)
    for i, axis in ((i, axis) for i, kind in enumerate(parent.types) for axis in parent.kind(kind).widths):
        gate = routed.gates.layers[i][axis]
        row = pi[axis][space.layers_of(axis).index(i) if len(pi[axis]) > 1 else 0]
        prefix = parent.axis(axis)
        kept_by = torch.zeros(prefix.size)
        for p, width in zip(row, space.choices[axis], strict=True):
            kept_by[torch.from_numpy(prefix.grid(width).indices())] += p.detach()
        torch.testing.assert_close(gate.detach(), kept_by)
        # ones exactly on what every choice keeps
        assert torch.all(gate[torch.from_numpy(prefix.grid(space.choices[axis][-1]).indices())] == 1)
        expected = member.layers[i].widths[axis]
        assert float(gate.detach().sum()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(routed.gates.hidden.detach().sum()) == pytest.approx(float(member.hidden.detach()), rel=1e-5)


def test_a_layers_gate_is_the_probability_that_the_depth_keeps_it():
    """Pitfall 6: depth reached only the loss, never the forward."""
    space = small_space()
    router = router_of(space)
    routed = router.gates("small", noise=(0, 0), hard=False)
    pi, member = routed.probabilities[DEPTH][0], expected_member(space, routed.probabilities)
    for place, layer in enumerate(space.whole_drop_order):
        kept = sum(p for p, k in zip(pi, space.choices[DEPTH], strict=True) if 12 - k <= place)
        assert float(routed.gates.layers[layer].keep) == pytest.approx(float(kept), abs=1e-6)
        assert float(member.layers[layer].keep) == pytest.approx(float(kept), abs=1e-6)
    gradient = torch.autograd.grad(routed.gates.layers[5].keep, router.up[DEPTH])[0]
    assert gradient.abs().sum() > 0


@some
@given(data=st.data(), space=spaces())
def test_pitfall_8_the_expected_cost_of_a_decided_choice_is_its_exact_count(data, space):
    code = data.draw(codes(space))
    parent = space.parent
    served = int(Budget("x", memory={"size": 1, "batch": 2}).cost(parent, parent.full))
    budgets = (
        Budget("full"),
        Budget("some", params=space.price(Budget("full")).whole),
        Budget("served", memory={"size": served, "batch": 2}),
    )
    router = router_of(space, budgets)
    for budget in budgets[1:]:
        exact = budget.cost(parent, space.decode(code))
        share = router.expected_cost(one_hot(space, code), budget.name)
        assert float(share) == pytest.approx(exact / budget.target(parent), rel=1e-12)


def test_pitfall_3_every_step_micro_batch_budget_and_axis_has_its_own_noise_and_all_ranks_the_same():
    """Public code re-seeded per axis, so that all axes sampled the same noise."""
    router, other_rank, other_seed = router_of(), router_of(), router_of(seed=1)
    places = list(itertools.product(range(2), range(1, 3), range(len(AXES))))  # micro-batch, budget, axis
    flat = np.array([[router.gumbel((step, *at), (1,)).item() for at in places] for step in range(1000)])
    assert len(np.unique(flat.round(12))) == flat.size
    assert np.abs(np.corrcoef(flat.T) - np.eye(len(places))).max() < 0.2
    assert flat.mean() == pytest.approx(0.5772, abs=0.05) and flat.std() == pytest.approx(1.2825, abs=0.05)
    first, same, other = (each.gumbel((0, 0, 0, 0), (4,)) for each in (router, other_rank, other_seed))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_noise_leaves_torchs_and_numpys_generators_alone():
    """A forward that recomputes activations, or another library, must not see other numbers."""
    router = router_of()
    torch.manual_seed(0), np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    router.gates("small", noise=(3, 1))
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])


def test_pitfall_11_choosing_has_no_noise_and_is_the_same_in_every_mode_and_step():
    """Public code kept the noise in evaluation: another network for every decoded token."""
    router = router_of()
    first = router.choose("small")
    state = torch.get_rng_state()
    for mode in (router.train, router.eval):
        mode()
        router.gates("small", noise=(1, 2))
        assert router.choose("small") == router.choose(2) == first
    assert torch.equal(torch.get_rng_state(), state)
    quiet = router.gates("small", tau=0.3, scale=4.0, noise=None)
    assert quiet.choice == first  # temperature and scale do not move the argmax
    assert router.choose("full") == router.space.full


def test_probabilities_are_the_formula():
    """softmax((logits x scale + g) / tau), the logits from two bias-free layers around a LeakyReLU(0.1)."""
    router = router_of()
    for axis in router.axes:
        row = router.down[axis][2]
        z = torch.where(row > 0, row, 0.1 * row) @ router.up[axis]
        g = router.gumbel((7, 3, 2, AXES.index(axis)), router._shape(axis)).float()
        expected = ((z.view(g.shape) * 4.0 + g) / 0.3).softmax(-1)
        torch.testing.assert_close(router.probabilities("small", 0.3, 4.0, noise=(7, 3))[axis], expected)


def test_hard_gates_have_the_gradient_of_soft_ones_on_dropped_channels_too():
    """A router that only hears of what was computed learns nothing about what it cut off (method §12)."""
    router = router_of()
    grads = []
    for hard in (False, True):
        gates = router.gates("small", noise=(0, 0), hard=hard).gates
        weights = torch.arange(1.0, 129.0)  # no two channels count alike
        total = (gates.hidden * weights).sum()
        for i, x in enumerate(gates.layers):
            total = total + x.keep * i + sum(gate.sum() for gate in x.widths.values())
        grads.append(torch.autograd.grad(total, list(router.parameters()), allow_unused=True))
    for soft, hard in zip(*grads):
        assert (soft is None) == (hard is None)
        assert soft is None or torch.equal(soft, hard)


def test_schedules_are_linear_until_the_freeze():
    router = router_of(tau=(1.0, 0.05), scale=(1.0, 10.0), freeze_at=0.5)
    assert router.schedule(0.0) == (1.0, 1.0)
    assert router.schedule(0.25) == pytest.approx((0.525, 5.5))
    assert router.schedule(0.5) == router.schedule(1.0) == pytest.approx((0.05, 10.0))
    assert router_of(freeze_at=0.0).schedule(0.0) == pytest.approx((0.05, 10.0))


def test_frozen_members_are_nested_and_within_their_budgets():
    space = nano_space()
    for seed in range(2):
        family = router_of(space, NANO.budgets, seed=seed, init_std=1.0).family()
        assert family["6b"].member <= family["9b"].member <= family["12b"].member == space.full
        assert all(-0.01 < p.miss <= 0 for p in family.values())
        assert family["9b"].raw == router_of(space, NANO.budgets, seed=seed, init_std=1.0).choose("9b")


def test_entropy_tells_decided_from_undecided():
    space = small_space()
    assert all(float(h) == 0 for h in Router.entropy(one_hot(space, space.sizes - 1)).values())
    flat = {a: torch.full_like(p, 1 / p.shape[-1]) for a, p in one_hot(space, space.sizes - 1).items()}
    flat["rigid"] = torch.ones(1, 1)
    assert set(Router.entropy(flat)) == set(router_of(space).axes)
    assert all(float(h) == pytest.approx(1) for h in Router.entropy(flat).values())


def test_a_router_inside_a_half_precision_model_stays_in_single():
    model = torch.nn.ModuleDict({"router": router_of(), "linear": torch.nn.Linear(2, 2)})
    before = {k: v.clone() for k, v in model["router"].state_dict().items()}
    model.half().to(torch.bfloat16)
    assert model["linear"].weight.dtype != torch.float32
    for name, value in model["router"].state_dict().items():
        assert value.dtype == before[name].dtype and torch.equal(value, before[name])
    assert model["router"].gates("small", noise=(0, 0)).gates.hidden.dtype == torch.float32
    assert model["router"].double().gates("small").gates.hidden.dtype == torch.float64


def test_a_saved_router_comes_back_with_its_weights_and_its_drop_order():
    """A run that resumes builds its router before it knows the ranking."""
    space = small_space()
    router = router_of(space)
    fresh = router_of(space.reordered(range(12)), seed=7)
    assert fresh.choose("small") != router.choose("small")
    fresh.load_state_dict(router.state_dict())
    assert fresh.space.whole_drop_order == space.whole_drop_order
    fresh.seed = router.seed
    a, b = (r.gates("small", 0.5, 2.0, noise=(4, 1)) for r in (router, fresh))
    assert a.choice == b.choice
    assert_same_gates(a.gates, b.gates)
    with pytest.raises(ValueError, match="drop order only"):
        router.space = small_space(hidden=AxisConfig((128, 64)))
    assert copy.deepcopy(router).choose("small") == router.choose("small")


def test_the_same_seed_gives_the_same_router():
    one, two, other = router_of(seed=1), router_of(seed=1), router_of(seed=2)
    for (name, a), b, c in zip(one.named_parameters(), two.parameters(), other.parameters()):
        assert torch.equal(a, b) and not torch.equal(a, c), name
    assert float(torch.cat([p.flatten() for p in one.parameters()]).std()) == pytest.approx(0.1, rel=0.05)


def test_budgets_that_cannot_be_met_are_reported_at_once():
    with pytest.raises(ElasticError, match="nearest cost that the axes reach"):
        router_of(budgets=(*BUDGETS, Budget("none", ratio=0.01)))
    with pytest.raises(ElasticError, match="budget: 5 is not allowed"):
        router_of().choose(5)
