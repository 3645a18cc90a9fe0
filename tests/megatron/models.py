# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of the megatron layers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from nemo_elastic.megatron.compat import named_parameters
from tests.support.models import build, start

__all__ = ["build", "load", "logits_and_grads", "named_parameters", "randomise", "start"]


def randomise(model: Any, seed: int = 1, std: float = 0.1) -> None:
    """Move every parameter off its initial value: norms that are not 1, heads that differ."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += std * torch.randn(p.shape, generator=g)


def load(model: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Give a model weights by the layout table's names."""
    with torch.no_grad():
        for name, parameter in named_parameters(model):
            parameter.copy_(state[name])


def logits_and_grads(
    model: Any,
    tokens: torch.Tensor,
    choice: Any,
    objective: Callable[[torch.Tensor], torch.Tensor],
    documents: Any = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits [b, s, V] and every parameter's gradient (zeros where there is none) of a scalar objective."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.layers import MegatronLayers
    from nemo_elastic.megatron.vocabulary import hidden_states

    model.state.choice = choice
    model.zero_grad(set_to_none=True)
    with cuda_as_cpu():
        if documents is None:
            z = model(tokens, None, None)
        else:
            z = MegatronLayers(model).head(hidden_states(model, tokens, documents))
        objective(z).backward()
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in named_parameters(model)}
    return z.detach(), grads
