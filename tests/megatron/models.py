# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of the megatron layers share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.layout import named, selection, tensors
from nemo_elastic.megatron.compat import named_parameters, named_weights
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.gates import Gates, LayerGates
from tests.support.models import build, distributed, start

__all__ = [
    "alone", "build", "distributed", "leaves", "load", "logits_and_grads", "named_parameters", "objective",
    "randomise", "shard", "softened", "start", "state_of", "weights_of",
]  # fmt: skip


def randomise(model: Any, seed: int = 1, std: float = 0.1) -> None:
    """Move every parameter off its initial value: norms that are not 1, heads that differ."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += std * torch.randn(p.shape, generator=g)


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """Its weights by the layout table's names, the biases of experts too."""
    return dict(named_weights(model))


def state_of(model: Any) -> dict[str, torch.Tensor]:
    """A copy of `weights_of`."""
    return {name: t.detach().clone() for name, t in named_weights(model)}


def load(model: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Give a model weights by the layout table's names."""
    with torch.no_grad():
        for name, t in named_weights(model):
            t.copy_(state[name])


def shard(
    parent: Parent, whole: Mapping[str, torch.Tensor], rank: int, tensor: int, expert: int = 1, expert_tensor: int = 1
) -> dict[str, torch.Tensor]:
    """One rank's share of whole Megatron tensors: its experts, and of every part its own blocks.

    Args:
        tensor: ranks that share each tensor; `expert` those that share the experts, `expert_tensor` each of these.
    """
    out = {}
    for t in tensors(parent, parent.full):
        value, name, world = whole[t.megatron], t.megatron, tensor
        if t.number is not None:
            count = parent.size("experts") // expert
            if t.number // count != rank // expert_tensor % expert:
                continue
            name, world = named(t.row.megatron, t.index, t.number % count), expert_tensor
        dim = t.row.parallel
        if dim is not None and world > 1:
            sizes = [p.size for p in selection(parent, t.row, dim, parent.full, parent.full, t.index).parts]
            if t.row.name.startswith("attention.") and dim == 0:  # groups of queries, keys and values
                sizes = [value.shape[0]]
            value = torch.cat([piece.chunk(world, dim)[rank % world] for piece in value.split(sizes, dim)], dim)
        out[name] = value
    return out


def softened(parent: Parent, member: Subnet) -> Gates:
    """Gates that differ everywhere, leaves that want gradients; experts that the layer 1 drops stay dropped."""
    hard, g = Gates.of(parent, member), torch.Generator().manual_seed(5)

    def soften(axis: str, t: torch.Tensor, index: int) -> torch.Tensor:
        gate = 0.3 + 0.7 * torch.rand(t.shape, generator=g)
        return (gate * t if (axis, index) == ("experts", 1) else gate).requires_grad_()

    layers = tuple(
        LayerGates(soften("", x.keep, i), {a: soften(a, t, i) for a, t in x.widths.items()})
        for i, x in enumerate(hard.layers)
    )
    return Gates(soften("", hard.hidden, -1), layers)


def leaves(choice: Any) -> list[torch.Tensor]:
    """The tensors of gates; none of another choice."""
    if not isinstance(choice, Gates):
        return []
    return [choice.hidden, *(t for x in choice.layers for t in (x.keep, *x.widths.values()))]


def alone(documents: Documents) -> Iterator[tuple[slice, slice]]:
    """Where each document is, as rows and positions."""
    for b, row in enumerate(documents.ends):
        for begin, end in itertools.pairwise((0, *row)):
            yield slice(b, b + 1), slice(begin, end)


def objective(z: torch.Tensor) -> torch.Tensor:
    """A scalar of logits [b, s, V/tp] to which each rank's vocabulary adds its own share."""
    from megatron.core import parallel_state

    rank, world = (f() for f in (parallel_state.get_tensor_model_parallel_rank,
                                 parallel_state.get_tensor_model_parallel_world_size))  # fmt: skip
    w = torch.linspace(-1, 1, world * z.shape[-1]).chunk(world)[rank]
    return (z * w).sum() * 0.05 + z.square().sum() * 0.01


def logits_and_grads(
    model: Any,
    tokens: torch.Tensor,
    choice: Any,
    objective: Callable[[torch.Tensor], torch.Tensor] = objective,
    documents: Any = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits [b, s, V] and every weight's gradient (zeros where there is none) of a scalar objective."""
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
    grads = {n: torch.zeros_like(t) if t.grad is None else t.grad.clone() for n, t in named_weights(model)}
    return z.detach(), grads
