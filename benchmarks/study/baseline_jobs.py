# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs of the baselines: ModelOpt cuts one size out of the parent, by proportions or search; NeMo distills it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.study.job import Job, parent_checkpoint, read_result
from benchmarks.study.train import ORDER


def pruned(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    """ModelOpt prunes the parent to a share of its parameters."""
    from benchmarks.study import modelopt_baseline, work
    from benchmarks.study.evaluate import parent_shape

    assert job.ratio is not None and job.member is not None
    checkpoint = modelopt_baseline.prune_to_ratio(
        parent_checkpoint(job, runs), out / "pruned", job.ratio, data=runs / job.data, seq_length=job.batch.length,
        seed=ORDER + job.seed,
    )  # fmt: skip
    facts, whole = modelopt_baseline.facts(checkpoint), parent_shape()
    flops = facts["measured_tokens"] * work.forward(whole, whole.full, job.batch.length)
    return cut(job, runs, checkpoint, flops, facts["cpu_seconds"])


def searched(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    """ModelOpt's own search prunes the parent to a share of its parameters.

    It goes by the loss and the tokens of our search (`job.block`), which finds all sizes at once, for as many
    candidates per size.
    """
    from benchmarks.study import minitron_baseline, work
    from benchmarks.study.evaluate import parent_shape
    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.core.cost import parameters

    assert job.ratio is not None and job.member is not None
    config, whole, length = ElasticConfig.from_dict(dict(job.block)), parent_shape(), job.batch.length
    sizes = sum(not budget.is_parent for budget in config.budgets)
    checkpoint = minitron_baseline.prune_by_search(
        parent_checkpoint(job, runs), out / "pruned", int(job.ratio * parameters(whole, whole.full)),
        data=runs / job.data, seq_length=length, score_tokens=config.search.tokens,
        top_k=config.search.candidates // sizes, seed=ORDER + job.seed,
    )  # fmt: skip
    facts = minitron_baseline.facts(checkpoint)
    flops = facts["measured_tokens"] * work.forward(whole, whole.full, length)
    flops += work.search(whole, config, [{"cost": c["parameters"]} for c in facts["candidates"]], length)
    search = {"candidates": facts["candidates"], "within": facts["within"], "modelopt": facts["modelopt"]}
    return cut(job, runs, checkpoint, flops, facts["cpu_seconds"]) | search


def cut(job: Job, runs: Path, checkpoint: Path, flops: float, cpu: float) -> dict[str, Any]:
    """Result of what cut one size out of the parent."""
    from benchmarks.study.evaluate import dense, heldout, parent_shape

    shape = dense_shape(checkpoint)
    return {
        **heldout(dense(checkpoint, shape), runs / job.data, job.batch.length, {str(job.member): None}),
        "shares": {job.member: parameter_share(shape, parent_shape())},
        "sizes": shape.to_json(),
        "tokens": 0,
        "flops": flops,
        "cpu_seconds": cpu,
    }


def modelopt(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    """NVIDIA's way: what ModelOpt pruned (the job before, of either kind), NeMo distills."""
    from benchmarks.study import modelopt_baseline, work
    from benchmarks.study.evaluate import dense, heldout, parent_shape

    assert job.after is not None and job.member is not None
    cpu = time.process_time()
    checkpoint = modelopt_baseline.distill(
        runs / job.after / "run" / "pruned", parent_checkpoint(job, runs), out / "distilled", data=runs / job.data,
        steps=job.steps, seq_length=job.batch.length, micro_batch_size=job.batch.sequences,
        global_batch_size=job.batch.sequences, lr=job.lr, warmup_steps=max(1, job.steps // 20), min_ratio=0.1,
        seed=ORDER + job.seed, eval_every=0,
    )  # fmt: skip
    cpu = time.process_time() - cpu
    whole, shape = parent_shape(), dense_shape(checkpoint)
    tokens = job.steps * job.batch.tokens
    before = read_result(runs, job.after)
    length = job.batch.length
    each = 3 * work.forward(shape, shape.full, length) + work.forward(whole, whole.full, length)
    return {
        **heldout(dense(checkpoint, shape), runs / job.data, length, {job.member: None}),
        "shares": {job.member: parameter_share(shape, whole)},
        "untrained": before["losses"],
        "tokens": tokens,
        "flops": tokens * each + before["flops"],
        "flops_before_training": before["flops"],
        "cpu_seconds": cpu + before["cpu_seconds"],
    }


def dense_shape(checkpoint: Path) -> Any:
    """Shape of the model in a NeMo checkpoint."""
    from nemo_elastic.formats.megatron.stored import read_shapes

    return read_shapes(checkpoint).parent


def parameter_share(shape: Any, whole: Any) -> float:
    """Parameters of one model over another's."""
    from nemo_elastic.core.cost import parameters

    return parameters(shape, shape.full) / parameters(whole, whole.full)
