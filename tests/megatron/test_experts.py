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
#: grouped products of a forward and a backward pass: none where torch has none
CALLS = 6 if hasattr(torch.nn.functional, "grouped_mm") else 0


class Case:
    """Four experts of 32 neurons on tokens of 24 channels, evenly spaced in one buffer.

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
            return (0.4 * torch.randn(shape, generator=random)).to(dtype)

        self.counts, self.buffers = counts, buffers
        self.neurons = (
            None if neurons == 32 else Selection((Grid((blocks, 32 // blocks), (blocks, neurons // blocks)),))
        )
        self.width = None if width == 24 else Selection((Grid((24,), (width,)),))
        self.up, self.down = ([torch.nn.Parameter(made(*shape)) for _ in counts] for shape in ((32, 24), (24, 32)))
        self.params = [*self.up, *self.down]
        kept = torch.float64 if dtype is torch.float64 else torch.float32
        for own in (self.up, self.down):
            pack(own)
            for param, grad in zip(own, torch.ones(len(own), *own[0].shape, dtype=kept).unbind(0), strict=True):
                if buffers:
                    param.main_grad, param.grad_added_to_main_grad = grad, False  # type: ignore[attr-defined]
        self.leaves = [made(sum(counts), width), made(sum(counts), dtype=torch.float32)]
        self.leaves += [made(neurons)] if gated else []
        for leaf in self.leaves:
            leaf.requires_grad_()
        self.dy = made(sum(counts), width)

    def run(self) -> list[torch.Tensor | None]:
        """What comes out, all gradients, and last what is shown of the neurons."""
        from nemo_elastic.megatron.experts import experts

        x, weight, *gate = self.leaves
        y, relu = experts(
            x, weight, self.counts, self.up, self.down, gate[0] if gate else None, self.neurons, self.width
        )
        assert not relu.requires_grad
        grads = torch.autograd.grad(y, [*self.leaves, *self.params], self.dy, allow_unused=True)
        if self.buffers:
            grads = grads[: len(self.leaves)]
            for p in self.params:
                assert p.grad_added_to_main_grad, "an expert that no token went to reports all the same"  # type: ignore[attr-defined]
                grads += (p.main_grad.clone(),)  # type: ignore[attr-defined]
                p.main_grad.fill_(1)  # type: ignore[attr-defined]
                p.grad_added_to_main_grad = False  # type: ignore[attr-defined]
        return [y.detach(), *grads, relu]

    def plain(self) -> list[torch.Tensor]:
        """Output and gradients by plain operations of one expert after another, whose gradients are autograd's."""
        x, weight, *gate = self.leaves
        out = []
        for own, each, u, d in zip(x.split(self.counts), weight.split(self.counts), self.up, self.down, strict=True):
            if self.neurons is not None:
                u, d = self.neurons.take(u, 0), self.neurons.take(d, 1)
            if self.width is not None:
                u, d = self.width.take(u, 1), self.width.take(d, 0)
            h = torch.relu(own @ u.t()).square()
            h = h * gate[0] if gate else h
            out.append((h * each[:, None]) @ d.t())
        y = torch.cat(out)
        grads = torch.autograd.grad(y, [*self.leaves, *self.params], self.dy)
        before = len(self.leaves)
        return [y.detach(), *grads[:before], *(g + 1 if self.buffers else g for g in grads[before:])]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each grouped product."""
    from nemo_elastic.megatron import experts as module

    made, real = [], module.GROUPED
    if real is None:
        return made

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        made.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "GROUPED", counted)
    return made


def is_the_loops(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 as well bit for bit but for sums in another order: each product rounds the same numbers once."""
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=["fp64", "fp32", "bf16"])
@pytest.mark.parametrize(
    ("counts", "kept", "gated", "buffers"),
    [
        ((3, 5, 1, 9), (32, 24, 1), False, False),
        ((0, 1, 0, 1), (16, 24, 1), True, False),
        ((0, 0, 17, 0), (32, 16, 1), False, True),
        ((1, 0, 7, 0), (16, 16, 2), True, True),
        ((2, 0, 3, 1), (20, 24, 1), True, True),  # rows of 80 bytes in float32, of 40 in bfloat16
        ((2, 0, 3, 1), (32, 22, 1), False, False),
        ((0, 0, 0, 0), (32, 24, 1), True, True),  # collectives of dispatcher and gates go backward on every rank
    ],
)
def test_outputs_and_gradients_are_those_of_plain_operations(
    counts: tuple[int, ...],
    kept: tuple[int, int, int],
    gated: bool,
    buffers: bool,
    dtype: torch.dtype,
    calls: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Grouped where rows have multiples of 16 bytes, two products forward and four backward, by the loop elsewhere."""
    case = Case(counts, *kept, dtype, gated, buffers)
    is_the_loops(case, monkeypatch)
    rows = not any(size * dtype.itemsize % 16 for size in kept[:2])
    assert len(calls) == (CALLS if rows and sum(counts) and dtype is not torch.float64 else 0)
    if dtype is torch.bfloat16:
        return
    for a, b in zip(case.run()[:-1], case.plain(), strict=True):
        if a is None:
            assert not b.any(), "an expert that no token went to"
        else:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 if dtype is torch.float64 else 1e-5)


def test_what_is_frozen_gets_no_gradient_and_keeps_it_from_nothing_else() -> None:
    from nemo_elastic.megatron.experts import experts

    x, weight, counts = torch.randn(8, 5), torch.rand(8, requires_grad=True), (3, 0, 4, 1)
    up, down = [torch.randn(8, 5) for _ in counts], [torch.randn(5, 8, requires_grad=True) for _ in counts]
    experts(x, weight, counts, up, down)[0].sum().backward()
    assert weight.grad is not None and weight.grad.any()
    assert [d.grad is None for d in down] == [False, True, False, False] and all(u.grad is None for u in up)
    before = [d.grad.clone() for d in down if d.grad is not None]
    experts(x, weight.detach(), counts, up, down)[0].sum().backward()
    assert all(torch.equal(d.grad, 2 * g) for d, g in zip([down[0], *down[2:]], before))  # pyright: ignore


def test_gradients_that_lie_otherwise(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers that are not evenly spaced, as where a bucket of megatron-core's ends within a layer; other strides."""
    case = Case((2, 0, 3, 1), 16, 16, buffers=True)
    for param in case.up:
        param.main_grad = param.main_grad.clone()  # type: ignore[attr-defined]
    is_the_loops(case, monkeypatch)
    case = Case((3, 5, 1, 9))
    whole = case.dy.clone()
    for dy in (whole.t().contiguous().t(), torch.ones(()).expand(18, 24), torch.cat([whole[:, :1], whole], 1)[:, 1:]):
        case.dy = dy
        is_the_loops(case, monkeypatch)
    assert len(calls) == 4 * CALLS


def test_what_lies_evenly_in_one_buffer_is_one_tensor() -> None:
    from nemo_elastic.megatron.experts import pack, stacked

    buffer = torch.arange(60.0)

    def at(*starts: int, shape: tuple[int, int] = (2, 3)) -> list[torch.Tensor]:
        return [buffer[n : n + 6].view(shape) for n in starts]

    for starts in ((0, 6, 12), (3, 20, 37), (10,)):
        whole = stacked(at(*starts))
        assert whole is not None and whole.data_ptr() == at(*starts)[0].data_ptr()
        assert torch.equal(whole, torch.stack(at(*starts)))
    apart, turned = [*at(0), buffer[6:12].clone().view(2, 3)], [t.t() for t in at(0, 6)]
    for uneven in (at(0, 6, 13), at(12, 6, 0), at(0, 4, 8), [*at(0), *at(6, shape=(3, 2))], apart, turned):
        assert stacked(uneven) is None
    params = [torch.nn.Parameter(torch.randn(2, 3)) for _ in range(3)]
    before = torch.stack([p.detach().clone() for p in params])
    pack(params)
    laid = stacked(params)
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
    assert len(calls) == 2 * 2 * CALLS
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
