# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Optimizer and schedule: the router learns at its own rate and does not disturb the model's clipping.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

import math
from typing import Any

import torch
from megatron.core import parallel_state
from nemo.lightning.pytorch.optim.base import LRSchedulerModule
from nemo.lightning.pytorch.optim.megatron import MegatronOptimizerModule
from torch.optim.lr_scheduler import LambdaLR

from .nonfinite import Guard

ROUTER_PREFIX = "elastic.router."
#: Adam does not see a constant factor on a gradient; a small one keeps the router out of the global norm for clipping
ROUTER_GRAD_SCALE = 1e-3


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


def router_ratio(router_lr: float, lr: float) -> float:
    """`lr_mult` of the router group; never 1, which would merge it with the model's and keep it from being frozen."""
    return router_lr / lr if router_lr != lr else 1.0 + 1e-9


class ElasticOptimizer(MegatronOptimizerModule):
    """MegatronOptimizerModule that also reduces the router's gradients, and takes no step that is not finite.

    It has its base's constructor: NeMo captures constructor calls, and a base called with other arguments breaks that.
    """

    guard: Guard | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Watch the model that is going to be trained."""
        super().on_fit_start(trainer, pl_module)
        if self.config.fp16:  # finds infinities by itself: it is how its loss scale is found
            return
        self.guard = Guard(pl_module)
        for optimizer in trainer.optimizers:
            inner = optimizer.mcore_optimizer
            inner.step = self.guard.guarded(inner.step)

    def finalize_model_grads(self, *args: Any, **kwargs: Any) -> Any:
        """megatron-core's reductions, then the router's: each pipeline stage has a replica that saw its own layers."""
        out = super().finalize_model_grads(*args, **kwargs)
        models = args[0] if args else kwargs["model"]
        for model in models:
            for name, param in model.named_parameters():
                if ROUTER_PREFIX in name and getattr(param, "main_grad", None) is not None:
                    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
                        torch.distributed.all_reduce(
                            param.main_grad, group=parallel_state.get_pipeline_model_parallel_group()
                        )
                    param.main_grad.mul_(ROUTER_GRAD_SCALE)
        if self.guard is not None:
            self.guard.look(models)
        return out


class ElasticSchedule(LRSchedulerModule):
    """Linear warm-up and cosine decay over the whole curriculum; the router warms up, holds, and stops when frozen.

    Args:
        total_steps: steps of all stages together (not `max_steps`: NeMo overwrites that with the trainer's).
        warmup_steps: linear warm-up at the very start.
        min_ratio: rate at the end, as a share of the peak.
        start_step: steps done by earlier stages.
        freeze_step: step at which the router is frozen (counted over the curriculum).
        router_warmup: warm-up of the router in steps.
    """

    def __init__(
        self,
        total_steps: int,
        warmup_steps: int = 60,
        min_ratio: float = 0.1,
        start_step: int = 0,
        freeze_step: int = 0,
        router_warmup: int = 20,
    ) -> None:
        super().__init__()
        self.total_steps, self.warmup_steps, self.min_ratio = total_steps, warmup_steps, min_ratio
        self.start_step, self.freeze_step, self.router_warmup = start_step, freeze_step, router_warmup

    def model_factor(self, step: int) -> float:
        """Share of the peak rate at a step of this run."""
        step += self.start_step
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.min_ratio + (1 - self.min_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def router_factor(self, step: int) -> float:
        step += self.start_step
        return 0.0 if step >= self.freeze_step else min(1.0, (step + 1) / max(1, self.router_warmup))

    def scheduler(self, model: Any, optimizers: Any) -> Any:
        groups = optimizers.param_groups
        factors = [self.router_factor if g.get("pre_lr_mult", 1.0) != 1.0 else self.model_factor for g in groups]
        for g in groups:
            g.setdefault("initial_lr", g["lr"])
        schedule = LambdaLR(optimizers, factors)
        return {
            "optimizer": optimizers,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": 1},
            "monitor": "val_loss",
        }
