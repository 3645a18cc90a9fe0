# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of the megatron layers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.support.models import build, start

__all__ = ["build", "logits_and_grads", "randomise", "start"]


def randomise(model: Any, seed: int = 1, std: float = 0.1) -> None:
    """Move every parameter off its initial value: norms that are not 1, heads that differ."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += std * torch.randn(p.shape, generator=g)


def logits_and_grads(
    model: Any, tokens: torch.Tensor, choice: Any, objective: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits [b, s, V] and every parameter's gradient (zeros where there is none) of a scalar objective."""
    from nemo_elastic.hosts.nemo.platform.device import cuda_as_cpu

    model.state.choice = choice
    model.zero_grad(set_to_none=True)
    with cuda_as_cpu():
        z = model(tokens, None, None)
        objective(z).backward()
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    return z.detach(), grads
