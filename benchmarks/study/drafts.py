# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What cutting costs the drafts of an MTP layer, and what training the layer behind the frozen member gives back.

A parent of the demo's shape is trained with an MTP layer: attention, then an MLP. Members are cut without training, of
a parent whose channels were chosen and of one that was rotated, at the same shapes. Each seed has its own parent. The
measure is greedy acceptance on held-out text. Plain torch and one core; a result that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.study.grounds import PARENT_LR, fresh, optimizer_of, rate, text_batches, windows
from benchmarks.study.results import KEPT, Kept, markdown, spread
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.prediction import Prediction
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.demo.demo_settings import BLOCK
from nemo_elastic.evaluation import accepted_drafts, predictor_of
from nemo_elastic.formats.checkpoint import in_memory
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.writing import write_checkpoints
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.prediction import Predictor
from nemo_elastic.nn.rows import Rows
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing.streamed import Sequences
from nemo_elastic.slicing.untrained import init_family
from nemo_elastic.train import prediction as training

PARENT = Parent("M-M-M*-M-M*-", 128, 1024, 512, 16, 16, 4, 16, 4, 4, 2, 32)
MTP = Prediction("*-")
CONFIG = {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": MTP.pattern, "max_position_embeddings": 4096}
#: weight of the MTP layer's loss beside the parent's own (megatron-core's `mtp_loss_scaling_factor`)
SHARE = 0.3
BUDGETS = {"100": None, "85": 0.85, "72": 0.72, "50": 0.5}
WAYS = {"chosen": "magnitude", "rotated": "basis"}
#: rows of a step, and of the reported text; tokens of a row
ROWS, REPORTED, LENGTH = 8, 128, 128


@dataclass(frozen=True)
class Result:
    """Greedy acceptance of a member's drafts.

    Attributes:
        way: how the residual stream was ranked; `parent` before that.
        steps: of the MTP layer's training; scale: of its rate, 1 for the package's own.
    """

    seed: int
    way: str
    budget: str
    steps: int
    scale: float
    accepted: int
    total: int


def trained_parent(folder: Path, data: DataFolder, seed: int, steps: int) -> Path:
    """A parent with an MTP layer, both trained on the text, each token of which counts."""
    if folder.exists():
        return folder
    batches, model, random = text_batches(data)(100 + seed), fresh(seed, PARENT), torch.Generator().manual_seed(seed)
    state = {}
    for t in MTP.tensors(PARENT, PARENT.full):
        size = 1.0 if len(t.shape) == 1 else t.shape[1] ** -0.5
        value = torch.ones(t.shape) if size == 1 else torch.randn(t.shape, generator=random) * size
        state[t.hf] = value.requires_grad_()
    predictor = Predictor(PARENT, PARENT.full, MTP, state)
    optimizers = optimizer_of(model), torch.optim.AdamW(state.values(), betas=(0.9, 0.95))
    for i in range(steps):
        rows = next(batches)
        trunk = Layers(model.weights())
        x_bld = trunk.embed(rows.tokens_bs)
        for index in trunk.indices:
            x_bld = trunk.layer(index, x_bld)
        x_bld = trunk.norm(x_bld)
        draft_bld = predictor.hidden(trunk, x_bld[:, :-1], rows.tokens_bs[:, 1:])
        losses = (
            F.cross_entropy(trunk.head(hidden).flatten(0, 1), labels.flatten())
            for hidden, labels in ((x_bld, rows.labels_bs), (draft_bld, rows.labels_bs[:, 1:]))
        )
        loss = next(losses) + SHARE * next(losses)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *state.values()], 1.0)
        for each in optimizers:
            for group in each.param_groups:
                group["lr"] = PARENT_LR * rate(i / steps)
            each.step()
            each.zero_grad()
        if i % 50 == 0:
            print(f"parent of seed {seed}: step {i}, loss {float(loss.detach()):.3f}", flush=True)
    values = {**model.state_dict(), **{name: value.detach() for name, value in state.items()}}
    folder.mkdir(parents=True)
    write_checkpoints({folder: in_memory(PARENT, PARENT.full, values, CONFIG, data.tokenizer_dir)})
    return folder


class Study:
    """The runs of a seed."""

    def __init__(
        self, data: DataFolder, seed: int, steps: int, parent_steps: int, scales: Sequence[float], runs: Path
    ):
        self.seed, self.steps, self.scales, self.kept = seed, steps, scales, Kept(runs / f"{seed}.jsonl", Result)
        train, val = (torch.tensor(data.tokens(split).astype("int64")) for split in ("train", "val"))
        self.ranked = Sequences([Rows(row[None]) for row in windows(train, 200 + seed, 64, LENGTH + 1)])
        self.rows = windows(train, 300 + seed, steps * ROWS, LENGTH).split(ROWS)
        self.reported = [Rows(row[None]) for row in windows(val, 400, REPORTED, LENGTH + 1)]
        self.parent = trained_parent(runs / f"parent_{seed}", data, seed, parent_steps)
        self.runs = runs

    def all(self) -> None:
        """Every member of both ways, untrained and trained."""
        self.get("parent", "100", self.parent, None)
        for way, hidden in WAYS.items():
            family = self.runs / f"{way}_{self.seed}"
            if not family.exists():
                importance = {"samples": 64, "depth_samples": 8, "hidden": hidden}
                budgets = [{"name": name, **({"ratio": share} if share else {})} for name, share in BUDGETS.items()]
                more = {"budgets": budgets, "importance": importance, "shapes": "even", "seed": self.seed}
                config = ElasticConfig.from_dict({**BLOCK, **more})
                init_family(self.parent, config, family, sequences=self.ranked)
            for budget in BUDGETS:
                self.get(way, budget, family, budget)

    def get(self, way: str, budget: str, folder: Path, member: str | None) -> None:
        whole = way in WAYS and budget == "100"  # it drafts nearly as the parent does
        for steps, scale in ((0, 0.0), *(() if whole else ((self.steps, scale) for scale in self.scales))):
            self.kept.get(
                lambda steps=steps, scale=scale: [self.made(way, budget, folder, member, steps, scale)],
                way=way, budget=budget, steps=steps, scale=scale,
            )  # fmt: skip

    def made(self, way: str, budget: str, folder: Path, member: str | None, steps: int, scale: float) -> Result:
        source = open_source(folder)
        model = load_family(source).select(member)
        predictor = predictor_of(source, model.subnet)
        assert predictor is not None
        if steps:
            rate = training.RATE
            training.RATE = rate * scale
            list(training.train_prediction(Layers(model.weights), predictor, [Rows(r) for r in self.rows]))
            training.RATE = rate
        found = accepted_drafts(model.weights, predictor, self.reported)
        result = Result(self.seed, way, budget, steps, scale, found.accepted, found.total)
        print(json.dumps(vars(result)), flush=True)
        return result


def table(results: Sequence[Result]) -> str:
    """Acceptance of each member, over seeds."""
    runs = dict.fromkeys((r.steps, r.scale) for r in sorted(results, key=lambda r: (r.steps, r.scale)))
    rows = []
    for way in ("parent", *WAYS):
        for budget in BUDGETS:
            mine = [r for r in results if (r.way, r.budget) == (way, budget)]
            own = [[r.accepted / r.total for r in mine if (r.steps, r.scale) == run] for run in runs]
            if any(own):
                rows.append([way, f"{budget} %", *map(spread, own)])
    heads = (
        (f"{steps} steps" if steps else "untrained") + ("" if scale in (0, 1) else f", rate x {scale:g}")
        for steps, scale in runs
    )
    return markdown(["channels", "of the parent", *heads], rows)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parent-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=80, help="of the MTP layer's training")
    parser.add_argument("--scales", type=float, nargs="+", default=(1.0,), help="of the rate")
    parser.add_argument("--kept", action="store_true", help="the table of the documentation; nothing is run")


def study(args: argparse.Namespace) -> str:
    """The table of all seeds that have runs."""
    if args.kept:
        return table(Kept(KEPT / "drafts.jsonl", Result).results)
    data = DataFolder.open(args.demo / "data")
    for seed in args.seeds:
        Study(data, seed, args.steps, args.parent_steps, args.scales, args.runs).all()
    return table([r for file in sorted(args.runs.glob("*.jsonl")) for r in Kept(file, Result).results])
