# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What one run for all sizes costs, beside a run for each size: several ways to the same sizes, from one parent.

(a) ModelOpt prunes in NVIDIA's proportions and NeMo distills, once per size; (b) each size of ours distilled alone;
(c) each size cut out of the size before and distilled from it; (d) our shapes trained from scratch; (e) ours, all
sizes in one run. Every run goes through NeMo, in this process, on one core; ModelOpt prunes in processes of its own,
in Megatron-Bridge's environment.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.study import modelopt_baseline
from benchmarks.study.baselines_table import SIZES, UNITS, page, rates
from benchmarks.study.nemo_runs import (
    ORDER,
    PARENT_LR,
    Batch,
    NemoGround,
    Runs,
    block,
    config_sizes,
    dense,
    forward_flops,
    heldout,
    train_family,
    train_parent,
    write_checkpoint,
)
from benchmarks.study.results import REPORTED, TUNED, kept
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.formats.hf.reading import MEMBER_FILE

AXES: dict[str, Any] = {
    "hidden": [256, 240, 224, 208, 192, 176, 160, 144, 128],
    "ffn": {"choices": [1280, 1120, 960, 800, 640, 480, 320], "stripes": 8},
    "mamba_heads": [16, 12, 8],
    "mamba_head_dim": [32, 28, 24, 20, 16],
    "attention_heads": [8, 6, 4],
    "depth": [10, 9, 8, 7, 6, 5],
}
BLOCK = block(AXES, SIZES)
PARENT_STEPS, PARENT_BATCH, BATCH = 732, Batch(8, 256), Batch()
#: of each size's runs; families have all but the first
STEPS = (30, 60, 120)
FROM_SCRATCH = ("72", "50")
#: peak rates: the best of those tried
OURS_LR = 5e-4
LR = {
    "alone": {"85": 2.5e-4, "72": 2.5e-4, "50": 5e-4},
    "modelopt": {"85": 2.5e-4, "72": 5e-4, "50": 1e-3},
}
#: in runs of so many steps of the first seed, by the text that no loss is reported of
RATE_STEPS = 120
TRIED = {
    "ours": {"mean": (1.25e-4, 2.5e-4, 5e-4, 1e-3)},
    "alone": {
        "85": (3e-5, 6e-5, 1.25e-4, 2.5e-4, 5e-4),
        "72": (6e-5, 1.25e-4, 2.5e-4, 5e-4),
        "50": (1.25e-4, 2.5e-4, 5e-4, 1e-3),
    },
    "modelopt": {
        "85": (1.25e-4, 2.5e-4, 5e-4, 1e-3),
        "72": (2.5e-4, 5e-4, 1e-3, 2e-3),
        "50": (5e-4, 1e-3, 2e-3, 4e-3),
    },
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

    def ours(self, steps: int, lr: float = 0.0) -> dict[str, Any]:
        """All sizes in one run; with a rate, one of those that are tried."""
        return self.runs.run(
            _name("ours", steps, self.seed, lr), steps, self.seed,
            lambda out: train_family(
                self.ground, out, BLOCK, [(steps, BATCH)], self.seed, lr or OURS_LR, part=TUNED if lr else REPORTED
            ),
        )  # fmt: skip

    def alone(self, name: str, steps: int, shaped: dict[str, Any], lr: float = 0.0) -> dict[str, Any]:
        """One size of a family that has been trained, distilled by itself from the parent."""

        def make(out: Path) -> dict[str, Any]:
            shapes = out / "shapes.json"
            shapes.write_text(json.dumps({"members": {n: shaped["shapes"][n] for n in ("full", name)}}))
            own = _only(BLOCK, name) | {"shapes": str(shapes), "ranking": shaped["ranking"]}
            return train_family(
                self.ground, out, own, [(steps, BATCH)], self.seed, lr or LR["alone"][name],
                part=TUNED if lr else REPORTED,
            )  # fmt: skip

        return self.runs.run(_name(f"alone-{name}", steps, self.seed, lr), steps, self.seed, make)

    def after(self, steps: int) -> dict[str, Any]:
        """Each size cut out of the size before it, whose distilled model is its parent and teacher."""
        return self.runs.run(f"after-{steps}-{self.seed}", steps, self.seed, lambda out: self._after(out, steps))

    def _after(self, out: Path, steps: int) -> dict[str, Any]:
        from nemo_elastic.formats.folders import open_source
        from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint
        from nemo_elastic.slicing.slicer import slice_checkpoint

        ground, losses, spent = self.ground, {}, dict.fromkeys(UNITS, 0.0)
        count = parameters(self.whole, self.whole.full)
        for name, ratio in SIZES.items():
            shape, place = ground.shape, out / name
            own = block(axes_within(shape), {name: ratio * count / parameters(shape, shape.full)})
            result = train_family(ground, place, _only(own, name), [(steps, BATCH)], self.seed, LR["alone"][name])
            losses[name] = result["losses"][name]
            spent = {unit: spent[unit] + result[unit] for unit in spent}
            if name == [*SIZES][-1]:
                break
            slice_checkpoint(open_source(last_checkpoint(place / "stage1")), place / "cut", member=name)
            (place / "cut" / MEMBER_FILE).unlink()  # a plain model, no member of this family
            cut = open_source(place / "cut")
            (written := place / "parent").mkdir()
            write_checkpoint(written, cut.parent, dict(cut.as_torch()), self.parent, place)
            ground = replace(ground, parent=written, sizes=config_sizes(cut.parent, cut.parent.full))
        return {"losses": losses, **spent}

    def scratch(self, name: str, steps: int, shaped: dict[str, Any]) -> dict[str, Any]:
        """One size of a family that has been trained, from random weights by cross-entropy, as the parent was."""
        member = Subnet.from_json(shaped["shapes"][name], self.whole)
        ground = replace(self.ground, sizes=config_sizes(self.whole, member))

        def make(out: Path) -> dict[str, Any]:
            result = train_parent(ground, out, steps, PARENT_BATCH)
            return result | {"losses": {name: result["losses"]["full"]}}

        return self.runs.run(f"scratch-{name}-{steps}-{self.seed}", steps, self.seed, make)

    def pruned(self, name: str) -> dict[str, Any]:
        """One size, cut out by ModelOpt in NVIDIA's proportions."""

        def make(out: Path) -> dict[str, Any]:
            checkpoint = modelopt_baseline.prune_to_ratio(
                self.parent, out / "pruned", SIZES[name], data=self.ground.data, seq_length=BATCH.length,
                seed=ORDER + self.seed, scores=self.runs.folder / f"scores-{self.seed}",
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

    def theirs(self, name: str, steps: int, lr: float = 0.0) -> dict[str, Any]:
        """What ModelOpt has cut out, distilled by NeMo; with a rate, one of those that are tried."""
        before = self.pruned(name)

        def make(out: Path) -> dict[str, Any]:
            recipe = self.ground.recipe(out, steps, BATCH, self.seed, lr or LR["modelopt"][name])
            began = time.process_time()
            student = self.runs.folder / before["job"] / "pruned"
            checkpoint = modelopt_baseline.distill(student, self.parent, out, recipe)
            cpu, shape, tokens = time.process_time() - began, _shape(checkpoint), steps * BATCH.tokens
            each = 3 * forward_flops(shape, shape.full, BATCH.length)
            each += forward_flops(self.whole, self.whole.full, BATCH.length)
            part = TUNED if lr else REPORTED
            return {
                "losses": heldout(dense(checkpoint, shape), self.ground.data, BATCH.length, {name: None}, part=part),
                "tokens": tokens,
                "flops": tokens * each + before["flops"],
                "flops_before_training": before["flops"],
                "cpu_seconds": cpu + before["cpu_seconds"],
            }

        return self.runs.run(_name(f"modelopt-{name}", steps, self.seed, lr), steps, self.seed, make)

    def all(self, steps: list[int], first: bool, parent_steps: int) -> None:
        """Every way; the first seed has the longest runs, and sizes from scratch, for as many steps as the parent."""
        families = {count: self.ours(count) for count in (steps[1:] if first else steps[1:-1])}
        shaped = families[steps[-2]]
        for count in steps:
            for name in SIZES:
                if first or count in steps[:2]:
                    self.alone(name, count, shaped)
                self.theirs(name, count)
        for count in steps[1:-1] if first else steps[1:2]:
            self.after(count)
        for name in FROM_SCRATCH if first else ():
            self.scratch(name, parent_steps, shaped)

    def rates(self, steps: int) -> None:
        """Our ways and ModelOpt's at every peak rate that is tried."""
        families = [self.ours(steps, lr) for lr in TRIED["ours"]["mean"]]
        shaped = families[0]  # all have the same shapes
        for name in SIZES:
            for lr in TRIED["alone"][name]:
                self.alone(name, steps, shaped, lr)
            for lr in TRIED["modelopt"][name]:
                self.theirs(name, steps, lr)


def _name(way: str, steps: int, seed: int, lr: float) -> str:
    """Of a run; one of the rates that are tried is no row of the table."""
    return f"rate-{way}-{lr:.6f}-{steps}-{seed}" if lr else f"{way}-{steps}-{seed}"


def _only(own: dict[str, Any], name: str) -> dict[str, Any]:
    """A block that trains one of its sizes."""
    budgets = [budget for budget in own["budgets"] if budget["name"] in ("full", name)]
    return own | {"budgets": budgets, "sampling": {"full": 0, name: 1}}


def axes_within(shape: Parent) -> dict[str, Any]:
    """The study's axes for a parent that is smaller."""

    def within(choices: list[int], most: int) -> list[int]:
        return [choice for choice in choices if choice <= most]

    sizes = {**shape.sizes, "depth": shape.num_layers}
    return {
        axis: {**each, "choices": within(each["choices"], sizes[axis])}
        if isinstance(each, dict)
        else within(each, sizes[axis])
        for axis, each in AXES.items()
    }


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
    if args.rates:
        Study(runs, ground, args.seeds[0]).rates(RATE_STEPS)
        return runs.results
    for seed in args.seeds:
        Study(runs, ground, seed).all(sorted(args.steps or STEPS), seed == args.seeds[0], steps)
    return runs.results


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, nargs="+", help="of each size's runs, at least three; 30 60 120")
    parser.add_argument("--parent-steps", type=int, default=PARENT_STEPS)
    parser.add_argument("--rates", action="store_true", help="the peak rates that are tried, and no other run")
    parser.add_argument("--kept", action="store_true", help="run nothing: the results that the documentation shows")


def study(args: argparse.Namespace) -> str:
    """The table."""
    results = kept("baselines") if args.kept else measure(args)
    return rates(results) if args.rates else page(results)
