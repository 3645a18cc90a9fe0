# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Models that are built for a family: the student that becomes one, the frozen teacher, and the weights of both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.precision import default_rows
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.megatron.metadata import EXTRA_STATE, Metadata, model_prefix, read_metadata, weights_folder
from nemo_elastic.formats.megatron.torch_files import check_harmless
from nemo_elastic.kernels import BLOCK, SHAPE, TENSOR, check_widths
from nemo_elastic.plan.layouts import why_not_context
from nemo_elastic.train.members import Members
from nemo_elastic.train.training import FamilyTraining

from .choice import ElasticState
from .compat import content, shard
from .modules import have_kernels
from .rounding import Rounding
from .vocabulary import make_elastic


def check_rows(core: Any, path: str | Path) -> None:
    """Raise where a checkpoint that a host will load whole has another vocabulary than the model.

    megatron-core would cut it, or fill it up with zeros: of vocabularies alone it lets the shapes differ.
    """
    metadata = read_metadata(weights_folder(path))
    _check_rows(content(core, model_prefix(metadata.tensors)), metadata, path)


def _check_rows(wanted: Mapping[str, Any], metadata: Metadata, path: str | Path) -> None:
    for tensor in wanted.values():
        stored = metadata.tensors.get(getattr(tensor, "key", ""))
        if stored is None or not getattr(tensor, "allow_shape_mismatch", False):
            continue
        rows, has = tensor.global_shape[0], stored.size[0]
        if rows != has:
            raise ElasticError(
                f"checkpoint: {path}: its vocabulary has {has} rows, the model {rows}; neither is cut or filled up"
            )


def load_model_weights(core: Any, path: str | Path | None) -> None:
    """Load a checkpoint into a megatron-core model in place; the elastic submodule stays as it is."""
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.validation import StrictHandling

    assert path is not None
    metadata = check_harmless(path, only_weights=True, extra_states=False)
    prefix = model_prefix(metadata.tensors)
    held = content(core, prefix).items()
    wanted = {k: v for k, v in held if not k.startswith(f"{prefix}elastic.") and EXTRA_STATE not in k}
    _check_rows(wanted, metadata, path)
    loaded = dist_checkpointing.load(wanted, str(weights_folder(path)), strict=StrictHandling.RAISE_UNEXPECTED)
    state = {k.removeprefix(prefix): v for k, v in loaded.items() if k in wanted}
    missing, unexpected = core.load_state_dict(state, strict=False)
    wrong = [k for k in [*missing, *unexpected] if EXTRA_STATE not in k and not k.startswith("elastic.")]
    if wrong:
        raise ElasticError(f"checkpoint: {path}: parameters do not match the model: {', '.join(wrong[:5])}")


class SavedMembers(Members):
    """Members that megatron-core saves and loads with the model."""

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Router and members for a distributed checkpoint: replicas on every rank, so one rank of all writes them.

        megatron-core takes a module of its own to lie on one pipeline rank; this one lies on all.
        """
        state = shard(self.state_dict(keep_vars=True), prefix, {}, sharded_offsets)
        for tensor in state.values():
            tensor.replica_id = (parallel_state.get_pipeline_model_parallel_rank(), *tensor.replica_id[1:])
        return state


#: settings of data parallelism and of the optimizer that count on every module's forward being called
GATHERS: tuple[str, ...] = ("overlap_param_gather", "overlap_param_gather_with_optimizer_step")
#: the one that counts on every weight having a gradient, for which `overlap` reports
REDUCES = "overlap_grad_reduce"


def refused_overlaps(pipeline: int) -> dict[str, str]:
    """Overlaps that a family cannot have on so many pipeline ranks, and why."""
    modules = "megatron-core waits for a module's weights when it is called, and ours multiply by those of others"
    refused = dict.fromkeys(GATHERS, modules)
    if pipeline > 1:
        refused[REDUCES] = f"the router's gradients are summed over the {pipeline} pipeline ranks before"
    return refused


def turn_off(owners: Iterable[Any], refused: Iterable[str]) -> None:
    """Turn off the settings named in `refused`, see `refused_overlaps`, wherever an owner has them on."""
    for owner in owners:
        for name in refused:
            if getattr(owner, name, False):
                setattr(owner, name, False)


def check_overlaps(owners: Mapping[str, Any], refused: Mapping[str, str]) -> None:
    """Raise where a run is about to start with overlaps that were turned on again after `apply_elastic`."""
    for owner, settings in owners.items():
        for name, why in refused.items():
            if getattr(settings, name, False):
                raise bad(f"recipe.{owner}.{name}", True, f"false, as apply_elastic left it: {why}")


#: kinds of ranks, and the parent's shape -> how errors name them where no recipe does
NAMES = {
    "tensor": "tensor_model_parallel_size",
    "pipeline": "pipeline_model_parallel_size",
    "context": "context_parallel_size",
    "expert tensor": "expert_tensor_parallel_size",
    "shape": "model",
}


def check_ranks(
    config: ElasticConfig, parent: Parent, ranks: Mapping[str, int], kernels: bool, names: Mapping[str, str] = NAMES
) -> None:
    """Raise for ranks that cannot share every member of a parent.

    Args:
        parent: its shape, with the stripes of the block.
        ranks: how many, of each kind in `NAMES`.
        kernels: whether members run in CUDA kernels, which refuse some widths.
    """

    def wrong(kind: str, allowed: str) -> ElasticError:
        return bad(names[kind], ranks[kind], allowed)

    tensor, pipeline, context = (ranks[kind] for kind in ("tensor", "pipeline", "context"))
    if parent.num_layers % pipeline:
        raise wrong("pipeline", f"a size that divides the {parent.num_layers} layers of {names['shape']}")
    for kind in parent.kinds:
        for axis in kind.axes:
            if axis.blocks is None or axis.shared_by is None:
                continue
            blocks, share = parent.axis(axis.name).blocks, ranks[axis.shared_by]
            if blocks % share:
                what = f"({names['shape']}.{kind.megatron.get(axis.blocks)})"
                if axis.stripes:
                    what = f"of elastic.axes.{axis.name}; set stripes to a multiple of {share}"
                raise wrong(axis.shared_by, f"a size that divides the {blocks} {axis.block_words} {what}")
    axes = config.resolve_axes(parent)
    reason = why_not_context(parent, axes, tensor, context)
    if reason is not None:
        raise wrong("context", f"a size that members can share: {reason}")
    config.check_blocks(parent, *((names[kind], ranks[kind]) for kind in ("tensor", "expert tensor")))
    if kernels:
        spelt = {TENSOR: names["tensor"], SHAPE: f"{names['shape']}.{SHAPE}", BLOCK: f"elastic.{BLOCK}"}
        check_widths(parent, axes, tensor * context, spelt)


def make_family(core: Any, family: FamilyTraining, parent: Parent, start: str | None = None) -> ElasticState:
    """Give a model router and members, in a submodule `elastic`, and the state that its layers obey.

    Before data parallelism wraps it, and before an optimizer is made of its parameters.
    `start` is a checkpoint of the parent, from which the weights are loaded.
    """
    parent = family.config.parent_shape(parent)
    ranks = {
        "tensor": parallel_state.get_tensor_model_parallel_world_size(),
        "pipeline": parallel_state.get_pipeline_model_parallel_world_size(),
        "context": parallel_state.get_context_parallel_world_size(),
        "expert tensor": parallel_state.get_expert_tensor_parallel_world_size(),
    }
    check_ranks(family.config, parent, ranks, have_kernels())
    router = family.new_router(parent)
    members = SavedMembers(parent, len(family.config.budgets), router)
    members = members.to(next(core.parameters()).device)
    core.add_module("elastic", members)
    family.members = members
    if start is not None:
        load_model_weights(core, start)
    scheme = family.config.distill.quantize
    rounding = None if scheme is None else Rounding(scheme, default_rows(parent))
    state = ElasticState(parent, rounding=rounding)
    make_elastic(core, state)
    return state


def family_models(
    core: Any,
    family: FamilyTraining,
    parent: Parent,
    build: Callable[[Any], Any],
    config: Any,
    teacher: str | None,
    start: str | Path | None,
    trains: bool = True,
) -> tuple[ElasticState, Any]:
    """Make a host's model one of a family, and build its frozen teacher where the block has one.

    Args:
        core: the model.
        parent: its shape.
        build: makes another model of a config.
        config: of the model.
        teacher: checkpoint of the parent, from which stage 1 takes the weights.
        start: what the host will load instead.
        trains: whether there are steps, so that a teacher is needed.

    Returns:
        The state that the model's layers obey, and the teacher or None.
    """
    if start is not None:
        check_rows(core, start)
    distill, frozen = family.config.distill, None
    if distill.teacher == "frozen" and trains:
        frozen = build_teacher(build, config, teacher, distill.teacher_precision)
    return make_family(core, family, parent, teacher if family.stage == 1 and start is None else None), frozen


def build_teacher(build: Callable[[Any], Any], config: Any, path: str | None, precision: str | None = None) -> Any:
    """The parent as a frozen megatron-core model, sharded like the student.

    With `precision` bf16 its weights are allocated in bf16, whatever the checkpoint holds.
    """
    if precision == "bf16":
        # the student keeps its own: a copy, not a change
        config = copy.copy(config)
        config.bf16, config.params_dtype = True, torch.bfloat16
    teacher = build(config).eval().requires_grad_(False)
    if not config.use_cpu_initialization:  # megatron-core makes the routers of experts on the CPU
        teacher = teacher.cuda(torch.cuda.current_device())
    if config.bf16:
        teacher = teacher.bfloat16()  # as megatron-core's Float16Module does with the student
    load_model_weights(teacher, path)
    return teacher
