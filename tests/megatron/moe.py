# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What tests of layers with experts share."""

from __future__ import annotations

from typing import Any

import torch

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.nn.gates import Choice, Gates, LayerGates

from .models import build, randomise

__all__ = [
    "choice_of", "leaves", "made", "member_of", "objective", "ran", "row_of", "softened", "tokens_of", "weights_of",
]  # fmt: skip


def row_of(parent: Parent, name: str) -> Any:
    return next(row for kind in parent.kinds for row in kind.rows if row.name == name)


def member_of(parent: Parent) -> Subnet:
    """Every axis is cut, with other experts in the second layer that has them."""
    latent = {"latent": 6} if parent.has("latent") else {}
    small = parent.uniform([0, 1, 3, 4], hidden=12, mamba_heads=4, mamba_head_dim=3, attention_heads=2,
                           experts=4, expert_ffn=8, shared_ffn=12, **latent)  # fmt: skip
    last = parent.layer(4, experts=6, expert_ffn=6, shared_ffn=12, **latent)
    return Subnet(small.hidden, (*small.layers[:-1], last)).validate(parent)


def tokens_of(parent: Parent, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, parent.vocab, (batch, 8), generator=torch.Generator().manual_seed(0))


def made(parent: Parent, **config: Any) -> Any:
    """A model in which experts have biases, and are chosen by them, too."""
    model = build(parent, **config)
    randomise(model)
    with torch.no_grad():
        for seed, (name, bias) in enumerate(model.named_buffers()):
            if name.endswith("expert_bias"):
                bias.copy_(0.1 * torch.randn(bias.shape, generator=torch.Generator().manual_seed(seed)))
    return model


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    from nemo_elastic.megatron.compat import named_weights

    return dict(named_weights(model))


def softened(parent: Parent, member: Subnet) -> Gates:
    """Gates that differ everywhere, leaves that want gradients; the first layer's dropped experts stay dropped."""
    hard, g = Gates.of(parent, member), torch.Generator().manual_seed(5)

    def soften(axis: str, t: torch.Tensor, index: int) -> torch.Tensor:
        gate = 0.3 + 0.7 * torch.rand(t.shape, generator=g)
        return (gate * t if (axis, index) == ("experts", 1) else gate).requires_grad_()

    layers = tuple(
        LayerGates(soften("", x.keep, i), {a: soften(a, t, i) for a, t in x.widths.items()})
        for i, x in enumerate(hard.layers)
    )
    return Gates(soften("", hard.hidden, -1), layers)


def choice_of(parent: Parent, way: str) -> Choice:
    """What runs; of soft gates new ones."""
    member = member_of(parent)
    return {"whole": None, "sliced": member, "hard": Gates.of(parent, member), "soft": softened(parent, member)}[way]


def leaves(gates: Gates) -> list[torch.Tensor]:
    return [gates.hidden, *(t for x in gates.layers for t in (x.keep, *x.widths.values()))]


def objective(z: torch.Tensor) -> torch.Tensor:
    w = torch.linspace(-1, 1, z.shape[-1]).view(1, 1, -1)
    return (z * w).sum() * 0.05 + z.square().sum() * 0.01


def ran(model: Any, tokens: torch.Tensor, choice: Choice) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, and the gradients of all weights by megatron-core's names."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    model.state.choice = choice
    model.zero_grad(set_to_none=True)
    with cuda_as_cpu():
        z = model(tokens, None, None)
        objective(z).backward()
    grads = {n: torch.zeros_like(t) if t.grad is None else t.grad.clone() for n, t in weights_of(model).items()}
    return z.detach(), grads
