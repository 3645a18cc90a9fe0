# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Several losses of one micro-batch, one after another: only one student's activations exist at a time.

A host calls the backward pass once per micro-batch, on what the step returned. All losses but the last go backward
here, before it, with the factor that the host is going to apply to the sum. Gradients add up where those of several
micro-batches do. In the last one's backward pass the factor that really came is compared: a host that says one thing
and does another is an error, not a wrong gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def sum_in_turn(losses: Sequence[Callable[[], torch.Tensor]], factor: Callable[[], torch.Tensor]) -> torch.Tensor:
    """The sum of scalar losses, each made by a call; its gradient is the last one's, those of the others are done.

    Args:
        losses: at least one; no two may share a part of the graph that needs gradients.
        factor: see `Host.factor`; asked where there are several.

    Raises:
        RuntimeError: in the backward pass, where another factor comes.
    """
    *first, last = losses
    if not first:
        return last()
    expected = factor()
    done = torch.zeros_like(expected)
    for make in first:
        loss = make()
        if torch.is_grad_enabled():
            loss.backward(expected.to(loss.dtype))
        done = done + loss.detach()
    return _Agreed.apply(last(), done, expected)  # pyright: ignore[reportReturnType]


class _Agreed(torch.autograd.Function):
    """loss + done, whose upstream gradient must be `factor`."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, done: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(factor)
        return loss + done

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (factor,) = ctx.saved_tensors
        agreed = torch.isclose(grad.float(), factor.float(), rtol=1e-4, atol=0.0)
        message = "budgets_per_batch: the loss is scaled in another way than was said"
        if grad.is_cuda:
            # no wait for the GPU
            torch._assert_async(agreed, message)  # pyright: ignore[reportPrivateImportUsage]
        elif not agreed:
            raise RuntimeError(message)
        return grad, None, None
