# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The inside of a Mamba layer: convolution and scan are their formulas with their gradients, however they are cut."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nemo_elastic.nn import ssd
from nemo_elastic.nn.ssd import causal_conv1d, ssd_chunked, ssd_step


def taps(b=2, length=9, c=5, k=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(*s, generator=g, dtype=torch.float64) for s in ((b, length, c), (c, k), (c,), (b, c, k - 1))
    )


def naive_conv(x, weight, bias, state=None):
    k = weight.shape[1]
    past = x.new_zeros(x.shape[0], k - 1, x.shape[2]) if state is None else state.transpose(1, 2)
    padded = torch.cat([past, x], 1)
    rows = [(padded[:, i : i + k] * weight.t()).sum(1) + bias for i in range(x.shape[1])]
    return F.silu(torch.stack(rows, 1))


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_convolution_is_the_formula_with_its_gradient(k, with_state):
    x, weight, bias, state = (t.requires_grad_() for t in taps(k=k))
    wanted = (x, weight, bias, state) if with_state else (x, weight, bias)
    expected, actual = (f(x, weight, bias, state if with_state else None) for f in (naive_conv, causal_conv1d))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    g = torch.rand_like(actual)
    actual, expected = (torch.autograd.grad(t, wanted, g) for t in (actual, expected))
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-12)


NAMES = ("x", "dt", "A", "B", "C", "D", "bias", "state")


def make(b=2, length=11, h=4, p=3, g=2, n=5, seed=0, dtype=torch.float64):
    gen = torch.Generator().manual_seed(seed)
    shapes = ((b, length, h, p), (b, length, h), (h,), (b, length, g, n), (b, length, g, n), (h,), (h,), (b, h, p, n))
    t = dict(zip(NAMES, (torch.randn(*s, generator=gen, dtype=dtype) for s in shapes)))
    t["A"] = -t["A"].exp()
    return t


def naive(x, dt, A, B, C, D=None, bias=None, state=None):
    """The recurrence as it is written; returns the outputs and the last state."""
    h, g = x.shape[2], B.shape[2]
    dt = F.softplus(dt if bias is None else dt + bias)
    B, C = B.repeat_interleave(h // g, 2), C.repeat_interleave(h // g, 2)
    state = x.new_zeros(x.shape[0], h, x.shape[3], B.shape[3]) if state is None else state
    ys = []
    for i in range(x.shape[1]):
        decay = torch.exp(dt[:, i] * A)[..., None, None]
        state = state * decay + torch.einsum("bh,bhp,bhn->bhpn", dt[:, i], x[:, i], B[:, i])
        ys.append(torch.einsum("bhpn,bhn->bhp", state, C[:, i]))
    y = torch.stack(ys, 1)
    return (y if D is None else y + D[:, None] * x), state


def run(t, chunk_size, **more):
    return ssd_chunked(
        t["x"], t["dt"], t["A"], t["B"], t["C"], t.get("D"), t.get("bias"), chunk_size, t.get("state"), **more
    )


@pytest.mark.parametrize("part", [4, 2048])
@pytest.mark.parametrize("chunk_size", [1, 4, 64])
@pytest.mark.parametrize("optional", [(), ("D", "bias", "state")])
def test_is_the_recurrence_with_its_gradient_in_one_part_or_several(monkeypatch, chunk_size, optional, part):
    monkeypatch.setattr(ssd, "PART", part)
    t = {k: v.requires_grad_() for k, v in make().items() if k in NAMES[:5] or k in optional}
    expected, last = naive(**t)
    actual, state = run(t, chunk_size, return_final_state=True)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-12)
    gy, gs = torch.rand_like(actual), torch.rand_like(state)
    wanted = tuple(t.values())
    for name, a, e in zip(
        t,
        torch.autograd.grad((actual, state), wanted, (gy, gs)),
        torch.autograd.grad((expected, last), wanted, (gy, gs)),
    ):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-11, msg=lambda m, name=name: f"d{name}: {m}")


class Made(TorchDispatchMode):
    """The sizes of all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        self.sizes += [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        return out


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("documents", [False, True])
def test_memory_holds_the_products_of_one_part(monkeypatch, gradients, documents):
    """Kept for the backward pass is less than all of it, and no tensor is larger than what comes out."""

    def made(part: int):
        monkeypatch.setattr(ssd, "PART", part)
        t = {k: v.requires_grad_(gradients) for k, v in make(length=256, p=2, n=2).items()}
        index = (torch.arange(256) // 100).expand(2, -1) if documents else None
        if documents:
            t.pop("state")
        kept = []
        with (
            torch.set_grad_enabled(gradients),
            torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x),
            Made() as all_,
        ):
            y = run(t, 16, index_bl=index)
        return y, sum(kept), max(all_.sizes)

    (y, kept, largest), (whole, kept_whole, largest_whole) = made(16), made(1024)
    torch.testing.assert_close(y, whole, rtol=1e-12, atol=1e-14)
    assert largest == y.numel() < largest_whole
    assert kept < kept_whole / 3 if gradients else kept == kept_whole == 0


@pytest.mark.parametrize("offset", [-1e4, 1e5])
def test_extreme_step_sizes_stay_finite(offset):
    t = {k: v.requires_grad_() for k, v in make(length=100, dtype=torch.float32).items()}
    t["dt"] = (t["dt"].detach() + offset).requires_grad_()
    y, state = run(t, 32, return_final_state=True)
    grads = torch.autograd.grad(y.sum() + state.sum(), tuple(t.values()))
    assert all(v.isfinite().all() for v in (y, state, *grads))


def test_half_precision_is_computed_in_float32():
    t = make(length=70, h=4, p=8, n=8, dtype=torch.float32)
    t.pop("state")
    half = {k: v.bfloat16() if k in ("x", "dt", "B", "C") else v for k, v in t.items()}
    y, state = run(half, 32, return_final_state=True)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    expected, last = naive(**{k: v.double() for k, v in half.items()})
    torch.testing.assert_close(state.double(), last, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(y.double(), expected, rtol=0.01, atol=0.01)
    step, new = ssd_step(
        *(half[k][:, 0] for k in ("x", "dt")), half["A"], *(half[k][:, 0] for k in "BC"), None, None, state
    )
    assert (step.dtype, new.dtype) == (torch.bfloat16, torch.float32)
