# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Gradients reduced during a backward pass that skips layers are those reduced after it; each bucket starts within."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.nn.gates import Choice
from tests.shapes import MOE
from tests.support.ranks import spawn

from .models import build, distributed, randomise, start

pytestmark = pytest.mark.nemo
DENSE = Parent("M-M*-M", 24, 32, 24, 8, 4, 4, 6, 4, 4, 4, 4, ffn_stripes=4)
#: elements of a bucket: a layer has more
BUCKET = 500


def members(parent: Parent) -> list[Subnet]:
    """One lacks layers and has narrow ones, the other lacks others."""
    narrow = {"experts": 4, "expert_ffn": 8} if parent.has("experts") else {"ffn": 12}
    return [parent.uniform(keep=[0, 1, 3], hidden=12, **narrow), parent.uniform(keep=[1, 2, 3, 4])]


def wrap(core: Any, overlap: bool, sharded: bool) -> Any:
    return distributed(core, sharded, overlap_grad_reduce=overlap, bucket_size=BUCKET)


def groups_of(wrapped: Any) -> list[Any]:
    return [*wrapped.bucket_groups, *wrapped.expert_parallel_bucket_groups]


def step(wrapped: Any, host: Any, choices: list[Choice], rank: int) -> tuple[dict[str, torch.Tensor], list[bool]]:
    """Reduced gradients of a step of several micro-batches, and which buckets began within the last backward pass."""
    wrapped.zero_grad_buffer()

    def run(number: int) -> None:
        random = torch.Generator().manual_seed(10 * number + rank)
        tokens = torch.randint(0, 32, (2, 8), generator=random)
        host.student(tokens, choices[number])[1].square().mean().backward()

    with wrapped.no_sync():
        for number in range(len(choices) - 1):
            run(number)
    run(len(choices) - 1)
    begun = [group.grad_reduce_handle is not None for group in groups_of(wrapped)]
    wrapped.finish_grad_sync()
    whole(wrapped)
    return {name: p.main_grad.clone() for name, p in host.core.named_parameters() if not lonely(name)}, begun


def whole(wrapped: Any) -> None:
    """A reduce-scatter has left each rank its shard of a bucket: let all have all."""
    for group in groups_of(wrapped):
        if wrapped.ddp_config.use_distributed_optimizer:
            ranks = group.intra_distributed_optimizer_instance_group
            for bucket in group.buckets:
                shard = bucket.grad_data.chunk(ranks.size())[ranks.rank()].clone()
                torch.distributed.all_gather_into_tensor(bucket.grad_data, shard, group=ranks)


def lonely(name: str) -> bool:
    """The head has no part in a loss of hidden states."""
    return name.startswith("output_layer")


def worker(rank: int, port: int, parent: Parent, tensor: int, sharded: bool, experts: int) -> None:
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    from .test_megatron_host import host_class

    start(rank, 2 * tensor, tensor=tensor, port=port, expert=experts)
    small, other = members(parent)
    plan: list[list[Choice]] = [[small, None], [None, small], [other, small], [small, other], [None]]
    seen = []
    with cuda_as_cpu():
        for overlap in (False, True):
            model = build(parent, sequence_parallel=tensor > 1)
            randomise(model)
            model.output_layer.weight.requires_grad_(False)
            wrapped = wrap(model, overlap, sharded)
            host = host_class()(model.state, model, None)
            host.wrapped = wrapped
            results = [step(wrapped, host, choices, rank // tensor) for choices in plan]
            seen.append([grads for grads, _ in results])
            assert len(groups_of(wrapped)) > 3 if overlap else len(groups_of(wrapped)) < 3
            if overlap:  # megatron-core 0.19 learns in its first step how often each parameter reports
                learns = "is_first_batch" in inspect.getsource(type(groups_of(wrapped)[0]))
                assert all(all(begun) for _, begun in results[int(learns) :])
    for without, reduced in zip(*seen, strict=True):
        for name, grad in without.items():
            torch.testing.assert_close(reduced[name], grad, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.dist
@pytest.mark.parametrize(
    ("parent", "tensor", "sharded", "experts"),
    [(DENSE, 1, False, 1), (DENSE, 2, True, 1), (MOE, 1, False, 2)],  # of experts some have no tokens
    ids=["dp2", "dp2-tp2 reduce-scatter", "ep2"],
)
def test_reduced_gradients_are_the_same(parent: Parent, tensor: int, sharded: bool, experts: int) -> None:
    if experts > 1:
        pytest.importorskip("megatron.core.models.hybrid", reason="megatron-core 0.15 has no experts in a hybrid")
    spawn(worker, parent, tensor, sharded, experts, world=2 * tensor)
