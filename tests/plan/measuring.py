# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What real models hold: bytes saved for the backward pass, and bytes alive at the fullest moment."""

from __future__ import annotations

from typing import Any

import torch

from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.nn.gates import Gates
from nemo_elastic.plan.activations import Routing
from tests.support.models import build
from tests.support.peak import Peak

#: every width differs from every other, so that no two tensors are mistaken for one another
PARENT = Parent("M-M*-M", 96, 256, 224, 16, 12, 4, 8, 4, 8, 4, 20, ffn_stripes=4)
#: how experts are balanced and chosen: what a config has for each, and what the plan has for that
ROUTINGS = {
    "stream's dtype": ({}, Routing("bf16", balanced=False, fused=False)),
    "fp64": ({"moe_router_dtype": "fp64"}, Routing("fp64", balanced=False, fused=False)),
    "the recipe's": (
        {
            "moe_router_dtype": "fp32",
            "moe_router_load_balancing_type": "seq_aux_loss",
            "moe_aux_loss_coeff": 1e-4,
        },
        Routing(fused=False),
    ),
}


def model_of(parent: Parent, recompute: bool, sequence_parallel: bool = False, **settings: Any) -> Any:
    """A bf16 elastic Megatron model in training mode, with more settings of its config."""
    if recompute:
        settings |= {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    model = build(parent, sequence_parallel=sequence_parallel, **settings).to(torch.bfloat16)
    model.config.params_dtype = torch.bfloat16
    return model.train()


def open_gates(parent: Parent) -> Gates:
    """Gates of ones that want gradients, as the router's do."""
    gates = Gates.of(parent, parent.full)
    gates.hidden.requires_grad_()
    for layer in gates.layers:
        for gate in (layer.keep, *layer.widths.values()):
            gate.requires_grad_()
    return gates


def tokens_of(parent: Parent, batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, parent.vocab, (batch, length), generator=torch.Generator().manual_seed(0))


def saved_bytes(model: Any, parent: Parent, batch: int, length: int, gated: bool) -> int:
    """Bytes of all storages that one forward saves for its backward pass, each once, parameters excluded."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    model.state.choice = open_gates(parent) if gated else None
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, int] = {}
    alive = []  # a storage that died could lend its address to another

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(t)
        return t

    with cuda_as_cpu(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(tokens_of(parent, batch, length), None, None)
    return sum(sizes.values())


def buffers(model: Any) -> None:
    """Give every parameter what DistributedDataParallel gives it: a buffer that sums gradients, in fp32."""

    def into_the_buffer(p: torch.Tensor) -> None:
        p.grad = None

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(into_the_buffer)
        p.main_grad = torch.zeros_like(p, dtype=torch.float32)
        p.grad_added_to_main_grad = False


def loss_peak(model: Any, distill: DistillConfig, tokens: int) -> int:
    """Bytes at the fullest moment of the loss and its backward pass, beyond its hidden states and buffers."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.vocabulary import distill_loss

    config = model.config
    shape = (tokens // (config.tensor_model_parallel_size if config.sequence_parallel else 1), 1, config.hidden_size)
    buffers(model)
    hidden = torch.randn(shape, dtype=torch.bfloat16).requires_grad_()
    labels = torch.zeros(1, tokens, dtype=torch.long)
    with cuda_as_cpu(), Peak() as peak:
        teacher = None if not distill.has_teacher else (model, torch.randn(shape, dtype=torch.bfloat16))
        loss, _ = distill_loss(distill, (model, hidden), teacher, labels)
        loss.backward()
    return peak.most


def step_peak(model: Any, parent: Parent, batch: int, length: int, distill: DistillConfig) -> int:
    """Bytes at the fullest moment of a distillation step, beyond parameters and gradient buffers."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.vocabulary import distill_loss, hidden_states

    buffers(model)
    tokens = tokens_of(parent, batch, length)

    def step() -> torch.Tensor:
        with torch.no_grad():
            teacher = model, hidden_states(model, tokens)  # before any student, as in training
        return distill_loss(distill, (model, hidden_states(model, tokens)), teacher, tokens)[0]

    model.state.choice = None
    with cuda_as_cpu(), Peak() as peak:
        step().backward()
    return peak.most
