# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A megatron-core model that has just been built becomes one of a family: members, router, and the choice's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron.core import parallel_state

from nemo_elastic.core.family import Parent
from nemo_elastic.errors import bad
from nemo_elastic.kernels import check_widths
from nemo_elastic.train.training import FamilyTraining

from .load import load_model_weights
from .members import SavedMembers
from .mixer import have_kernels
from .run import ElasticState
from .vocabulary import make_elastic

__all__ = ["OVERLAPS", "check_overlaps", "check_ranks", "make_family"]

#: settings of data parallelism and of the optimizer that count on every micro-batch using every weight
OVERLAPS = ("overlap_grad_reduce", "overlap_param_gather", "overlap_param_gather_with_optimizer_step")


def check_overlaps(owners: Mapping[str, Any]) -> None:
    """Raise where a run is about to start with overlaps that were turned on again after `apply_elastic`.

    Args:
        owners: by their names, what may have such settings.

    Raises:
        ElasticError: one is on.
    """
    for owner, settings in owners.items():
        for name in OVERLAPS:
            if getattr(settings, name, False):
                why = "false, as apply_elastic left it: a micro-batch uses a part of the weights alone"
                raise bad(f"recipe.{owner}.{name}", True, why)


def check_ranks(family: FamilyTraining) -> None:
    """Raise for ranks that a family cannot have.

    Raises:
        ElasticError: context parallelism, or pipeline stages and several budgets per micro-batch.
    """
    context, several = parallel_state.get_context_parallel_world_size(), family.config.budgets_per_batch
    if context > 1:
        raise bad("context_parallel_size", context, "1 in this version")
    stages = parallel_state.get_pipeline_model_parallel_world_size()
    if stages > 1 and several > 1:
        raise bad("pipeline_model_parallel_size", stages, f"1 while elastic.budgets_per_batch is {several}")


def make_family(core: Any, family: FamilyTraining, parent: Parent, start: str | None = None) -> ElasticState:
    """Give a model router and members, in a submodule `elastic`, and the state that its layers obey.

    Before data parallelism wraps it, and before an optimizer is made of its parameters.

    Args:
        core: built with `spec.elastic_stack_spec`; changed.
        family: gets its members.
        parent: shape of the model.
        start: checkpoint of the parent, from which the weights are loaded.

    Raises:
        ElasticError: tensor-parallel ranks cannot share it, or a kernel refuses a width of the block's.
    """
    parent = family.config.parent_shape(parent)
    world = parallel_state.get_tensor_model_parallel_world_size()
    each = {"tensor": world, "expert tensor": parallel_state.get_expert_tensor_parallel_world_size()}
    for kind in parent.kinds:
        for axis in kind.axes:
            if axis.blocks is not None and axis.shared_by is not None:
                parent.axis(axis.name).shard(each[axis.shared_by])
    if have_kernels():
        check_widths(parent, family.config.resolve_axes(parent), world)
    router = family.new_router(parent)
    members = SavedMembers(parent, len(family.config.budgets), router).to(next(core.parameters()).device)
    core.add_module("elastic", members)
    family.members = members
    if start is not None:
        load_model_weights(core, start)
    state = ElasticState(parent)
    make_elastic(core, state)
    return state
