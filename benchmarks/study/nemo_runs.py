# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Training runs through NeMo, for the study of baselines: what they cost, and their held-out losses.

Every run has the same optimizer, schedule and data order; only what is named differs. FLOPs are counted after a run
from its samples: a forward is `cost.flops_per_token`, a backward twice that, the teacher's forward is the whole
parent's.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.study.results import REPORTED, Kept, by_name, held_out_parts
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import flops_per_token, parameters
from nemo_elastic.core.family import Parent, Subnet

#: peak learning rate of a parent, and seed of the data order, to which a study's seed is added
PARENT_LR, ORDER = 3e-3, 1234
#: the most held-out tokens of a loss
TOKENS = 65536


@dataclass(frozen=True)
class Batch:
    """Sequences per step and their length."""

    sequences: int = 4
    length: int = 256

    @property
    def tokens(self) -> int:
        return self.sequences * self.length


def block(axes: Mapping[str, Any], sizes: Mapping[str, float], **changes: Any) -> dict[str, Any]:
    """An elastic block of the studies: sizes as shares of the parent's parameters, and the block's other fields."""
    return {
        "budgets": [{"name": "full"}, *({"name": n, "ratio": r} for n, r in sizes.items())],
        "axes": axes,
        "importance": {"samples": 64, "depth_samples": 8},
        "shapes": "search",
        "search": {"candidates": 64, "tokens": 1024},
    } | changes


class Runs:
    """Runs below a folder, each made once: `results.jsonl` has their results."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._kept = folder, Kept[dict[str, Any]](folder / "results.jsonl")

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """By name."""
        return by_name(self._kept.results)

    def run(
        self, name: str, steps: int, seed: int, make: Callable[[Path], dict[str, Any]], keep: bool = False
    ) -> dict[str, Any]:
        """The result of a run; `keep` leaves its checkpoints to the runs that start from them."""

        def run() -> list[dict[str, Any]]:
            out = self.folder / name
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            result = {"job": name, "seed": seed, "steps": steps, **make(out)}
            for checkpoints in () if keep else out.rglob("checkpoints"):
                shutil.rmtree(checkpoints)
            print(f"{name}: {result['losses']}, {result['cpu_seconds']:.0f} s", flush=True)
            return [result]

        return self._kept.get(run, job=name)[0]


@dataclass(frozen=True)
class NemoGround:
    """What a study trains on.

    Attributes:
        model: config class of the parent.
        data: folder of tokens.
        parent: checkpoint of the trained parent.
        sizes: fields of the config that the parent has otherwise.
    """

    model: type
    data: Path
    parent: Path | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> Parent:
        """The parent's, with the FFN stripes of the studies' blocks."""
        from nemo_elastic.formats.megatron.shape import parent_of

        config = self.model(**self.sizes)
        return replace(parent_of(config, config.vocab_size), ffn_stripes=8)

    def recipe(self, out: Path, steps: int, batch: Batch, seed: int, lr: float, total: int = 0) -> Any:
        """NeMo's stock recipe; `total` are the steps of all stages."""
        import nemo_run as run

        from nemo_elastic.hosts.nemo.tiny.recipe import tiny_recipe

        return tiny_recipe(
            self.data, out, steps=steps, seq_length=batch.length, micro_batch_size=batch.sequences,
            global_batch_size=batch.sequences, lr=lr, warmup_steps=max(1, (total or steps) // 20), min_ratio=0.1,
            label=out.name, eval_sequences=8, seed=ORDER + seed,
            config=run.Config(self.model, **self.sizes),
        )  # fmt: skip


def launch(task: Any, out: Path) -> Path:
    """Run a recipe in this process; returns its last checkpoint."""
    import fiddle
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    destroy_num_microbatches_calculator()
    fiddle.build(task)()
    return last_checkpoint(out)


def train_parent(ground: NemoGround, out: Path, steps: int, batch: Batch, lr: float = PARENT_LR) -> dict[str, Any]:
    """A parent, by cross-entropy from random weights."""
    recipe = ground.recipe(out, steps, batch, 0, lr)
    began = time.process_time()
    checkpoint = launch(recipe, out)
    tokens, shape = steps * batch.tokens, ground.shape
    return {
        "cpu_seconds": time.process_time() - began, "tokens": tokens,
        "flops": 3 * tokens * forward_flops(shape, shape.full, batch.length),
        "losses": heldout(dense(checkpoint, shape), ground.data, batch.length, {"full": None}),
    }  # fmt: skip


def train_family(
    ground: NemoGround, out: Path, block: Mapping[str, Any], stages: Sequence[tuple[int, Batch]], seed: int, lr: float,
    part: str = REPORTED,
) -> dict[str, Any]:  # fmt: skip
    """A nested family of the parent, distilled from it in one run of some stages, each of steps and a batch.

    Losses are on a part of the held-out text, of the members whose weight in the block's sampling is above 0.
    """
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic

    total, checkpoint = sum(steps for steps, _ in stages), None
    began = time.process_time()
    for number, (steps, batch) in enumerate(stages, 1):
        place = out / f"stage{number}"  # a second stage reads other pieces
        recipe = ground.recipe(place, steps, batch, seed + 1000 * (number - 1), lr, total)
        apply_elastic(
            recipe, {**block, "seed": seed}, teacher=str(ground.parent), stage=number,
            previous=str(checkpoint) if checkpoint else None, total_steps=total, out=str(place / "elastic"),
            verbose=False,
        )  # fmt: skip
        checkpoint = launch(recipe, place)
    cpu = time.process_time() - began
    assert checkpoint is not None
    model, members = family(checkpoint)
    config, whole, length = ElasticConfig.from_dict({**block, "seed": seed}), model.parent, stages[-1][1].length
    flops = sum(step_flops(whole, config, [*members.values()], *stage, i) for i, stage in enumerate(stages, 1))
    trace = json.loads((out / "stage1" / "elastic" / "shapes.json").read_text())["report"].get("trace", [])
    before = search_flops(whole, config, trace, stages[0][1].length)
    before += 0.0 if config.ranking else ranking_flops(whole, config, stages[0][1].length)
    trained = {name: m for name, m in members.items() if block.get("sampling", {}).get(name) != 0}
    return {
        "losses": heldout(model, ground.data, length, trained, part=part),
        "shapes": {name: member.to_json() for name, member in members.items()},
        "ranking": config.ranking or str(out / "stage1" / "elastic" / "ranking"),
        "tokens": sum(steps * batch.tokens for steps, batch in stages),
        "flops": flops + before,
        "flops_before_training": before,
        "cpu_seconds": cpu,
    }


# ------------------------------------------------------------------------------------------------------------- losses


def family(checkpoint: Path) -> tuple[Any, dict[str, Subnet]]:
    """The model of an elastic checkpoint in torch, and its members."""
    from nemo_elastic.formats.folders import open_source
    from nemo_elastic.nn.nemotron_h import NemotronH

    source = open_source(checkpoint)
    return NemotronH(source.parent, dict(source.as_torch()), trainable=False), source.members


def dense(checkpoint: Path, shape: Parent) -> Any:
    """The model of a stock checkpoint in torch."""
    from nemo_elastic.formats.folders import open_source
    from nemo_elastic.nn.nemotron_h import NemotronH

    return NemotronH(shape, dict(open_source(checkpoint).as_torch()), trainable=False)


def write_checkpoint(folder: Path, shape: Parent, tensors: Mapping[str, Any], parent: Path, place: Path) -> Path:
    """A plain model as a NeMo checkpoint: its tensors by HF name, the parent's context with the model's sizes."""
    from nemo.lightning import io
    from nemo.lightning.ckpt_utils import ckpt_to_context_subdir

    from nemo_elastic.hosts.nemo.checkpoint.write import write_nemo_checkpoint

    # of stock classes, which a CPU cannot run: the weights are right, the context is the parent's
    stock = write_nemo_checkpoint(place / "stock", shape, shape.full, dict(tensors))
    shutil.move(stock / "weights", folder / "weights")
    context: Any = io.load_context(path=ckpt_to_context_subdir(parent))
    for name, value in config_sizes(shape, shape.full).items():
        setattr(context.model.__io__.config, name, value)
    context.io_dump(folder / "context", yaml_attrs=["model"])
    return folder


def config_sizes(parent: Parent, member: Subnet) -> dict[str, Any]:
    """Fields of a config for a model of a member's sizes."""
    from nemo_elastic.formats.megatron.shape import stock_sizes

    same = ("vocab_size", "layernorm_epsilon", "share_embeddings_and_output_weights")
    return {name: value for name, value in stock_sizes(parent, member).items() if name not in same}


def heldout(
    model: Any,
    data: Path,
    length: int,
    members: Mapping[str, Subnet | None],
    tokens: int = TOKENS,
    part: str = REPORTED,
) -> dict[str, float]:
    """Cross-entropy of each member in nats per token of a part of the held-out text: `REPORTED`, or `TUNED`, which
    chooses rates."""
    from nemo_elastic.data.folder import DataFolder
    from nemo_elastic.evaluation.scoring import perplexity

    text = held_out_parts(DataFolder.open(data).tokens("val"))[part]
    return {
        name: perplexity(lambda t, m=member: model(t, m), text, length, max_tokens=tokens).nats
        for name, member in members.items()
    }


# -------------------------------------------------------------------------------------------------------------- FLOPs


def forward_flops(parent: Parent, member: Subnet, length: int) -> float:
    """Of one token through a member."""
    return float(flops_per_token(parent, member, length))


def step_flops(
    parent: Parent, config: ElasticConfig, members: Sequence[Subnet], steps: int, batch: Batch, stage: int = 1
) -> float:
    """Of students and teacher in a stage with one micro-batch a step.

    Members are those that the run ended with, by budget; candidates that it trained before have about their cost.
    """
    from nemo_elastic.train.samples import BudgetSampler

    sampler = BudgetSampler(config.weights(), config.seed, stage)
    whole = forward_flops(parent, parent.full, batch.length)
    sliced = [forward_flops(parent, m, batch.length) for m in members]
    return sum(3 * sliced[sampler.budget(step, 0)] + whole for step in range(steps)) * batch.tokens


def search_flops(parent: Parent, config: ElasticConfig, trace: Sequence[Mapping[str, Any]], length: int) -> float:
    """Of a search; a candidate's FLOPs are taken in proportion to its parameters."""
    if not config.searches:
        return 0.0
    count = parameters(parent, parent.full)
    whole = forward_flops(parent, parent.full, length)
    return config.search.tokens * whole * (1 + sum(t["cost"] / count for t in trace))


def ranking_flops(parent: Parent, config: ElasticConfig, length: int) -> float:
    """Of a ranking: all samples once, and the depth's rounds, where a candidate runs the layers behind its own.

    Candidates that are given up early are counted whole.
    """
    whole, n = forward_flops(parent, parent.full, length) * length, parent.num_layers
    layers = sum(kept * (kept + 1) / 2 for kept in range(2, n + 1)) if config.importance.depth == "mse" else 0.0
    return whole * (config.importance.samples + config.importance.depth_samples * layers / n)
