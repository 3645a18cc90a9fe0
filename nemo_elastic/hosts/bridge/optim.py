# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The router's own group of parameters, and the schedule of both, in Bridge's optimizer; its states at other ranks.

megatron-core has one optimizer for all weights; where ranks share experts, it has another for these. The distributed
optimizer's states are saved by the names of weights, so that each finds its own in any layout. What is saved of groups
of weights is each optimizer's, and is loaded by as many as wrote it, at the same rates, alone. A stage has another
layout than the one before it, so groups are the recipe's.
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
    ROUTER_MARK,
    RouterClip,
    is_router,
    is_router_group,
    reduce_router,
    save_own_moments,
)
from nemo_elastic.train.guard import Guard
from nemo_elastic.train.training import Rates

from .step import BridgeHost

_KIND, _BY_NAME = "param_state_sharding_type", "fully_reshardable"


def _is_router(param: torch.Tensor, name: str) -> bool:
    return is_router(name, param)


@dataclass
class ElasticOverrides(OptimizerConfigOverrideProvider):
    """The recipe's overrides of groups of parameters, and the router's: its own rate, and no weight decay.

    It is the part of the config that says what the family is, so that a checkpoint's run_config.yaml tells it.

    Attributes:
        recipe: what gives the recipe's.
        elastic: the elastic block as JSON values (`ElasticConfig.to_dict`).
        done_steps: optimizer steps of the stages before.
    """

    recipe: OptimizerConfigOverrideProvider = field(default_factory=OptimizerConfigOverrideProvider)
    elastic: dict[str, Any] = field(default_factory=dict)
    done_steps: int = 0

    def build_config_overrides(self, context: Any) -> Mapping[Any, Any] | None:
        """What each group of parameters has of its own; Bridge calls it when it builds the optimizer."""
        overrides = dict(self.recipe.build_config_overrides(context) or {})
        router = ElasticConfig.from_dict(self.elastic).router
        if router is not None:
            key = ParamKey(with_name_predicate=ParamWithNamePredicate(name="elastic_router", fn=_is_router))
            overrides[key] = {"max_lr": router.lr, "lr_mult": ROUTER_MARK, "wd_mult": 0.0}
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
        step, peak = self.host.step, param_group["max_lr"]
        if is_router_group(param_group):
            return peak * self.rates.router(step)
        return self.rates.model(step, peak, param_group["min_lr"])


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
            guard.check_gradients(list(trained(chunks)))
        return out

    config.finalize_model_grads_func = finalize_model_grads


# ------------------------------------------------------------------------------------------------ going on


@contextmanager
def own_groups() -> Iterator[None]:
    """A checkpoint's states are loaded into the groups and by the optimizers of the recipe, whatever wrote them."""
    stock = ChainedOptimizer.load_state_dict

    def load_state_dict(self: Any, state: Any) -> None:
        stock(self, regrouped(state, [one.param_groups for one in self.chained_optimizers]))

    ChainedOptimizer.load_state_dict = load_state_dict
    try:
        yield
    finally:
        ChainedOptimizer.load_state_dict = stock


def regrouped(state: Any, groups: Sequence[Sequence[Mapping[str, Any]]]) -> Any:
    """An optimizer's loaded state, as so many optimizers load it into their groups.

    Args:
        state: what was asked for, by the number of each optimizer where there are several, and what the checkpoint
            says of groups, by the number of each where several wrote it.
        groups: of each optimizer there is.

    Raises:
        ElasticError: others wrote it, and its states are not saved by the names of weights.
    """
    state = state if isinstance(state, Mapping) else dict(enumerate(state))
    numbers = sorted(key for key in state if isinstance(key, int))
    said = {key: value for key, value in state.items() if key not in numbers} if numbers else {}
    several = len(groups) > 1
    states = [state[number] for number in numbers] or [state]
    written = [said] if said and several else states
    if said:  # by one optimizer what two load, or by two what one does
        if any(one.get(_KIND) != _BY_NAME for one in written):
            were, are = ("no ranks shared", "they do now") if several else ("ranks shared", "they do not now")
            raise ElasticError(
                f"recipe.model.expert_model_parallel_size: {were} experts in the checkpoint, and {are}; the "
                "optimizer's states can follow if they were saved with checkpoint.dist_ckpt_optim_fully_reshardable"
            )
        states = [one | said for one in states] if several else [said | states[0]]
    # a rank may have nothing for an optimizer
    states = [one | (_groups(one, own) if own else {}) for one, own in zip(states, groups, strict=True)]
    return dict(enumerate(states)) if several else states[0]


def _groups(state: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entry of a loaded state that has its groups, with the recipe's in their place.

    Of a loaded group the number of steps and the list of weights stay. megatron-core finds groups by their rates, too,
    so with the loaded ones a run could not continue at another rate.

    Args:
        state: of one optimizer, as the checkpoint has it.
        own: the recipe's groups of this optimizer; those that the checkpoint lacks get those of its first.
    """
    inner = state.get("optimizer", state)
    saved = [{name: group[name] for name in ("step", "params") if name in group} for group in inner["param_groups"]]
    saved += saved[:1] * (len(own) - len(saved))
    groups = [{**group, **taken} for group, taken in zip(own, saved, strict=False)]
    return {"optimizer": {**inner, "param_groups": groups}} if "optimizer" in state else {"param_groups": groups}
