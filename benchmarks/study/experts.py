# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The study of a hybrid with experts: one run for all sizes, each size alone, and models from scratch.

Experts in hybrids exist on megatron-core 0.19 alone, so every job here trains through Megatron-Bridge, in its
environment. All else is as in the other studies: data, optimizer, schedule, data order, held-out tokens.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.study import work
from benchmarks.study.evaluate import heldout
from benchmarks.study.job import Job, fixed_shapes, read_result
from benchmarks.study.sizes import EXPERTS
from benchmarks.study.train import ORDER
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import active_parameters, parameters
from nemo_elastic.core.family import Parent, Subnet

#: tokens of the held-out text on which the loads of experts are counted
LOADED = 8192


# ---------------------------------------------------------------------------------------------------------- training


def bridge_sizes(member: Subnet) -> dict[str, Any]:
    """Fields of Bridge's provider for a member of the parent; how experts are balanced is the tiny recipe's."""
    from nemo_elastic.formats.megatron.shape import stock_sizes
    from nemo_elastic.hosts.bridge.tiny import TINY_EXPERTS

    sizes = stock_sizes(EXPERTS, member, experts=True)
    own = {name: sizes[name] for name in TINY_EXPERTS.keys() & sizes.keys()}
    return {**TINY_EXPERTS, **own, "hybrid_layer_pattern": member.pattern}


def container(job: Job, runs: Path, out: Path, member: Subnet = EXPERTS.full) -> Any:
    """The stock container of every run, with the settings of `train.recipe`."""
    from nemo_elastic.hosts.bridge.tiny import tiny_config

    return tiny_config(
        runs / job.data,
        out,
        steps=job.steps,
        seq_length=job.batch.length,
        micro_batch_size=job.batch.sequences,
        global_batch_size=job.batch.sequences,
        lr=job.lr,
        warmup_steps=max(1, job.steps // 20),
        split=job.split,
        eval_iters=1,
        seed=ORDER + job.seed,
        sizes=bridge_sizes(member),
    )


def train_stock(job: Job, runs: Path, out: Path, member: Subnet = EXPERTS.full) -> None:
    """A model of a member's size, from random weights by cross-entropy."""
    from megatron.bridge.training.gpt_step import forward_step
    from megatron.bridge.training.pretrain import pretrain

    from nemo_elastic.hosts.bridge.platform import bridge_on_this_machine

    made = container(job, runs, out, member)
    with bridge_on_this_machine(made):
        pretrain(made, forward_step)


def train_elastic(job: Job, runs: Path, out: Path, block: Mapping[str, Any], rank_only: bool = False) -> None:
    """A family of the parent, or what it starts from."""
    from benchmarks.study.balance import SPECS
    from nemo_elastic.hosts.bridge.apply import apply_elastic

    assert job.parent is not None
    made = container(job, runs, out)
    run = apply_elastic(
        made, {**block, "seed": job.seed}, teacher=str(runs / job.parent / "run" / "checkpoints"),
        out=str(out / "elastic"), rank_only=rank_only, verbose=False,
    )  # fmt: skip
    made.model.hybrid_stack_spec = SPECS[job.balance]
    run.pretrain()


def opened(out: Path) -> tuple[Any, dict[str, Subnet]]:
    """The model that a run has left, in torch, and its members."""
    from nemo_elastic.formats.folders import open_source
    from nemo_elastic.nn.nemotron_h import NemotronH

    source = open_source(out / "checkpoints")
    tensors = {name: raw.torch() for name, raw in source.tensors.items()}
    return NemotronH(source.parent, tensors, source.held, trainable=False), dict(source.members)


# -------------------------------------------------------------------------------------------------------- evaluating


def measured(job: Job, runs: Path, model: Any, members: Mapping[str, Subnet]) -> dict[str, Any]:
    """Losses, shares of the parent's parameters, and how even the loads of experts are."""
    data = runs / job.data
    whole = model.parent.full
    return {
        **heldout(model, data, job.batch.length, members),
        "shares": {name: parameters(model.parent, m) / parameters(model.parent, whole) for name, m in members.items()},
        "active": {
            name: active_parameters(model.parent, m) / active_parameters(model.parent, whole)
            for name, m in members.items()
        },
        "shapes": {name: m.to_json() for name, m in members.items()},
        "load": {name: load(model, data, job.batch.length, m) for name, m in members.items()},
    }


def load(model: Any, data: Path, length: int, member: Subnet) -> float:
    """Tokens of the busiest expert over the mean of its layer's, averaged over layers, on held-out text."""
    import numpy as np
    import torch

    from nemo_elastic.data.folder import DataFolder

    tokens_bl = torch.from_numpy(
        np.asarray(DataFolder.open(data).tokens("val")[:LOADED], dtype=np.int64).reshape(-1, length)
    )
    counts: dict[int, torch.Tensor] = {}

    def probe(site: str, index: int, x: torch.Tensor) -> None:
        if site == "routed":
            counts[index] = x.flatten(0, -2).double().sum(0)

    with torch.no_grad():
        model(tokens_bl, member, probe)
    return sum(float(tokens_e.max() / tokens_e.mean()) for tokens_e in counts.values()) / len(counts)


# ------------------------------------------------------------------------------------------------------------- kinds


def parent(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    cpu = time.process_time()
    train_stock(job, runs, out)
    cpu = time.process_time() - cpu
    model, _ = opened(out)
    tokens = job.steps * job.batch.tokens
    flops = 3 * tokens * work.forward(EXPERTS, EXPERTS.full, job.batch.length)
    losses = measured(job, runs, model, {"full": model.parent.full})
    return losses | {"tokens": tokens, "flops": flops, "cpu_seconds": cpu}


def ranked(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    """Rank, sort, search: the shapes that all who are named after it train, and what they are untrained."""
    config = ElasticConfig.from_dict(dict(job.block))
    cpu = time.process_time()
    train_elastic(job, runs, out, job.block, rank_only=True)
    cpu = time.process_time() - cpu
    model, members = opened(out)
    trace = json.loads((out / "elastic" / "shapes.json").read_text())["report"]["trace"]
    length = job.batch.length
    flops = work.search(model.parent, config, trace, length) + work.ranking(model.parent, config, length)
    spent = {"tokens": 0, "flops": flops, "cpu_seconds": cpu}
    return measured(job, runs, model, members) | spent | {"ranking": str(out / "elastic" / "ranking")}


def family(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    """All sizes in one run, or one of them alone (`member`)."""
    assert job.after is not None
    block = {**job.block, **fixed_shapes(job, runs, out)}
    cpu = time.process_time()
    train_elastic(job, runs, out, block)
    cpu = time.process_time() - cpu
    model, members = opened(out)
    config = ElasticConfig.from_dict({**block, "seed": job.seed})
    flops = work.elastic_steps(model.parent, config, list(members.values()), job.steps, job.batch)
    # who trains all sizes is charged for what found them; those who take them have it beside them
    before = {"flops": 0.0, "cpu_seconds": 0.0} if job.member else read_result(runs, job.after)
    kept = {job.member: members[job.member]} if job.member else members
    return measured(job, runs, model, kept) | {
        "tokens": job.steps * job.batch.tokens,
        "flops": flops + before["flops"],
        "flops_before_training": before["flops"],
        "cpu_seconds": cpu + before["cpu_seconds"],
    }


def scratch(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    """The shape of a member, from random weights."""
    assert job.after is not None and job.member is not None
    shape = sized(job.block)
    member = Subnet.from_json(read_result(runs, job.after)["shapes"][job.member], shape)
    cpu = time.process_time()
    train_stock(job, runs, out, member)
    cpu = time.process_time() - cpu
    model, _ = opened(out)
    tokens = job.steps * job.batch.tokens
    own = measured(job, runs, model, {job.member: model.parent.full})
    return own | {
        "shares": {job.member: parameters(shape, member) / parameters(shape, shape.full)},
        "active": {job.member: active_parameters(shape, member) / active_parameters(shape, shape.full)},
        "tokens": tokens,
        "flops": 3 * tokens * work.forward(shape, member, job.batch.length),
        "cpu_seconds": cpu,
    }


def sized(block: Mapping[str, Any]) -> Parent:
    """The parent with the stripes of a block."""
    return ElasticConfig.from_dict(dict(block)).parent_shape(EXPERTS)


KINDS = {"experts_parent": parent, "experts_ranked": ranked, "experts": family, "experts_scratch": scratch}


def run_kind(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    """What a job found; each has a port of its own to meet itself at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        os.environ["MASTER_PORT"] = str(one.getsockname()[1])
    return KINDS[job.kind](job, runs, out)
