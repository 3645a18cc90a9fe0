# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Experts as one autograd Function against the same steps one by one; grouped products against the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from nemo_elastic.core.prefix import Grid, Selection
from tests.shapes import MOE

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
    from nemo_elastic.megatron.experts import experts

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
    from nemo_elastic.megatron.experts import experts

    x, weight = torch.randn(8, 5), torch.rand(8, requires_grad=True)
    up, down = [torch.randn(8, 5) for _ in COUNTS], [torch.randn(5, 8, requires_grad=True) for _ in COUNTS]
    experts(x, weight, COUNTS, up, down)[0].sum().backward()
    assert weight.grad is not None and weight.grad.any()
    assert [d.grad is None for d in down] == [False, True, False, False] and all(u.grad is None for u in up)


def test_ranks_without_tokens_pass_gradients_of_none_on() -> None:
    """The dispatcher's collectives, and those of gates, go backward on every rank."""
    from nemo_elastic.megatron.experts import experts

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
    from nemo_elastic.megatron.experts import experts

    neurons = NEURONS[kept]
    x, weight = torch.randn(8, 4), torch.rand(8)
    up, down = ([torch.nn.Parameter(torch.randn(shape)) for _ in COUNTS] for shape in ((8, 5), (5, 8)))
    plain = [torch.nn.Parameter(w.detach().clone()) for w in (*up, *down)]
    for w in (*up, *down):
        w.main_grad, w.grad_added_to_main_grad = torch.ones_like(w), False  # type: ignore[attr-defined]
    experts(x, weight, COUNTS, up, down, None, neurons, WIDTH)[0].square().sum().backward()
    experts(x, weight, COUNTS, plain[:4], plain[4:], None, neurons, WIDTH)[0].square().sum().backward()
    for i, (w, wanted) in enumerate(zip((*up, *down), plain, strict=True)):
        assert w.grad_added_to_main_grad  # type: ignore[attr-defined]
        assert (wanted.grad is None) is (i in (1, 5)), "an expert that no token went to reports all the same"
        added = torch.zeros_like(w) if wanted.grad is None else wanted.grad
        torch.testing.assert_close(w.main_grad, 1 + added, rtol=1e-4, atol=1e-4)  # type: ignore[attr-defined]


class Case:
    """Four experts of 32 neurons on tokens of 24 channels, evenly spaced in one buffer, as float32 or bfloat16.

    Args:
        counts: tokens of each.
        neurons, width: how many are kept.
        blocks: of neurons, of which a prefix each is kept.
        buffers: whether data parallelism keeps gradients.
    """

    def __init__(
        self,
        counts: tuple[int, ...],
        neurons: int = 32,
        width: int = 24,
        blocks: int = 1,
        dtype: torch.dtype = torch.float32,
        gated: bool = False,
        buffers: bool = False,
    ) -> None:
        from nemo_elastic.megatron.experts import pack

        random = torch.Generator().manual_seed(0)

        def made(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
            return torch.randn(shape, generator=random).to(dtype)

        self.counts, self.buffers = counts, buffers
        self.neurons = (
            None if neurons == 32 else Selection((Grid((blocks, 32 // blocks), (blocks, neurons // blocks)),))
        )
        self.width = None if width == 24 else Selection((Grid((24,), (width,)),))
        self.up, self.down = ([torch.nn.Parameter(made(*shape)) for _ in counts] for shape in ((32, 24), (24, 32)))
        for own in (self.up, self.down):
            pack(own)
            for param, kept in zip(own, torch.ones(len(own), *own[0].shape).unbind(0), strict=True):
                if buffers:
                    param.main_grad, param.grad_added_to_main_grad = kept, False  # type: ignore[attr-defined]
        self.leaves = [made(sum(counts), width), made(sum(counts), dtype=torch.float32)]
        self.leaves += [made(neurons)] if gated else []
        for leaf in self.leaves:
            leaf.requires_grad_()
        self.dy = made(sum(counts), width)

    def run(self) -> list[torch.Tensor | None]:
        """What comes out, and all gradients."""
        from nemo_elastic.megatron.experts import experts

        x, weight, *gate = self.leaves
        y, relu = experts(
            x, weight, self.counts, self.up, self.down, gate[0] if gate else None, self.neurons, self.width
        )
        params = [*self.up, *self.down]
        grads = torch.autograd.grad(y, [*self.leaves, *params], self.dy, allow_unused=True)
        if self.buffers:
            grads = grads[: len(self.leaves)] + tuple(p.main_grad.clone() for p in params)  # type: ignore[attr-defined]
            for p in params:
                p.main_grad.fill_(1)  # type: ignore[attr-defined]
        return [y.detach(), relu, *grads]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each grouped product."""
    from nemo_elastic.megatron import experts as module

    made, real = [], module.GROUPED
    if real is None:
        pytest.skip("torch has no grouped_mm")

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        made.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "GROUPED", counted)
    return made


def is_the_loops(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_elastic.megatron import experts as module

    actual = case.run()
    with monkeypatch.context() as patch:
        patch.setattr(module, "GROUPED", None)
        wanted = case.run()
    for n, (a, b) in enumerate(zip(actual, wanted, strict=True)):
        if b is None:
            assert a is None
        else:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-5, msg=f"{n} of {case.counts}")


@pytest.mark.parametrize("buffers", [False, True], ids=["plain", "buffers"])
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("counts", [(3, 5, 1, 9), (0, 1, 0, 1), (1, 0, 7, 0), (0, 0, 17, 0), (1, 1, 1, 1)])
def test_grouped_products_are_the_loops(
    counts: tuple[int, ...],
    dtype: torch.dtype,
    gated: bool,
    buffers: bool,
    calls: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """bf16 as well bit for bit but for sums in another order: each product rounds the same numbers once."""
    for neurons, width, blocks in ((32, 24, 1), (16, 24, 1), (32, 16, 1), (24, 8, 1), (16, 16, 2)):
        is_the_loops(Case(counts, neurons, width, blocks, dtype, gated, buffers), monkeypatch)
        assert len(calls) == 6, "two forward, four backward"
        calls.clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_at_all_widths(dtype: torch.dtype, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Grouped where rows have multiples of 16 bytes, by the loop elsewhere."""
    step = 16 // dtype.itemsize
    for neurons in range(1, 33):
        for width in range(1, 25):
            is_the_loops(Case((2, 0, 3, 1), neurons, width, dtype=dtype), monkeypatch)
            assert len(calls) == (0 if neurons % step or width % step else 6), (neurons, width)
            calls.clear()


def test_a_rank_without_tokens_and_other_dtypes_take_the_loop(
    calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_the_loops(Case((0, 0, 0, 0), gated=True, buffers=True), monkeypatch)
    is_the_loops(Case((2, 1, 3, 1), dtype=torch.float64), monkeypatch)
    assert not calls


def test_gradients_whose_buffers_are_not_evenly_spaced(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a bucket of megatron-core's ends within a layer."""
    case = Case((2, 0, 3, 1), 16, 16, buffers=True)
    for param in case.up:
        param.main_grad = param.main_grad.clone()  # type: ignore[attr-defined]
    is_the_loops(case, monkeypatch)
    assert len(calls) == 6


def test_a_gradient_that_comes_in_another_order_of_memory(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((3, 5, 1, 9))
    whole = case.dy.clone()
    for dy in (whole.t().contiguous().t(), torch.ones(()).expand(18, 24), torch.cat([whole[:, :1], whole], 1)[:, 1:]):
        case.dy = dy
        is_the_loops(case, monkeypatch)
    assert len(calls) == 18


def test_what_lies_evenly_in_one_buffer_is_one_tensor() -> None:
    from nemo_elastic.megatron.experts import pack, stacked

    buffer = torch.arange(60.0)

    def at(*starts: int, shape: tuple[int, int] = (2, 3)) -> list[torch.Tensor]:
        return [buffer[n : n + 6].view(shape) for n in starts]

    for starts in ((0, 6, 12), (3, 20, 37), (10,)):
        whole = stacked(at(*starts))
        assert whole is not None and whole.data_ptr() == at(*starts)[0].data_ptr()
        assert torch.equal(whole, torch.stack(at(*starts)))
    for uneven in (at(0, 6, 13), at(12, 6, 0), at(0, 4, 8), at(0, 0), [*at(0), *at(6, shape=(3, 2))]):
        assert stacked(uneven) is None
    assert stacked([*at(0), buffer[6:12].clone().view(2, 3)]) is None
    assert stacked([t.t() for t in at(0, 6)]) is None
    apart = [torch.nn.Parameter(torch.randn(2, 3)) for _ in range(3)]
    before = torch.stack([p.detach().clone() for p in apart])
    pack(apart)
    laid = stacked(apart)
    assert laid is not None and torch.equal(laid, before)


def one_tensor(model: Any, of: Callable[[Any], Any] = lambda p: p) -> bool:
    """Whether each layer's experts are, in the order in which tokens come."""
    from nemo_elastic.megatron.experts import stacked

    layers = [module for module in model.modules() if type(module).__name__ == "ElasticExperts"]
    assert len(layers) == 2
    return all(stacked([of(p) for p in own]) is not None for layer in layers for own in layer._weights())


@pytest.mark.parametrize("sharded", [False, True], ids=["plain", "distributed optimizer"])
def test_in_a_model_they_are_one_tensor_and_run_grouped(
    sharded: bool, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As built, cast, and in data parallelism's buffers, with their gradients; sliced as well."""
    pytest.importorskip("megatron.core.models.hybrid", reason="megatron-core 0.15 has no experts in a hybrid")
    from nemo_elastic.megatron import experts as module
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    from .models import distributed, objective, start
    from .moe import made, tokens_of

    start()
    member, tokens = MOE.uniform(experts=4, expert_ffn=8, hidden=12), tokens_of(MOE)
    model = made(MOE)
    assert one_tensor(model) and one_tensor(model.bfloat16()) and one_tensor(model.float())
    names = [name for name, _ in model.named_parameters()]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    wrapped = distributed(model, sharded)
    assert [name for name, _ in model.named_parameters()] == names
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert one_tensor(model) and one_tensor(model, lambda p: p.main_grad)
    place = [p.data_ptr() for p in model.parameters()]
    wrapped.float()
    assert [p.data_ptr() for p in model.parameters()] == place, "a cast that changes nothing moves nothing"
    grads = []
    for product in (module.GROUPED, None):
        monkeypatch.setattr(module, "GROUPED", product)
        wrapped.zero_grad_buffer()
        with cuda_as_cpu(), wrapped.no_sync():
            for model.state.choice in (None, member):
                objective(model(tokens, None, None)).backward()
        grads.append([p.main_grad.clone() for p in model.parameters()])
    assert len(calls) == 2 * 2 * 6
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
