# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The router's own group of parameters, and the schedule of both, in Bridge's optimizer; its states at other ranks.

megatron-core has one optimizer for all weights; where ranks share experts, it has another for these. The distributed
optimizer's states are saved by the names of weights, so that each finds its own in any layout. What is saved of groups
of weights is each optimizer's, and is loaded by as many as wrote it, alone. A stage has another layout than the one
before it, so this is brought to those that there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.bridge.training.config import OptimizerConfigOverrideProvider
from megatron.core.optimizer import ChainedOptimizer, ParamKey
from megatron.core.optimizer.optimizer_config import ParamWithNamePredicate
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.utils import get_model_config

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.megatron.megatron_host import trained
from nemo_elastic.megatron.router_optim import (
    RouterClip,
    is_router,
    is_router_group,
    reduce_router,
    router_ratio,
    save_own_moments,
)
from nemo_elastic.train.guard import Guard
from nemo_elastic.train.training import Rates

from .step import BridgeHost

_KIND, _BY_NAME = "param_state_sharding_type", "fully_reshardable"
#: what tells groups of experts that ranks share from all others
_SHARED = "is_expert_parallel"


def _is_router(param: torch.Tensor, name: str) -> bool:
    return is_router(name, param)


@dataclass
class ElasticOverrides(OptimizerConfigOverrideProvider):
    """Bridge's overrides of groups of parameters, and the router's: its own rate, and no weight decay.

    It is the part of the config that says what the family is, so that a checkpoint's run_config.yaml tells it.

    Attributes:
        elastic: the elastic block as JSON values (`ElasticConfig.to_dict`).
        stage: 1, 2 or 3.
    """

    elastic: dict[str, Any] = field(default_factory=dict)
    stage: int = 1

    def build_config_overrides(self, context: Any) -> Mapping[Any, Any] | None:
        """What each group of parameters has of its own; Bridge calls it when it builds the optimizer."""
        overrides = dict(super().build_config_overrides(context) or {})
        router = ElasticConfig.from_dict(self.elastic).router
        if router is not None:
            key = ParamKey(with_name_predicate=ParamWithNamePredicate(name="elastic_router", fn=_is_router))
            ratio = router_ratio(router.lr, context.optimizer_config.lr)
            overrides[key] = {"lr_mult": ratio, "wd_mult": 0.0}
        return overrides


class ElasticScheduler(OptimizerParamScheduler):
    """Bridge's scheduler with the rates of `train.training.Rates`; weight decay stays the recipe's.

    megatron-core offers no schedule of one's own, so the one that Bridge built is given this class (`follow`).
    """

    rates: Rates
    host: BridgeHost

    @classmethod
    def follow(cls, scheduler: OptimizerParamScheduler, rates: Rates, host: BridgeHost) -> None:
        """Let a scheduler follow these rates from here on."""
        scheduler.__class__ = cls
        scheduler.rates, scheduler.host = rates, host  # pyright: ignore
        scheduler.step(0)

    def get_lr(self, param_group: dict[str, Any]) -> float:
        """Rate of a group in the step that is about to run, or has just run."""
        share = (self.rates.router if is_router_group(param_group) else self.rates.model)(self.host.step)
        return self.max_lr * param_group.get("lr_mult", 1.0) * share


def watch_optimizer(model: list[Any], optimizer: Any, guard: Guard | None, clip: bool) -> None:
    """Reduce and clip the router's gradients apart, take no step that is not finite, and save moments as they are.

    Args:
        model: Bridge's chunks.
        optimizer: of them; wrapped.
        guard: None for fp16, whose optimizer finds infinities by itself: it is how its loss scale is found.
        clip: whether there is a router.
    """
    save_own_moments(optimizer)
    if clip:
        RouterClip.install(optimizer)
    if guard is not None:
        optimizer.step = guard.guarded(optimizer.step, skipped=(False, None, None))
    config = get_model_config(model[0])
    finalize: Callable[..., Any] = config.finalize_model_grads_func

    def finalize_model_grads(chunks: list[Any], *args: Any, **kwargs: Any) -> Any:
        reduce_router(chunks)
        out = finalize(chunks, *args, **kwargs)
        if guard is not None:
            guard.look(list(trained(chunks)))
        return out

    config.finalize_model_grads_func = finalize_model_grads


# ------------------------------------------------------------------------------------------------ going on


@contextmanager
def experts_shared_or_not() -> Iterator[None]:
    """A checkpoint's states are loaded by one optimizer or two, whichever wrote them."""
    stock = ChainedOptimizer.load_state_dict

    def load_state_dict(self: Any, state: Any) -> None:
        shared = [any(group[_SHARED] for group in one.param_groups) for one in self.chained_optimizers]
        stock(self, regrouped(state, shared))

    ChainedOptimizer.load_state_dict = load_state_dict
    try:
        yield
    finally:
        ChainedOptimizer.load_state_dict = stock


def regrouped(state: Any, shared: Sequence[bool]) -> Any:
    """An optimizer's loaded state, as so many optimizers load it.

    Args:
        state: what was asked for, by the number of each optimizer where there are several, and what the checkpoint
            says of groups, by the number of each where several wrote it.
        shared: of each optimizer there is, whether it has the experts that ranks share.

    Raises:
        ElasticError: others wrote it, and its states are not saved by the names of weights.
    """
    numbers = sorted(key for key in state if isinstance(key, int)) if isinstance(state, Mapping) else []
    said = {key: value for key, value in state.items() if key not in numbers} if numbers else {}
    if not said:  # as many wrote it
        return state
    written = [said] if len(shared) > 1 else [state[number] for number in numbers]
    if any(one.get(_KIND) != _BY_NAME for one in written):
        were, are = ("no ranks shared", "they do now") if len(shared) > 1 else ("ranks shared", "they do not now")
        raise ElasticError(
            f"recipe.model.expert_model_parallel_size: {were} experts in the checkpoint, and {are}; the optimizer's "
            "states can follow if they were saved with checkpoint.dist_ckpt_optim_fully_reshardable"
        )
    if len(shared) > 1:
        return {i: state[i] | said | _groups(written, flag) for i, flag in enumerate(shared)}
    return said | written[0] | _groups(written, shared[0])


def _groups(written: Sequence[Mapping[str, Any]], shared: bool) -> dict[str, Any]:
    """What all say of groups, as said of experts that ranks share or of all else; the first has the last word."""
    groups = [{**group, _SHARED: shared} for one in reversed(written) for group in one["optimizer"]["param_groups"]]
    return {"optimizer": {**written[0]["optimizer"], "param_groups": groups}}
