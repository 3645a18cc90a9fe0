# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What real models hold: bytes saved for the backward pass, and bytes alive at the fullest moment."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.models import build
from nemo_elastic.family import Parent
from nemo_elastic.nn.gates import Gates

#: every width differs from every other, so that no two tensors are mistaken for one another
PARENT = Parent("M-M*-M", 96, 256, 224, 16, 12, 4, 8, 4, 8, 4, 20, ffn_stripes=4)


def model_of(parent: Parent, recompute: bool, sequence_parallel: bool = False) -> Any:
    """A bf16 elastic Megatron model in training mode."""
    more = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    model = build(parent, sequence_parallel=sequence_parallel, **(more if recompute else {})).to(torch.bfloat16)
    model.config.params_dtype = torch.bfloat16
    return model.train()


def open_gates(parent: Parent) -> Gates:
    """Gates of ones that want gradients, as the router's do."""
    gates = Gates.of(parent, parent.full)
    gates.hidden.requires_grad_()
    for layer in gates.layers:
        layer.keep.requires_grad_()
        layer.width.requires_grad_()
        if layer.head_dim is not None:
            layer.head_dim.requires_grad_()
    return gates


def tokens_of(parent: Parent, batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, parent.vocab, (batch, length), generator=torch.Generator().manual_seed(0))


def saved_bytes(model: Any, parent: Parent, batch: int, length: int, gated: bool) -> int:
    """Bytes of all storages that one forward saves for its backward pass, each once, parameters excluded."""
    from nemo_elastic.nemo.platform.device import cuda_as_cpu

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


class Peak(TorchDispatchMode):
    """Counts the bytes of storages that are made and die inside; `most` is their largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor):
                storage = t.untyped_storage()
                if id(storage) not in self._known and id(storage) not in before:
                    self._known.add(id(storage))
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._died, id(storage), storage.nbytes())
        return out

    def _died(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.now -= size


def step_peak(model: Any, parent: Parent, batch: int, length: int, chunk_tokens: int) -> int:
    """Bytes at the fullest moment of a distillation step, beyond parameters and gradient buffers.

    As on a GPU: the logits stay bf16, and weight gradients go into `main_grad`.
    """
    from nemo_elastic.nemo.platform.device import cuda_as_cpu
    from nemo_elastic.nn.kl import forward_kl

    for p in model.parameters():
        p.main_grad = torch.zeros_like(p, dtype=torch.float32)
        p.grad_added_to_main_grad = False
    tokens = tokens_of(parent, batch, length)

    def step() -> torch.Tensor:
        student = model(tokens, None, None)
        with torch.no_grad():
            teacher = model(tokens, None, None)
        return forward_kl(student, teacher, chunk_tokens=chunk_tokens).sum()

    model.state.choice = None
    with cuda_as_cpu(), Peak() as peak:
        step().backward()
    return peak.most
