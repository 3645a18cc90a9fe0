# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What tests of layers with experts share."""

from __future__ import annotations

from typing import Any

import torch

from nemo_elastic.core.family import Parent, Subnet

from .models import build, randomise


def member_of(parent: Parent) -> Subnet:
    """Every axis is cut, with other experts in the second layer that has them, one of them for a token."""
    latent = {"latent": 6} if parent.has("latent") else {}
    fewer, one = ({"top_k": n} if parent.has("top_k_stripes") else {} for n in (2, 1))
    small = parent.uniform([0, 1, 3, 4], hidden=12, mamba_heads=4, mamba_head_dim=3, attention_heads=2,
                           experts=4, expert_ffn=8, shared_ffn=12, **latent, **fewer)  # fmt: skip
    last = parent.layer(4, experts=6, expert_ffn=6, shared_ffn=12, **latent, **one)
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
