# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One job of a study: train, evaluate, write `result.json`. A job that has one is done; its checkpoints are removed.

python -m benchmarks.study.jobs NAME --runs runs/study
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.study.baseline_jobs import modelopt, pruned, searched
from benchmarks.study.job import ON_BRIDGE, PARENTS, Job, fixed_shapes, parent_checkpoint, read_result
from benchmarks.study.studies import find


def run_job(job: Job, runs: Path) -> dict[str, Any]:
    """Train and evaluate in this process; the result is written beside what the run left."""
    out = runs / job.name
    if (out / "result.json").is_file():
        return json.loads((out / "result.json").read_text())
    shutil.rmtree(out, ignore_errors=True)
    (out / "run").mkdir(parents=True)
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    import_host(job.kind)
    began = time.process_time()
    result = KINDS[job.kind](job, runs, out / "run")
    result |= {"job": job.name, "kind": job.kind, "seed": job.seed, "steps": job.steps}
    result["process_seconds"] = time.process_time() - began
    if job.kind not in (*PARENTS, "pruned", "searched"):  # others start from these
        shutil.rmtree(out / "run" / "checkpoints", ignore_errors=True)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def import_host(kind: str) -> None:
    """Imports are start-up, not work."""
    if kind in ON_BRIDGE:
        import torch

        import nemo_elastic.hosts.bridge.apply

        torch.set_flush_denormal(True)  # as `quiet` does
    else:
        from nemo_elastic.demo.quiet import quiet

        quiet()
        import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401


# ---------------------------------------------------------------------------------------------------------- kinds


def parent(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    from benchmarks.study.evaluate import answers, dense, heldout, parent_shape
    from benchmarks.study.train import train_parent
    from benchmarks.study.work import forward
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    cpu = time.process_time()
    data = runs / job.data
    start = last_checkpoint(runs / job.after / "run") if job.after else None
    checkpoint = train_parent(data, out, job.steps, job.batch, job.split, job.model, job.lr, start)
    cpu = time.process_time() - cpu
    shape = parent_shape(model=job.model)
    tokens = job.steps * job.batch.tokens
    model = dense(checkpoint, shape)
    flops = 3 * tokens * forward(shape, shape.full, job.batch.length)
    if job.after:
        before = read_result(runs, job.after)
        tokens, flops, cpu = tokens + before["tokens"], flops + before["flops"], cpu + before["cpu_seconds"]
    losses = heldout(model, data, job.batch.length, {"full": None})
    result = losses | {"tokens": tokens, "flops": flops, "cpu_seconds": cpu}
    return result | ({"answers": {"full": answers(model, data)}} if job.ask else {})


def elastic(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    """A family in one run, or a single member of fixed shape (`member`)."""
    from benchmarks.study import work
    from benchmarks.study.evaluate import answers, family, heldout
    from benchmarks.study.train import train_elastic
    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.core.cost import parameters

    block = {**job.block, **fixed_shapes(job, runs, out)}
    first = parent_checkpoint(job, runs)
    data = runs / job.data
    total = job.steps + (job.late[0] if job.late else 0)
    cpu = time.process_time()
    checkpoint = train_elastic(
        data, out, first, block, job.steps, job.batch, job.seed, total=total, split=job.split, lr=job.lr,
        model=job.model,
    )  # fmt: skip
    if job.late:
        checkpoint = train_elastic(
            data, out.with_name("late"), first, block, job.late[0], job.late[1], job.seed, stage=2,
            previous=checkpoint, done=job.steps, total=total, split=job.split, lr=job.lr, model=job.model,
        )  # fmt: skip
    cpu = time.process_time() - cpu
    model, members = family(checkpoint)
    config = ElasticConfig.from_dict({**block, "seed": job.seed})
    flops = work.elastic_steps(model.parent, config, list(members.values()), job.steps, job.batch)
    tokens = job.steps * job.batch.tokens
    if job.late:
        flops += work.elastic_steps(model.parent, config, list(members.values()), *job.late, stage=2)
        tokens += job.late[0] * job.late[1].tokens
    shapes = json.loads((out / "elastic" / "shapes.json").read_text())
    trace = shapes["report"].get("trace", [])
    extra = work.search(model.parent, config, trace, job.batch.length)
    extra += 0.0 if config.ranking else work.ranking(model.parent, config, job.batch.length)
    kept = {job.member: members[job.member]} if job.member else members
    whole = parameters(model.parent, model.parent.full)
    length = (job.late[1] if job.late else job.batch).length
    answered = {"answers": {n: answers(model, data, m) for n, m in kept.items()}} if job.ask else {}
    return answered | {
        **heldout(model, data, length, kept),
        "shares": {n: parameters(model.parent, m) / whole for n, m in kept.items()},
        "shapes": {n: m.to_json() for n, m in members.items()},
        "ranking": config.ranking or str(out / "elastic" / "ranking"),
        "tokens": tokens,
        "flops": flops + extra,
        "flops_before_training": extra,
        "cpu_seconds": cpu,
    }  # fmt: skip


def nested(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    """A family in one run, kept as a family folder for the jobs that ask its members."""
    from benchmarks.study.evaluate import family
    from nemo_elastic.core.manifest import Family
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint
    from nemo_elastic.slicing.family_folder import write_family

    result = elastic(job, runs, out)
    model, members = family(last_checkpoint(out.with_name("late")))
    write_family(
        out / "family", model.parent, dict(model.named_parameters()), Family.of(model.parent, members),
        runs / job.data / "tokenizer",
    )  # fmt: skip
    shutil.rmtree(out.with_name("late"))
    return result


def auto(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    """Members chosen by themselves, of the family of another job or, where none is named, of the demo."""
    from benchmarks.study import auto as study
    from nemo_elastic.data.folder import DataFolder
    from nemo_elastic.runtime import load_family

    if job.after is not None:
        return study.answers(load_family(runs / job.after / "run" / "family"), runs / job.data, job.seed)
    demo = runs.parent / "demo"
    return study.text(load_family(demo / "family"), DataFolder.open(demo / "data"), job.seed)


def scratch(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    """The shape of another job's member, from random weights."""
    from benchmarks.study import work
    from benchmarks.study.evaluate import dense, heldout, parent_shape
    from benchmarks.study.train import train_dense
    from nemo_elastic.core.cost import parameters
    from nemo_elastic.core.family import Subnet
    from nemo_elastic.formats.megatron.shape import FIELDS, stock_sizes

    assert job.after and job.member
    whole = parent_shape()
    member = Subnet.from_json(read_result(runs, job.after)["shapes"][job.member], whole)
    sizes = stock_sizes(whole, member)
    cpu = time.process_time()
    checkpoint = train_dense(runs / job.data, out, job.steps, sizes, job.batch, job.seed, job.lr)
    cpu = time.process_time() - cpu
    shape = replace(whole, **{ours: sizes[theirs] for ours, theirs in FIELDS.items() if theirs in sizes})
    losses = heldout(dense(checkpoint, shape), runs / job.data, job.batch.length, {job.member: None})
    tokens = job.steps * job.batch.tokens
    return {
        **losses,
        "shares": {job.member: parameters(whole, member) / parameters(whole, whole.full)},
        "tokens": tokens,
        "flops": 3 * tokens * work.forward(whole, member, job.batch.length),
        "cpu_seconds": cpu,
    }


def on_bridge(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    """A job of the study of experts."""
    from benchmarks.study.experts import run_kind

    return run_kind(job, runs, out)


KINDS: dict[str, Callable[[Job, Path, Path], dict[str, Any]]] = {
    "parent": parent, "elastic": elastic, "nested": nested, "auto": auto, "scratch": scratch,
    "pruned": pruned, "searched": searched, "modelopt": modelopt,
    **dict.fromkeys(ON_BRIDGE, on_bridge),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    args = parser.parse_args()
    result = run_job(find(args.name), args.runs.resolve())
    print(json.dumps({k: v for k, v in result.items() if k != "shapes"}))


if __name__ == "__main__":
    main()
