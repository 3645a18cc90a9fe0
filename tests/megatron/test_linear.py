# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Experts as one autograd Function against the same steps taken one by one."""

from __future__ import annotations

import pytest
import torch

from nemo_elastic.core.prefix import Grid, Selection

pytestmark = pytest.mark.nemo
#: of 8 neurons six, as one stripe and as two; of 5 channels of tokens four
NEURONS = {"all": None, "first": Selection((Grid((8,), (6,)),)), "striped": Selection((Grid((2, 4), (2, 3)),))}
WIDTH = Selection((Grid((5,), (4,)),))
COUNTS = (3, 0, 4, 1)


def by_steps(
    x: torch.Tensor,
    weight: torch.Tensor,
    up: list[torch.Tensor],
    down: list[torch.Tensor],
    gate: torch.Tensor | None,
    neurons: Selection | None,
    width: Selection | None,
) -> torch.Tensor:
    """Each expert's tokens by plain operations, whose gradients are autograd's."""
    out = []
    for own, each, u, d in zip(x.split(COUNTS), weight.split(COUNTS), up, down, strict=True):
        if neurons is not None:
            u, d = neurons.take(u, 0), neurons.take(d, 1)
        if width is not None:
            u, d = width.take(u, 1), width.take(d, 0)
        h = torch.relu(own @ u.t()).square()
        h = h if gate is None else h * gate
        out.append((h * each[:, None]) @ d.t())
    return torch.cat(out)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("kept", NEURONS)
@pytest.mark.parametrize("width", [None, WIDTH], ids=["whole", "cut"])
def test_outputs_and_gradients(kept: str, width: Selection | None, gated: bool) -> None:
    from nemo_elastic.megatron.linear import experts

    neurons, random = NEURONS[kept], torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()

    x, weight = leaf(sum(COUNTS), 5 if width is None else 4), leaf(sum(COUNTS))
    up, down = ([leaf(*shape) for _ in COUNTS] for shape in ((8, 5), (5, 8)))
    gate = leaf(8 if neurons is None else 6) if gated else None
    leaves = [x, weight, *up, *down, *([] if gate is None else [gate])]
    actual, seen = experts(x, weight, COUNTS, up, down, gate, neurons, width)
    wanted = by_steps(x, weight, up, down, gate, neurons, width)
    torch.testing.assert_close(actual, wanted)
    assert not seen.requires_grad and seen.shape == (sum(COUNTS), 8 if neurons is None else 6)
    ours, theirs = (torch.autograd.grad(y.sin().sum(), leaves, allow_unused=True) for y in (actual, wanted))
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if i in (3, 7):  # an expert that no token went to
            assert a is None and not b.any()
        else:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # the gate's sum over experts is in float32


def test_what_is_frozen_gets_no_gradient_and_keeps_it_from_nothing_else() -> None:
    from nemo_elastic.megatron.linear import experts

    x, weight = torch.randn(8, 5), torch.rand(8, requires_grad=True)
    up, down = [torch.randn(8, 5) for _ in COUNTS], [torch.randn(5, 8, requires_grad=True) for _ in COUNTS]
    experts(x, weight, COUNTS, up, down)[0].sum().backward()
    assert weight.grad is not None and weight.grad.any()
    assert [d.grad is None for d in down] == [False, True, False, False] and all(u.grad is None for u in up)


def test_ranks_without_tokens_pass_gradients_of_none_on() -> None:
    """The dispatcher's collectives, and those of gates, go backward on every rank."""
    from nemo_elastic.megatron.linear import experts

    x, weight, gate = (
        torch.randn(0, 5).requires_grad_(),
        torch.rand(0).requires_grad_(),
        torch.ones(8).requires_grad_(),
    )
    up, down = [torch.randn(8, 5, requires_grad=True)] * 2, [torch.randn(5, 8, requires_grad=True)] * 2
    out, _ = experts(x, weight, (0, 0), up, down, gate)
    out.sum().backward()
    assert x.grad is not None and x.grad.shape == (0, 5) and weight.grad is not None
    assert gate.grad is not None and not gate.grad.any()
    assert up[0].grad is None and down[0].grad is None


@pytest.mark.parametrize("kept", NEURONS)
def test_gradients_are_added_where_the_slice_lies_in_the_buffer(kept: str) -> None:
    from nemo_elastic.megatron.linear import experts

    neurons = NEURONS[kept]
    x, weight = torch.randn(8, 4), torch.rand(8)
    up, down = ([torch.nn.Parameter(torch.randn(shape)) for _ in COUNTS] for shape in ((8, 5), (5, 8)))
    plain = [torch.nn.Parameter(w.detach().clone()) for w in (*up, *down)]
    for w in (*up, *down):
        w.main_grad, w.grad_added_to_main_grad = torch.ones_like(w), False  # type: ignore[attr-defined]
    experts(x, weight, COUNTS, up, down, None, neurons, WIDTH)[0].square().sum().backward()
    experts(x, weight, COUNTS, plain[:4], plain[4:], None, neurons, WIDTH)[0].square().sum().backward()
    for i, (w, wanted) in enumerate(zip((*up, *down), plain, strict=True)):
        assert w.grad_added_to_main_grad is (i not in (1, 5))  # type: ignore[attr-defined]
        added = torch.zeros_like(w) if wanted.grad is None else wanted.grad
        torch.testing.assert_close(w.main_grad, 1 + added, rtol=1e-4, atol=1e-4)  # type: ignore[attr-defined]


def test_one_activation_of_each_neuron_is_kept() -> None:
    from nemo_elastic.megatron.linear import experts

    x, weight = torch.randn(8, 5).requires_grad_(), torch.rand(8, requires_grad=True)
    up, down = ([torch.randn(shape, requires_grad=True) for _ in COUNTS] for shape in ((8, 5), (5, 8)))
    own = {id(t) for t in (x, weight, *up, *down)}
    kept = []

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept.extend([] if id(t) in own else [tuple(t.shape)])
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        experts(x, weight, COUNTS, up, down)
    assert kept == [(8, 8)]
