# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a sliced step does not do: make the host wait, build an index again, copy a prefix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from nemo_elastic.core.family import Parent
from nemo_elastic.megatron import choice as runs

from .models import build, start

pytestmark = pytest.mark.nemo
PARENT = Parent("M-M*-M", 24, 40, 24, 12, 4, 4, 6, 4, 6, 2, 4, ffn_stripes=4)
MEMBER = PARENT.uniform(keep=[0, 1, 3, 4], hidden=12, ffn=20, mamba_heads=8, mamba_head_dim=3, attention_heads=4)
HOST = {"item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"}


class NoHost(TorchDispatchMode):
    """Raises where a value is read from a tensor, or a tensor made from the host's values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "lift_fresh"):
            raise AssertionError(f"the host waits in {func}")
        return func(*args, **(kwargs or {}))


class NoRead(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in HOST:
            raise AssertionError(f"the host waits in {func}")
        return func(*args, **(kwargs or {}))


def step(model: Any, tokens: torch.Tensor) -> None:
    model.state.choice = MEMBER
    model(tokens, None, None).square().sum().backward()


def test_no_host_sync_and_no_new_index(monkeypatch: pytest.MonkeyPatch) -> None:
    start()
    model = build(PARENT)
    tokens = torch.randint(0, PARENT.vocab, (2, 7))
    step(model, tokens)
    monkeypatch.setattr(runs, "megatron_selection", lambda *a: pytest.fail("an index is built again"))
    with NoRead(), NoHost():
        step(model, tokens)
    with pytest.raises(AssertionError, match="the host waits"), NoHost():
        tokens.sum().item()


def test_the_other_order_of_memory_gives_the_same() -> None:
    from nemo_elastic.megatron.linear import SlicedLinear

    torch.manual_seed(0)
    x = torch.randn(5, 3, 4)
    w = torch.randn(6, 4, requires_grad=True)
    g = torch.randn(5, 3, 6)
    given = x.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    y = SlicedLinear.apply(given, w, None, None, True, False, None)
    torch.testing.assert_close(y, x @ w.t())
    for a, e in zip(torch.autograd.grad(y, (given, w), g), torch.autograd.grad(given @ w.t(), (given, w), g)):
        torch.testing.assert_close(a, e)
