# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Adam as megatron-core's distributed optimizer needs it, where TransformerEngine's and Apex's cannot run.

megatron-core takes the layout of an optimizer's state from what it finds installed. Over torch's AdamW, whose steps
are tensors among the moments, its distributed optimizer trains, but can neither save nor load (megatron-core 0.15.3).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from megatron.core import optimizer as mcore
from megatron.core.optimizer import distrib_optimizer
from torch.optim.adam import adam
from torch.optim.adamw import adamw


class GroupStepAdam(torch.optim.AdamW):
    """torch's AdamW, bit for bit, with the state of the fused ones: two moments per parameter, one step per group.

    Args:
        params: parameters or groups of them.
        adam_w_mode: decoupled weight decay, else Adam's; the name is that of the fused ones.
        more: of torch's AdamW.
    """

    def __init__(self, params: Any, adam_w_mode: bool = True, **more: Any) -> None:
        super().__init__(params, **more)
        self._update = adamw if adam_w_mode else adam

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)  # AdamW's looks for a step among the moments

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; a group without parameters, of which a rank may hold no shard, does not count any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["params"]:
                self._step(group)
        return loss

    def _step(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p] |= {k: torch.zeros_like(p) for k in ("exp_avg", "exp_avg_sq")}
        done = group.get("step", 0)
        self._update(
            params,
            [p.grad for p in params],
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [torch.tensor(float(done)) for _ in params],  # each is counted up by itself
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        group["step"] = done + 1


#: names in megatron-core that say which Adam there is and how its state is laid out
_REPLACED: tuple[tuple[Any, str, Any], ...] = (
    (mcore, "Adam", GroupStepAdam),
    (mcore, "USING_PYTORCH_OPTIMIZER", False),
    (distrib_optimizer, "Adam", GroupStepAdam),
    (distrib_optimizer, "HAVE_APEX_OR_TE", True),
    (distrib_optimizer, "USING_APEX_OPTIMIZER", True),
)


@contextlib.contextmanager
def group_step_adam() -> Iterator[None]:
    """Runs the body with `GroupStepAdam` as megatron-core's fused Adam. May be nested."""
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in _REPLACED]
    try:
        for owner, name, value in _REPLACED:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in saved:
            setattr(owner, name, value)
