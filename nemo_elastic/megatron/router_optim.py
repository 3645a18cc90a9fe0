# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The router in megatron-core's optimizers, at its own rate and clipped by itself; and moments saved as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32, get_grad_norm_fp32
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate

ROUTER_PREFIX = "elastic.router."
#: `lr_mult` of the router's group, whatever its rate: megatron-core finds a checkpoint's groups by it
ROUTER_MARK = 0.5


def is_router(name: str, _: torch.Tensor) -> bool:
    """Parameters that get the router's learning rate."""
    return ROUTER_PREFIX in name


def no_weight_decay(name: str, param: torch.Tensor) -> bool:
    """megatron-core's own rule (biases and vectors), and the router."""
    return (
        ROUTER_PREFIX in name
        or name.endswith(".bias")
        or param.dim() == 1
        or getattr(param, "_no_weight_decay", False)
    )


def is_router_group(group: dict[str, Any]) -> bool:
    """Whether a parameter group of megatron-core is the router's; NeMo renames its `lr_mult`."""
    return group.get("pre_lr_mult", group.get("lr_mult")) == ROUTER_MARK


class RouterClip:
    """Clips the router's gradients by their own norm, and hides them while megatron-core clips the model's.

    Neither may scale the other: the router's gradients are about 1e-3 and the model's clipping would push them below
    Adam's epsilon; the router's would count in the norm of a model that it is no part of.

    Args:
        optimizer: an optimizer of megatron-core that holds parameters itself, no chained one. Its methods are wrapped.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._prepare, self._step = optimizer.prepare_grads, optimizer.step_with_ready_grads
        self._grad = (
            "decoupled_grad"
            if getattr(optimizer.config, "use_precision_aware_optimizer_no_fp8_or_ds_fp8", False)
            else "grad"
        )
        self._hidden: list[tuple[torch.Tensor, torch.Tensor]] = []
        optimizer.prepare_grads, optimizer.step_with_ready_grads = self.prepare_grads, self.step_with_ready_grads

    @classmethod
    def install(cls, optimizer: Any) -> None:
        """Wrap an optimizer, or each of a chained one."""
        for leaf in getattr(optimizer, "chained_optimizers", [optimizer]):
            cls(leaf)

    def prepare_grads(self) -> bool:
        """As megatron-core's; afterwards the router's gradients are clipped and out of sight."""
        infinite = self._prepare()
        if infinite:  # fp16: this step is left out
            return infinite
        params = [p for g in self._optimizer.param_groups if is_router_group(g) for p in g["params"]]
        params = [p for p in params if getattr(p, self._grad, None) is not None]
        limit = self._optimizer.config.clip_grad
        if limit > 0:
            norm = self._norm(params)  # on all ranks, also on those that hold no shard of the router
            if params:  # the fused kernel refuses an empty list
                clip_grad_by_total_norm_fp32(params, limit, norm, self._grad != "grad")
        self._hidden = [(p, getattr(p, self._grad)) for p in params]
        for p in params:
            setattr(p, self._grad, None)
        return infinite

    def step_with_ready_grads(self) -> bool:
        """As megatron-core's, with the router's gradients in their place again."""
        for p, grad in self._hidden:
            setattr(p, self._grad, grad)
        self._hidden = []
        return self._step()

    def _norm(self, params: list[torch.Tensor]) -> float:
        """Norm over all shards; every pipeline rank has a whole replica, whose gradients are the same."""
        grads = [getattr(p, self._grad) for p in params if param_is_not_tensor_parallel_duplicate(p)]
        norm = get_grad_norm_fp32(grads, grad_stats_parallel_group=self._optimizer.get_grad_stats_parallel_group())
        return norm / math.sqrt(parallel_state.get_pipeline_model_parallel_world_size())


def reduce_router(models: Sequence[Any]) -> None:
    """Sum the router's gradients over pipeline ranks, each of which has a replica.

    Before megatron-core's reductions: of the sum over data-parallel ranks the distributed optimizer leaves to each
    rank its own shard, and the same shard of another rank may hold another part of the router.
    """
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        for name, param in (named for model in models for named in model.named_parameters()):
            if ROUTER_PREFIX in name and getattr(param, "main_grad", None) is not None:
                torch.distributed.all_reduce(param.main_grad, group=parallel_state.get_pipeline_model_parallel_group())


def save_own_moments(optimizer: Any) -> None:
    """Let an optimizer of megatron-core, or each of a chained one, save each weight's moments as this weight's.

    To save, megatron-core puts the states of a buffer's buckets one after the other, without the padding at the end of
    each (`DistributedOptimizer.get_parameter_state_dp_zero`), and cuts each weight's out by its place in the buffer,
    which counts that padding (`sharded_param_state_fully_reshardable`): from the second bucket on, as with overlap of
    gradient reduction, weights get states of others. So it is in 0.15.3 and 0.19.2, and
    `tests/megatron/test_router_optim.py` says when it no longer is.
    """
    for leaf in getattr(optimizer, "chained_optimizers", [optimizer]):
        if isinstance(leaf, DistributedOptimizer):
            stock = leaf.sharded_param_state_fully_reshardable
            leaf.sharded_param_state_fully_reshardable = _without_padding(leaf.buffers, stock)


def _without_padding(buffers: Sequence[Any], stock: Callable[..., Any]) -> Callable[..., Any]:
    """`stock`, an optimizer's method of the name below, with the places that `save_own_moments` wants in `buffers`."""

    def sharded_param_state_fully_reshardable(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as places:
            for buffer in buffers:
                places.enter_context(_places_without_padding(buffer))
            return stock(*args, **kwargs)

    return sharded_param_state_fully_reshardable


@contextmanager
def _places_without_padding(buffer: Any) -> Iterator[None]:
    """A buffer's weights are where they would be if no bucket were padded at its end."""
    padding = [bucket.grad_data.numel() - bucket.numel_unpadded for bucket in buffer.buckets]
    stock = buffer.param_index_map
    buffer.param_index_map = {
        param: (start - sum(padding[:number]), end - sum(padding[:number]), number)
        for param, (start, end, number) in stock.items()
    }
    try:
        yield
    finally:
        buffer.param_index_map = stock
