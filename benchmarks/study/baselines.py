# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What one run for all sizes costs, beside a run for each size: several ways to the same sizes, from one parent.

(a) ModelOpt prunes in NVIDIA's proportions and NeMo distills, once per size; (b) each size of ours distilled alone;
(c) ours, all sizes in one run. Every run goes through NeMo, in this process, on one core; ModelOpt prunes in processes
of its own, in Megatron-Bridge's environment.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.study import modelopt_baseline
from benchmarks.study.baselines_table import page
from benchmarks.study.nemo_runs import (
    ORDER,
    PARENT_LR,
    SIZES,
    Batch,
    NemoGround,
    Runs,
    block,
    dense,
    forward_flops,
    heldout,
    train_family,
    train_parent,
)
from benchmarks.study.results import kept

AXES: dict[str, Any] = {
    "hidden": [256, 240, 224, 208, 192, 176, 160, 144, 128],
    "ffn": {"choices": [1280, 1120, 960, 800, 640, 480, 320], "stripes": 8},
    "mamba_heads": [16, 12, 8],
    "mamba_head_dim": [32, 28, 24, 20, 16],
    "attention_heads": [8, 6, 4],
    "depth": [10, 9, 8, 7, 6, 5],
}
BLOCK = block(AXES)
PARENT_STEPS, PARENT_BATCH, BATCH = 732, Batch(8, 256), Batch()
#: of each size's runs; families have all but the first
STEPS = (30, 60, 120, 240)
#: peak rates: the best of those tried in runs of 120 steps, see docs/tables/study_rates.md
OURS_LR = 5e-4
LR = {
    "alone": {"72": 2.5e-4, "50": 5e-4},
    "modelopt": {"72": 5e-4, "50": 1e-3},
}


class Study:
    """All runs of a seed.

    Args:
        runs: of the study.
        ground: with the trained parent.
        seed: of data order, ranking and search.
    """

    def __init__(self, runs: Runs, ground: NemoGround, seed: int) -> None:
        assert ground.parent is not None
        self.runs, self.ground, self.seed = runs, ground, seed
        self.whole, self.parent = ground.shape, ground.parent

    def ours(self, steps: int) -> dict[str, Any]:
        """All sizes in one run."""
        return self.runs.run(
            f"ours-{steps}-{self.seed}", steps, self.seed,
            lambda out: train_family(self.ground, out, BLOCK, [(steps, BATCH)], self.seed, OURS_LR),
        )  # fmt: skip

    def alone(self, name: str, steps: int, shaped: dict[str, Any]) -> dict[str, Any]:
        """One size of a family that has been trained, distilled by itself from the parent."""

        def make(out: Path) -> dict[str, Any]:
            shapes = out / "shapes.json"
            shapes.write_text(json.dumps({"members": {n: shaped["shapes"][n] for n in ("full", name)}}))
            own = BLOCK | {
                "budgets": [b for b in BLOCK["budgets"] if b["name"] in ("full", name)],
                "sampling": {"full": 0, name: 1}, "shapes": str(shapes), "ranking": shaped["ranking"],
            }  # fmt: skip
            return train_family(self.ground, out, own, [(steps, BATCH)], self.seed, LR["alone"][name])

        return self.runs.run(f"alone-{name}-{steps}-{self.seed}", steps, self.seed, make)

    def pruned(self, name: str) -> dict[str, Any]:
        """One size, cut out by ModelOpt in NVIDIA's proportions."""

        def make(out: Path) -> dict[str, Any]:
            checkpoint = modelopt_baseline.prune_to_ratio(
                self.parent, out / "pruned", SIZES[name], data=self.ground.data, seq_length=BATCH.length,
                seed=ORDER + self.seed,
            )  # fmt: skip
            facts, shape = modelopt_baseline.facts(checkpoint), _shape(checkpoint)
            return {
                "losses": heldout(dense(checkpoint, shape), self.ground.data, BATCH.length, {name: None}),
                "sizes": shape.to_json(),
                "tokens": 0,
                "flops": facts["measured_tokens"] * forward_flops(self.whole, self.whole.full, BATCH.length),
                "cpu_seconds": facts["cpu_seconds"],
            }

        return self.runs.run(f"pruned-{name}-{self.seed}", 0, self.seed, make, keep=True)

    def theirs(self, name: str, steps: int) -> dict[str, Any]:
        """What ModelOpt has cut out, distilled by NeMo."""
        before = self.pruned(name)

        def make(out: Path) -> dict[str, Any]:
            recipe = self.ground.recipe(out, steps, BATCH, self.seed, LR["modelopt"][name])
            began = time.process_time()
            student = self.runs.folder / before["job"] / "pruned"
            checkpoint = modelopt_baseline.distill(student, self.parent, out, recipe)
            cpu, shape, tokens = time.process_time() - began, _shape(checkpoint), steps * BATCH.tokens
            each = 3 * forward_flops(shape, shape.full, BATCH.length)
            each += forward_flops(self.whole, self.whole.full, BATCH.length)
            return {
                "losses": heldout(dense(checkpoint, shape), self.ground.data, BATCH.length, {name: None}),
                "tokens": tokens,
                "flops": tokens * each + before["flops"],
                "flops_before_training": before["flops"],
                "cpu_seconds": cpu + before["cpu_seconds"],
            }

        return self.runs.run(f"modelopt-{name}-{steps}-{self.seed}", steps, self.seed, make)

    def all(self, steps: list[int], first: bool) -> None:
        """Every way; the first seed has the longest families, and single sizes for as many steps."""
        families = {count: self.ours(count) for count in (steps[1:] if first else steps[1:-1])}
        shaped = families[steps[-2]]
        for count in steps:
            for name in SIZES:
                if first or count in steps[:2]:
                    self.alone(name, count, shaped)
                self.theirs(name, count)


def _shape(checkpoint: Path) -> Any:
    """Shape of the model in a NeMo checkpoint."""
    from nemo_elastic.formats.megatron.stored import read_shapes

    return read_shapes(checkpoint).parent


def measure(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every run, made now where it has no result."""
    modelopt_baseline.bridge_python()  # it is missed now, not after hours
    from benchmarks.study.model import StudyNemotronH
    from nemo_elastic.data.build import build_data
    from nemo_elastic.demo.quiet import quiet
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    quiet()
    data, runs, lr = args.runs / "data", Runs(args.runs), PARENT_LR
    if not data.is_dir():
        build_data(data, vocab=1024)
    ground = NemoGround(StudyNemotronH, data)
    steps = args.parent_steps
    runs.run("parent", steps, 0, lambda out: train_parent(ground, out, steps, PARENT_BATCH, lr), keep=True)
    ground = NemoGround(StudyNemotronH, data, parent=last_checkpoint(args.runs / "parent"))
    for seed in args.seeds:
        Study(runs, ground, seed).all(sorted(args.steps or STEPS), seed == args.seeds[0])
    return runs.results


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, nargs="+", help="of each size's runs, at least three; 30 60 120 240")
    parser.add_argument("--parent-steps", type=int, default=PARENT_STEPS)
    parser.add_argument("--kept", action="store_true", help="run nothing: the results that the documentation shows")


def study(args: argparse.Namespace) -> str:
    """The table."""
    results = kept("baselines") if args.kept else measure(args)
    return page(results)
