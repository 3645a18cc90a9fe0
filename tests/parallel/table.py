# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Layouts of ranks against one rank that trains the same: each way to lay out ranks, alone and with others."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.parallel.compare import LOSS, WEIGHT, deviation, gradients, lines, weights
from tests.parallel.runs import PEAK, WIDE, Job, Layout, do, prepare, ranking_of
from tests.support.figures import largest

STEPS = 2
#: largest deviation of a gradient, relative to the largest value of the same tensor; float32
GRADIENT = 2e-4
#: of every member's held-out loss and divergence before the first step and after the last, in nats
VALIDATED = 5e-6
#: the same in bf16, which rounds activations to 8 bits; and of a step's loss from that in float32
HALF_GRADIENT, HALF_LOSS, HALF_VALIDATED, SINGLE = 5e-2, 2e-3, 5e-4, 1e-2

#: in bf16, as the large recipes train: the weights of the model in half precision, the router's in float32
HALF = Layout(pipeline=2, data=2, sharded=True, micro_batches=4, soft=True, half=True)
#: those of `make test`: every kind of parallelism, in as few runs as show it
FEW = (
    Layout(tensor=2, sequence=True, data=2, sharded=True),
    Layout(tensor=2, sequence=True, pipeline=2, recompute="full", micro_batches=4, soft=True),
    HALF,
)
#: searched ones count a part of the text; in two pipeline stages these are those of `test_packed.py`
SUITE = (
    *FEW,
    Layout(tensor=2, soft=True),
    Layout(pipeline=2, data=2, sharded=True, teacher=False, micro_batches=4, soft=True),
    Layout(pipeline=2, micro_batches=4, mode="trainable"),
    Layout(recompute="selective"),
    Layout(context=2, tensor=2, sequence=True, soft=True),
    Layout(tensor=2, sequence=True, data=2, sharded=True, soft=True, overlap=True),
    # a router that no rank's shard holds whole; its clipping is always active
    Layout(tensor=2, sequence=True, data=2, sharded=True, soft=True, clip=1e-4, router=WIDE),
    Layout(pipeline=4, micro_batches=4, mode="frozen_ce", searched=True),
    Layout(context=2, data=2, micro_batches=4, searched=True, per_token=True),
)

#: a run that validates after each step
OFTEN = "often"


def row(place: Path, layout: Layout) -> dict[str, Any]:
    """Train in a layout, and compare with one rank."""
    single = replace(layout.alone, half=False)
    out, base = place / layout.name, place / layout.alone.name
    precise = [single] if layout.half and not layout.searched else []
    for each in (layout.alone, layout, *precise):
        if not (place / each.name).exists():
            do(place, Job(each.name, layout=each, steps=STEPS, padded=each.searched))
    facts, (alone,) = ([json.loads(rank.read_text()) for rank in sorted((place / "log" / run.name).glob("*.json"))]
                       for run in (out, base))  # fmt: skip
    results: dict[str, Any] = {
        "samples": all(r["samples"] == alone["samples"] for r in facts),
        # what is logged: NeMo gives the loss to the last pipeline stage and to the first of all ranks
        "loss": largest(abs(a - b) / abs(b) for a, b in zip(facts[0]["losses"], alone["losses"], strict=True)),
        "budgets": [r["budgets"] for r in facts] == layout.world * [facts[0]["budgets"]],
        "replicas": len({(r["elastic"], r["ranking"]) for r in facts}) == 1,
        "weight": deviation(weights(out), weights(base)) / PEAK,
        "gradient": deviation(gradients(out), gradients(base), relative=True),
        "monitored": [r["monitored"] for r in facts] == layout.world * [alone["monitored"]] != [],
        "router": float(sum((g**2).sum() for name, g in gradients(out).items() if "router" in name)) ** 0.5,
    }  # fmt: skip
    pairs = zip(lines(out, "heldout"), lines(base, "heldout"), strict=True)
    results["validated"] = largest(
        abs(ours[kind][name] - loss) for ours, theirs in pairs for kind in ("losses", "kl")
        for name, loss in theirs[kind].items()
    )  # fmt: skip
    if precise:
        ours, theirs = ([line["reduced_train_loss"] for line in lines(run)] for run in (base, place / single.name))
        results["single"] = largest(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / max(theirs)
    return results


def wrong(layout: Layout, row: Mapping[str, Any]) -> list[str]:
    """What a layout's row says that one rank would not have said; empty where all is well."""
    if "error" in row:
        return [row["error"]]
    flags = {
        "samples": "another choice on some rank",
        "budgets": "not every rank knows the loss of every budget",
        "replicas": "routers or members differ among ranks",
        "monitored": "not every rank has the losses of a validation",
    }
    limits = {"loss": LOSS, "weight": WEIGHT, "gradient": GRADIENT, "validated": VALIDATED}
    if layout.half:
        limits = {"loss": HALF_LOSS, "gradient": HALF_GRADIENT, "validated": HALF_VALIDATED, "single": SINGLE}
    return [report for name, report in flags.items() if not row.get(name, True)] + [
        f"{name} apart by {row[name]:.1e}, more than {limit:g}"
        for name, limit in limits.items()
        if not row.get(name, 0) <= limit
    ]


def measure(place: Path, only: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """The rows that are named, or all; a layout that fails says how."""
    results: dict[str, dict[str, Any]] = {}
    prepare(place)
    layouts = [one for one in SUITE if not only or one.name in only]
    if any(one.router == WIDE for one in layouts):
        wide = Layout(soft=True, router=WIDE)
        do(place, Job(ranking_of(wide), "rank", wide))
    for layout in layouts:
        try:
            results[layout.name] = row(place, layout)
        except Exception as error:
            results[layout.name] = {"error": str(error)[-2000:]}
        print(f"  {layout.name}: {results[layout.name]}", flush=True)
    if OFTEN in only:
        results[OFTEN] = validated_often(place)
    return results


def validated_often(place: Path) -> dict[str, Any]:
    """One of the runs on one rank again, with a validation after each step."""
    alone = FEW[0].alone
    (ran,) = do(place, Job(OFTEN, layout=alone, steps=STEPS, validate=1))
    seldom = json.loads((place / "log" / alone.name / "rank0.json").read_text())
    events = b"".join(path.read_bytes() for path in (place / OFTEN).rglob("events.out.tfevents.*"))
    tags = [f"{kind}/{name}" for kind in ("val_loss", "val_kl") for name in ("full", "large", "small")]
    tags += sorted({name for line in lines(place / OFTEN, "step") for name in line if name.startswith("loss_")})
    return {
        "steps": [line["step"] for line in lines(place / OFTEN, "heldout")],
        "tags": [tag for tag in tags if tag.encode() in events] == tags,
        "training": all(ran["facts"][0]["training"]),
        "same": all(ran["facts"][0][name] == seldom[name] for name in ("samples", "losses", "weights")),
    }
