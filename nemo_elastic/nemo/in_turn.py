# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Several losses of one micro-batch, one after another: only one student's activations exist at a time.

megatron-core calls the backward pass once per micro-batch, on what the step returned. All losses but the last go
backward here, before it, with the factor that megatron-core is going to apply to the sum. Gradients add up where those
of several micro-batches do, in `main_grad`. In the last one's backward pass the factor that really came is compared:
a schedule of another mind is an error, not a wrong gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from megatron.core.num_microbatches_calculator import get_num_microbatches


def upstream(config: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What megatron-core's schedule multiplies a micro-batch's loss sum by on the way to the gradients.

    `forward_step_calc_loss` divides it by the tokens of the micro-batch and the number of micro-batches, unless the
    model's config says `calculate_per_token_loss`; `backward_step` scales it for fp16.

    Args:
        config: the core module's config.
        tokens: number of tokens of the micro-batch that count.
    """
    factor = torch.ones((), device=tokens.device)
    if not config.calculate_per_token_loss:
        factor = factor / tokens.clamp(min=1) / get_num_microbatches()
    return factor if config.grad_scale_func is None else config.grad_scale_func(factor)


def sum_in_turn(losses: Sequence[Callable[[], torch.Tensor]], config: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The sum of scalar losses, each made by a call; its gradient is the last one's, those of the others are done.

    Args:
        losses: at least one; no two may share a part of the graph that needs gradients.
        config, tokens: see `upstream`.

    Raises:
        RuntimeError: in the backward pass, where another factor comes than `upstream` said.
    """
    *first, last = losses
    if not first:
        return last()
    factor = upstream(config, tokens)
    done = torch.zeros_like(factor)
    for make in first:
        loss = make()
        if torch.is_grad_enabled():
            loss.backward(factor.to(loss.dtype))
        done = done + loss.detach()
    return _Agreed.apply(last(), done, factor)  # pyright: ignore[reportReturnType]


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
        message = "budgets_per_batch: the schedule scales the loss in another way than megatron-core 0.15"
        if grad.is_cuda:
            torch._assert_async(agreed, message)  # no wait for the GPU
        elif not agreed:
            raise RuntimeError(message)
        return grad, None, None
