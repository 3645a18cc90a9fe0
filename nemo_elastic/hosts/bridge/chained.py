# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Going on with an optimizer's states where ranks begin to share experts, or no longer do.

megatron-core has one optimizer for all weights; where ranks share experts, it has another for these. The distributed
optimizer's states are saved by the names of weights, so that each finds its own in any layout. What is saved of groups
of weights is each optimizer's, and is loaded by as many as wrote it, alone. A stage has another layout than the one
before it, so this is brought to those that there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from megatron.core.optimizer import ChainedOptimizer

from nemo_elastic.errors import ElasticError

_KIND, _BY_NAME = "param_state_sharding_type", "fully_reshardable"
#: what tells groups of experts that ranks share from all others
_SHARED = "is_expert_parallel"


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
