# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Optimizer and schedule as NeMo takes them.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

from typing import Any

from nemo.lightning.pytorch.optim.base import LRSchedulerModule
from nemo.lightning.pytorch.optim.megatron import MegatronOptimizerModule
from torch.optim.lr_scheduler import LambdaLR

from nemo_elastic.megatron.megatron_host import trained
from nemo_elastic.megatron.router_optim import RouterClip, is_router_group, reduce_router, save_own_moments
from nemo_elastic.train.guard import Guard
from nemo_elastic.train.training import Rates


class ElasticOptimizer(MegatronOptimizerModule):
    """MegatronOptimizerModule that also reduces and clips the router's gradients; no step of it is not finite.

    It has its base's constructor: NeMo captures constructor calls, and a base called with other arguments breaks that.
    """

    guard: Guard | None = None

    def connect(self, model: Any) -> None:
        """As the base class; rates continue after the earlier stages, whose steps `ElasticResume` has read."""
        super().connect(model)
        model.__io__.done_steps = model.done_steps
        assert isinstance(self.lr_scheduler, ElasticSchedule)
        self.lr_scheduler.rates = self.lr_scheduler.rates.after(model.done_steps, model.family.steps)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Watch the model that is going to be trained."""
        super().on_fit_start(trainer, pl_module)
        for optimizer in trainer.optimizers:
            save_own_moments(optimizer.mcore_optimizer)
            if self.scale_lr_cond is not None:
                RouterClip.install(optimizer.mcore_optimizer)
        if self.config.fp16:  # finds infinities by itself: it is how its loss scale is found
            return
        self.guard = Guard(pl_module.family, pl_module.host)
        for optimizer in trainer.optimizers:
            inner = optimizer.mcore_optimizer
            inner.step = self.guard.guarded(inner.step, skipped=(False, None, None))

    def finalize_model_grads(self, *args: Any, **kwargs: Any) -> Any:
        """megatron-core's reductions; before them the router's."""
        models = args[0] if args else kwargs["model"]
        reduce_router(models)
        out = super().finalize_model_grads(*args, **kwargs)
        if self.guard is not None:
            self.guard.check_gradients(list(trained(models)))
        return out


class ElasticSchedule(LRSchedulerModule):
    """`train.training.Rates` as NeMo's schedule, whose arguments it has.

    `total_steps` is not `max_steps`: NeMo overwrites that with the trainer's.

    Args:
        router_lr: the router's peak rate.
    """

    def __init__(
        self,
        total_steps: int,
        warmup_steps: int = 60,
        min_ratio: float = 0.1,
        freeze_step: int = 0,
        router_warmup: int = 20,
        router_lr: float = 0.0,
    ) -> None:
        super().__init__()
        self.rates = Rates(total_steps, warmup_steps, min_ratio, freeze_step, router_warmup)
        self.router_lr = router_lr

    def scheduler(self, model: Any, optimizers: Any) -> Any:
        routers = [is_router_group(group) for group in optimizers.param_groups]
        for group, router in zip(optimizers.param_groups, routers, strict=True):
            group["initial_lr"] = self.router_lr if router else group["lr"]
        shares = [self.rates.router if router else self.rates.model for router in routers]
        self._schedule = LambdaLR(optimizers, shares)
        self._peaks = self._schedule.base_lrs
        return {
            "optimizer": optimizers,
            "lr_scheduler": {"scheduler": self._schedule, "interval": "step", "frequency": 1},
            "monitor": "val_loss",
        }

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Give the first step the recipe's rate: a checkpoint brings those of the run that wrote it."""
        schedule = self._schedule
        schedule.base_lrs = self._peaks
        for group, peak, share in zip(schedule.optimizer.param_groups, self._peaks, schedule.lr_lambdas, strict=True):
            group["lr"] = peak * share(trainer.global_step)
