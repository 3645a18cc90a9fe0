# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members as megatron-core's distributed checkpoints, without a model and without ranks.

The layout table knows every tensor's name, shape and parts, so tensors go to megatron-core's writer as they are. It
starts a process that imports the caller's `__main__` again, so a script has to guard its work by its `__name__`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.layout import Tensor, tensors
from nemo_elastic.core.prediction import Prediction
from nemo_elastic.errors import bad
from nemo_elastic.formats.adapter import extra_states, stacked_of, to_megatron, to_parts
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.folders import CHECKPOINT
from nemo_elastic.formats.megatron.metadata import RELEASE, RUN_CONFIG, TRACKER
from nemo_elastic.formats.megatron.shape import stock_sizes
from nemo_elastic.io.outputs import atomic_dir, check_room
from nemo_elastic.io.write import atomic_write
from nemo_elastic.slicing.cutting import without_mtp

from .cpu import cuda_as_cpu

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def write_megatron_checkpoint(
    out: str | os.PathLike[str],
    parent: Parent,
    member: Subnet,
    tensors_hf: Mapping[str, Any],
    force: bool = False,
    seq_length: int = 8192,
    prediction: Prediction | None = None,
    steps: int = 0,
) -> Path:
    """Write a uniform member as Megatron-Bridge's `checkpoint.pretrained_checkpoint` and our `teacher` take it.

    The folder holds `release/`, a torch_dist checkpoint with `run_config.yaml`, whose `model` are the sizes of a
    HybridModelProvider, and the file that names it.

    Args:
        member: the member. Its vocabulary is the parent's: nothing is padded.
        tensors_hf: torch tensors, numpy arrays or tensors of a file by HF name, layers numbered within the member.
        seq_length: written into the sizes; it bounds no weight.
        prediction: layers that predict more than one token, whose tensors are among `tensors_hf`.
    """
    from megatron.core import dist_checkpointing

    sizes = stock_sizes(parent, member.validate(parent), experts=True)
    with atomic_dir(out, force, kind=CHECKPOINT) as folder:
        state = to_megatron(parent, member, tensors_hf, prediction)
        check_room(folder, sum(t.nbytes for t in state.values()))
        dtype = dtype_args(state["embedding.word_embeddings.weight"].dtype)
        release = folder / RELEASE
        release.mkdir()
        mtp = [] if prediction is None else prediction.tensors(parent, member)
        model = sharded(parent, member, state, more=mtp)
        if prediction is not None:
            sizes |= {"mtp_num_layers": steps, "mtp_hybrid_override_pattern": prediction.pattern}
            sizes |= {"mtp_use_repeated_layer": prediction.steps != steps}
        content = {"checkpoint_version": 3.0, "iteration": 0, "model": model}
        with process_group(), cuda_as_cpu(), quiet("megatron.core.dist_checkpointing"):
            dist_checkpointing.save(content, str(release), ("torch_dist", 1), content_metadata={})
        atomic_write(release / RUN_CONFIG, yaml.safe_dump(_run_config(sizes, dtype, seq_length)))
        atomic_write(folder / TRACKER, RELEASE)
    return Path(out)


def write_cut(member: Checkpoint, out: str | os.PathLike[str], force: bool = False) -> Path:
    """Write a member: the writer of `slice --format megatron`.

    Layers that predict further tokens are left out where nothing describes them (`Checkpoint.prediction`).
    """
    if member.prediction is None or not member.mtp:
        weights = without_mtp(member).as_torch()
        return write_megatron_checkpoint(out, member.parent, member.subnet, weights, force)
    return write_megatron_checkpoint(
        out, member.parent, member.subnet, member.as_torch(), force,
        prediction=member.prediction, steps=member.config["num_nextn_predict_layers"],
    )  # fmt: skip


def _run_config(sizes: Mapping[str, Any], dtype: Mapping[str, Any], seq_length: int) -> dict[str, Any]:
    """What Bridge's reader asks of a checkpoint's run, and the model's sizes under its provider's names."""
    model = dict(sizes) | {
        "_target_": "megatron.bridge.models.hybrid.hybrid_provider.HybridModelProvider",
        "activation_func": {"_target_": "megatron.core.activations.squared_relu", "_call_": False},
        "params_dtype": {"_target_": str(dtype["params_dtype"]), "_call_": False},
        "bf16": dtype["bf16"],
        "fp16": dtype["fp16"],
        "seq_length": seq_length,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
    }
    return {"model": model, "checkpoint": {"save_optim": False, "save_rng": False, "fully_parallel_save": False}}


def dtype_args(dtype: torch.dtype) -> dict[str, Any]:
    """How a config says of which type its weights are."""
    if dtype not in _DTYPES:
        raise bad("tensors.backbone.embeddings.weight", str(dtype), "float32, bfloat16 or float16")
    return {"params_dtype": dtype, "bf16": dtype is torch.bfloat16, "fp16": dtype is torch.float16}


def sharded(
    parent: Parent,
    member: Subnet,
    state: Mapping[str, torch.Tensor],
    prefix: str = "",
    more: Sequence[Tensor] = (),
) -> dict[str, Any]:
    """Every tensor and empty extra state as megatron-core's writer takes them, on one process that holds all.

    What is stored as one is handed over one by one, as expert-parallel ranks do: nothing is copied.

    Args:
        state: by name in megatron-core's model; a tied model has the head's extra state, too.
        more: tensors of layers that predict further tokens.
    """
    from megatron.core.dist_checkpointing.mapping import ShardedObject

    whole = [*tensors(replace(parent, tied=False), member), *more]
    out = _placed(to_parts(parent, member, whole, state), prefix)
    for name, count in extra_states(whole):
        for i in range(count):
            key = f"{prefix}{name}" if count == 1 else f"{prefix}{name}.{i}"
            out[key] = ShardedObject(f"{prefix}{name}", None, (count,), (i,))
    return out


def _placed(stored: Mapping[str, torch.Tensor], prefix: str) -> dict[str, Any]:
    """Tensors as megatron-core's writer takes them."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    made = ShardedTensor.from_rank_offsets
    places = {name: stacked_of(name) or (name, None) for name in stored}
    counts = Counter(key for key, _ in places.values())
    out: dict[str, Any] = {}
    for name, value in stored.items():
        key, number = places[name]
        at = () if number is None else ((0, number, counts[key]),)
        out[f"{prefix}{name}"] = made(f"{prefix}{key}", value, *at, prepend_axis_num=len(at))
    return out


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """Let a logger say nothing while it lasts."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """A process group of one: the one that is there, or one that lasts as long as the body."""
    import torch.distributed as dist

    if dist.is_initialized():
        if dist.get_world_size() > 1:
            raise bad("world size", dist.get_world_size(), "a checkpoint of a member is written by a single process")
        yield
        return
    # a store in memory: no port, no environment variables
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
