# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny family, trained in any layout: what every rank sampled and lost is written down, what it learned is saved."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError
from tests.hosts.nemo.bf16_worker import halve
from tests.hosts.nemo.training_worker import digest
from tests.texts import FEW, library_text

LENGTH, BATCH, PEAK = 64, 2, 3e-3
VOCAB = 512
#: hidden size of a router that is larger than what a rank holds of everything else
WIDE = 4096
#: elements of a bucket, where gradients are reduced during the backward pass
BUCKET = 5000
#: every kind of layer in each half, and blocks that four ranks can share
SHAPE = {
    "hybrid_override_pattern": "M-*-M*-M", "num_layers": 8, "hidden_size": 32, "ffn_hidden_size": 64,
    "mamba_num_heads": 8, "mamba_head_dim": 8, "mamba_num_groups": 4, "mamba_state_dim": 8,
    "num_attention_heads": 8, "num_query_groups": 4, "kv_channels": 8, "make_vocab_size_divisible_by": 128,
}  # fmt: skip
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "large", "ratio": 0.8}, {"name": "small", "ratio": 0.65}],
    "axes": {
        "hidden": [32, 28, 24, 20],
        "ffn": {"choices": [64, 48, 32], "per_layer": True, "stripes": 4},
        "mamba_heads": [8, 4],
        "mamba_head_dim": [8, 6],
        "attention_heads": [8, 4],
        "depth": [8, 7, 6],
    },
    "importance": {"samples": 4, "depth_samples": 2},
    "shapes": "even",
    "seed": 15,
}
#: of four steps the second and the fourth begin with a comparison
HALVED: dict[str, Any] = {
    "shapes": "halving",
    "search": {"candidates": 48, "tokens": 128},
    "halving": {"cuts": [0.3, 0.7], "tokens": 256},
}


@dataclass(frozen=True)
class Layout:
    """Ranks and settings of a run.

    Attributes:
        tensor, pipeline, data, context: ranks along each kind of parallelism.
        sequence: sequence parallelism.
        sharded: the distributed optimizer.
        recompute: None, "selective" or "full".
        micro_batches: per step; the sequences of one are shared among data-parallel ranks, so that every layout has
            the same budgets for the same sequences.
        soft: under the router's masks, else on slices.
        halved: on slices of several candidates, of which one of each budget is left.
        teacher: the parent's checkpoint is given, else the loss is cross-entropy.
        mode: the loss, where it is.
        half: bf16, as the large recipes train.
        clip: largest norm of the gradients.
        router: its hidden size.
        overlap: gradients are reduced during the backward pass, in buckets of about a layer.
        precision: of the frozen teacher.
        per_token: each token of a step weighs alike, also those of micro-batches that have few.
    """

    tensor: int = 1
    sequence: bool = False
    pipeline: int = 1
    data: int = 1
    sharded: bool = False
    recompute: str | None = None
    micro_batches: int = 1
    soft: bool = False
    teacher: bool = True
    mode: str = "frozen"
    half: bool = False
    clip: float = 1.0
    router: int = 16
    context: int = 1
    overlap: bool = False
    halved: bool = False
    precision: str | None = None
    per_token: bool = False

    @property
    def world(self) -> int:
        return self.tensor * self.pipeline * self.data * self.context

    @property
    def alone(self) -> Layout:
        """One rank that trains the same."""
        alone = {"tensor": 1, "pipeline": 1, "data": 1, "sequence": False, "sharded": self.half, "recompute": None,
                 "overlap": False}  # fmt: skip
        return replace(self, context=1, **alone)  # in bf16 megatron-core's other optimizer cannot save the router

    @property
    def name(self) -> str:
        sizes = {"tp": self.tensor, "pp": self.pipeline, "dp": self.data, "mb": self.micro_batches}
        words = [f"cp{self.context}"] if self.context > 1 else []
        words += [f"{k}{v}" for k, v in sizes.items()] + (["sp"] if self.sequence else [])
        words += (["sharded"] if self.sharded else []) + ([self.recompute] if self.recompute else [])
        words += ["soft" if self.soft else "halved" if self.halved else "sliced"]
        words += [] if self.teacher else ["ce"]
        words += [self.mode] if self.mode != Layout.mode else []
        words += (["bf16"] if self.half else []) + ([f"clip{self.clip:g}"] if self.clip != Layout.clip else [])
        words += [f"router{self.router}"] if self.router != Layout.router else []
        words += (["overlap"] if self.overlap else []) + ([self.precision] if self.precision else [])
        words += ["per-token"] if self.per_token else []
        return "-".join(words)


def recipe(
    place: Path, out: Path, layout: Layout, steps: int, length: int = LENGTH, micro_batches: int | None = None
) -> Any:
    """A stock recipe of the tiny parent in a layout; of other sizes than its own, if any are given."""
    import nemo_run as run
    import torch
    from megatron.core.distributed import DistributedDataParallelConfig

    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH, held_out, tiny_recipe

    task = tiny_recipe(
        place / "data", out, steps=steps, seq_length=length, micro_batch_size=BATCH // layout.data,
        global_batch_size=BATCH * (micro_batches or layout.micro_batches), warmup_steps=1, lr=PEAK, label="",
        devices=layout.world, tensor_parallel=layout.tensor, config=run.Config(TinyNemotronH, **SHAPE),
    )  # fmt: skip
    strategy = task.trainer.strategy
    strategy.pipeline_model_parallel_size = layout.pipeline
    strategy.sequence_parallel, strategy.context_parallel_size = layout.sequence, layout.context
    if layout.pipeline > 1:
        strategy.pipeline_dtype = torch.bfloat16 if layout.half else torch.float32
    task.model.config.calculate_per_token_loss = layout.per_token
    if layout.half:
        halve(task)
    if layout.recompute:
        task.model.config.recompute_granularity = layout.recompute
        if layout.recompute == "full":
            task.model.config.recompute_method, task.model.config.recompute_num_layers = "uniform", 1
    if layout.overlap:
        strategy.ddp = run.Config(
            DistributedDataParallelConfig, overlap_grad_reduce=True, bucket_size=BUCKET, check_for_nan_in_grad=False
        )
    # a gradient that is zero but for rounding must not become a step of full size
    task.optim.config.adam_eps = 1e-3
    task.optim.config.use_distributed_optimizer, task.optim.config.clip_grad = layout.sharded, layout.clip
    held_out(task, 0, 4)
    return task


def block_of(layout: Layout, **changes: Any) -> dict[str, Any]:
    """The elastic block of a layout."""
    shapes: dict[str, Any] = {"shapes": "router", "router": {"hidden": layout.router}} if layout.soft else {}
    distill = {"mode": layout.mode if layout.teacher else "ce", "teacher_precision": layout.precision}
    return BLOCK | (HALVED if layout.halved else shapes) | {"distill": distill} | changes


def padded(uneven: bool = False) -> None:
    """From here on the first quarter of every sample of text is no part of the loss, as padding is.

    Args:
        uneven: from none of its quarters to all, as its tokens say: the same in every layout, and unlike from rank to
            rank.
    """
    from megatron.core.datasets.gpt_dataset import GPTDataset

    whole = GPTDataset.__getitem__

    def masked(self: Any, index: int | None) -> dict[str, Any]:
        sample = whole(self, index)
        mask = sample["loss_mask"].clone()
        quarters = int(sample["tokens"].sum()) % 5 if uneven else 1
        mask[: len(mask) // 4 * quarters] = 0
        return sample | {"loss_mask": mask}

    GPTDataset.__getitem__ = masked


def quiet() -> None:
    """One thread per rank, and nothing that NeMo has to say."""
    import torch

    from nemo_elastic.demo.quiet import quiet

    torch.set_num_threads(1)
    quiet()


def prepare(place: Path) -> None:
    """Data, a parent of two steps, and what its ranking leaves for runs of each way to shapes, on one rank."""
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    prepare_parent(place)
    for layout in (Layout(), Layout(soft=True), Layout(soft=True, router=WIDE), Layout(halved=True)):
        destroy_num_microbatches_calculator()
        rank(place, place / "rank" / layout.name, layout, ranked(place, layout))


def prepare_parent(place: Path) -> None:
    """Data and a parent of two steps."""
    import fiddle

    from nemo_elastic.data.build import build_data

    quiet()
    build_data(place / "data", [library_text(place / "text", FEW)], vocab=VOCAB, held_out_problems=4)
    fiddle.build(recipe(place, place / "parent", Layout(), 2))()


def rank(place: Path, out: Path, layout: Layout, checkpoint: Path, **changes: Any) -> None:
    """The ranking as a job of its own, in any layout; changes are of the elastic block."""
    import fiddle

    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.hosts.nemo.curriculum.rank import rank_only

    quiet()
    job = rank_only(
        recipe(place, out, layout, 2), ElasticConfig.from_dict(block_of(layout, **changes)),
        parent=str(parent(place)), out=str(out / "elastic"), checkpoint=str(checkpoint),
    )  # fmt: skip
    fiddle.build(job)()


def parent(place: Path) -> Path:
    """The parent's checkpoint."""
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    return last_checkpoint(place / "parent")


def ranked(place: Path, layout: Layout) -> Path:
    """Sorted weights and first members."""
    return place / f"ranked-{layout.router if layout.soft else 'halved' if layout.halved else 0}"


def elastic_task(place: Path, out: Path, layout: Layout, steps: int, every: int = 0, **changes: Any) -> Any:
    """An elastic recipe that starts from the ranking; it goes on from a checkpoint in `out` where there is one.

    Args:
        place: where `prepare` was.
        out: log directory.
        layout: of ranks.
        steps: optimizer steps of the whole run.
        every: steps between checkpoints; only at the end if 0.
        changes: of the elastic block.
    """
    import nemo_run as run
    from nemo import lightning as nl

    from nemo_elastic.hosts.nemo.checkpoint.resume import ElasticResume
    from nemo_elastic.hosts.nemo.curriculum.jobs import checkpoints
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic

    stock = recipe(place, out, layout, steps)
    if every:
        stock.log.ckpt = checkpoints(every)
    task = apply_elastic(
        stock, block_of(layout, **changes),
        teacher=str(parent(place)) if layout.teacher else None, out=str(out / "elastic"), verbose=False,
    )  # fmt: skip
    start = run.Config(nl.RestoreConfig, path=str(ranked(place, layout)), load_optim_state=False)
    task.resume = run.Config(
        ElasticResume, resume_if_exists=True, resume_ignore_no_checkpoint=True, restore_config=start
    )
    return task


def refusal(place: Path, name: str, value: Any) -> str:
    """What apply_elastic says to a setting of the strategy that no family can have."""
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic

    stock = recipe(place, place / "refused", Layout(), 2)
    setattr(stock.trainer.strategy, name, value)
    try:
        apply_elastic(stock, block_of(Layout()), teacher=str(parent(place)), verbose=False)
    except ElasticError as error:
        return str(error)
    raise AssertionError(f"{name}={value} was taken")


def second_task(place: Path, out: Path, layout: Layout, first: Path, done: int, steps: int, **changes: Any) -> Any:
    """The recipe of stage 2 of a run, with longer sequences and more of them per step."""
    from nemo_elastic.hosts.nemo.curriculum.jobs import checkpoints, end_of
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic

    stock = recipe(place, out, layout, steps, length=2 * LENGTH, micro_batches=2)
    stock.log.ckpt = checkpoints(1)
    return apply_elastic(
        stock, block_of(layout, **{"sampling": {"full": 2, "large": 1, "small": 1}} | changes), stage=2,
        previous=end_of(str(first), done), done_steps=done, total_steps=done + steps,
        teacher=str(parent(place)) if layout.teacher else None,
        out=str(out / "elastic"), verbose=False,
    )  # fmt: skip


def second_stage(place: Path, out: Path, layout: Layout, first: Path, done: int, steps: int) -> None:
    """Stage 2 of a run, behind others in the same process."""
    import fiddle
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    destroy_num_microbatches_calculator()
    fiddle.build(second_task(place, out, layout, first, done, steps))()


def member_losses(model: Any) -> dict[str, list[float]]:
    """Every member's divergence from the teacher (cross-entropy without one) on given tokens, of which some count.

    Data-parallel ranks share them, and have unequal numbers of those that count.
    """
    import torch
    from megatron.core import parallel_state

    from nemo_elastic.train.heldout import CE_SUM, KL_SUM, TOKENS

    generator, own = torch.Generator().manual_seed(3), parallel_state.get_data_parallel_rank()
    whole = {
        "tokens": torch.randint(0, VOCAB, (3, BATCH, LENGTH), generator=generator),
        "loss_mask": (torch.rand(3, BATCH, LENGTH, generator=generator) < 0.5).float(),
    }
    whole["labels"] = whole["tokens"]
    rows = {name: t.split(model.host.micro_batch_size, 1)[own] for name, t in whole.items()}
    sums = model.steps.sums(model.members.get()[1:], [{n: t[i] for n, t in rows.items()} for i in range(3)])
    means = sums[:, KL_SUM if model.elastic_config.distill.taught else CE_SUM] / sums[:, TOKENS]
    return {b.name: [loss] for b, loss in zip(model.elastic_config.budgets, means.tolist(), strict=True)}


def record_samples(message: list[list[Any]]) -> None:
    """Append what every micro-batch samples, in this process: step, budget, kind of choice, number of a candidate."""
    from nemo_elastic.hosts.nemo.model import ElasticMambaModel

    samples = ElasticMambaModel.next_samples

    def watched(self: Any) -> Any:
        sampled = samples(self)
        message.extend([self.host.step, d.budget, type(d.choice).__name__, d.candidate] for d in sampled)
        return sampled

    ElasticMambaModel.next_samples = watched


def train(
    place: Path, out: Path, layout: Layout, steps: int = 2, every: int = 0, until: int | None = None, **changes: Any
) -> dict[str, Any]:
    """Train on this rank; returns what it sampled, lost and ended with. The checkpoint is in `out`.

    Args:
        place, out, layout, steps, every, changes: see `elastic_task`.
        until: step before which this process kills itself.
    """
    import fiddle
    import lightning.pytorch as pl

    quiet()
    facts: dict[str, Any] = {"samples": [], "losses": [], "budgets": []}
    record_samples(facts["samples"])

    class Watch(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            facts["from"] = trainer.global_step

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == until:
                os.kill(os.getpid(), signal.SIGKILL)

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            facts["losses"].append(float(trainer.callback_metrics["reduced_train_loss"]))
            names = sorted(k for k in trainer.callback_metrics if k.startswith("loss_"))
            facts["budgets"].append([[k, round(float(trainer.callback_metrics[k]), 6)] for k in names])

        def on_train_end(self, trainer: Any, module: Any) -> None:
            held = module.host.core.state_dict()
            facts["elastic"] = digest({k: v for k, v in held.items() if k.startswith("elastic.")})
            facts["members"] = member_losses(module)

    task = fiddle.build(elastic_task(place, out, layout, steps, every, **changes))
    task.keywords["trainer"].callbacks.append(Watch())
    task()
    return facts
