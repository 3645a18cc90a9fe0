# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo's side of `runs`: the recipe of a job, and what a rank does with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.parallel.runs import BUCKET, LENGTH, PEAK, SHAPE, Job, padded, quiet, weights_read

#: module that starts a module of ours in this environment, if one has to
STARTED_BY: tuple[str, ...] = ()


def load() -> None:
    """Import what ranks need, once for all of them."""
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401


def halve(recipe: Any) -> None:
    """Let a recipe train in bf16, as NeMo's recipes on GPUs do."""
    import torch
    from nemo.collections.llm.recipes.precision.mixed_precision import bf16_mixed

    recipe.trainer.plugins = bf16_mixed()
    for config in (recipe.model.config, recipe.optim.config):
        config.bf16, config.params_dtype = True, torch.bfloat16


def recipe(place: Path, job: Job) -> Any:
    """A stock recipe of the tiny parent in a layout."""
    import nemo_run as run
    import torch
    from megatron.core.distributed import DistributedDataParallelConfig

    from nemo_elastic.hosts.nemo.curriculum.jobs import checkpoints
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH, held_out, tiny_recipe

    layout = job.layout
    task = tiny_recipe(
        place / "data", place / job.out, steps=job.steps, seq_length=LENGTH * job.times,
        micro_batch_size=layout.batch // layout.data,
        global_batch_size=layout.batch * layout.micro_batches * job.times, warmup_steps=1, lr=PEAK, label="",
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
    if job.save_every:
        task.log.ckpt = checkpoints(job.save_every)
    held_out(task, job.validate, 4)
    if job.packed:
        task.data = prompts(place, job, task)
    if job.stock is not None:
        job.stock(task)
    return task


def prompts(place: Path, job: Job, task: Any) -> Any:
    """Prompts and answers, packed as NeMo packs; the few by what `nemotron_elastic_12b_sft` reads them by."""
    import nemo_run as run
    import torch
    from nemo.collections import llm
    from nemo.collections.llm.gpt.data.packed_sequence import PackedSequenceSpecs

    from nemo_elastic.hosts.nemo.folder_data import PackedChats

    torch.cuda.LongTensor = torch.LongTensor  # NeMo counts its samples with it
    return run.Config(
        PackedChats if job.few else llm.FineTuningDataModule, dataset_root=str(place / ("few" if job.few else "sft")),
        seq_length=LENGTH, micro_batch_size=1, global_batch_size=job.layout.batch * job.layout.micro_batches,
        tokenizer=task.data.tokenizer, num_workers=0, dataset_kwargs={"pad_to_max_length": True},
        packed_sequence_specs=run.Config(
            PackedSequenceSpecs, packed_sequence_size=LENGTH, tokenizer_model_name="tiny"
        ),
    )  # fmt: skip


def parent(place: Path) -> Path:
    """The parent's checkpoint."""
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    return last_checkpoint(place / "parent")


def elastic(place: Path, job: Job) -> Any:
    """The job's recipe; a first stage goes on from a checkpoint of its own where there is one."""
    import nemo_run as run
    from nemo import lightning as nl

    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.hosts.nemo.checkpoint.resume import ElasticResume
    from nemo_elastic.hosts.nemo.curriculum.jobs import end_of
    from nemo_elastic.hosts.nemo.curriculum.rank import rank_only
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic

    stock, out = recipe(place, job), place / job.out
    if job.kind == "parent":
        return stock
    if job.kind == "rank":
        return rank_only(stock, ElasticConfig.from_dict(job.block()), parent=str(parent(place)),
                         out=str(out / "elastic"), checkpoint=str(out / "ranked"))  # fmt: skip
    task = apply_elastic(
        stock, job.block(), teacher=str(job.teacher or parent(place)) if job.layout.teacher else None,
        stage=job.stage, out=str(out / "elastic"), verbose=False,
        previous=end_of(str(place / job.previous[0]), job.previous[1]) if job.previous else None,
    )  # fmt: skip
    if job.from_ranking:
        start = run.Config(nl.RestoreConfig, path=str(place / job.from_ranking / "ranked"), load_optim_state=False)
        task.resume = run.Config(
            ElasticResume, resume_if_exists=True, resume_ignore_no_checkpoint=True, restore_config=start
        )
    if job.elastic is not None:
        job.elastic(task)
    return task


def run(place: Path, job: Job) -> dict[str, Any]:
    """Do a job on this rank; returns what it sampled, lost and ended with."""
    import fiddle
    import lightning.pytorch as pl
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    from nemo_elastic.hosts.common.experiment import job as as_job

    quiet()
    destroy_num_microbatches_calculator()
    if job.padded:
        padded(job.layout.per_token)
    if job.before is not None:
        job.before()
    facts: dict[str, Any] = {"samples": [], "losses": [], "budgets": [], "training": [], "learned": [],
                             "read": weights_read()}  # fmt: skip

    def record(model: Any, drawn: Any) -> None:
        facts["samples"].append([model.host.step, drawn.budget, type(drawn.choice).__name__])

    watch_samples(after=record)

    class Watch(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            facts["from"] = trainer.global_step

        def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            facts["training"].append(module.training and (job.kind == "parent" or module.host.core.training))
            job.starts(trainer.global_step, trainer.global_rank)

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            metrics = trainer.callback_metrics
            facts["losses"].append(float(metrics["reduced_train_loss"]))
            facts["budgets"].append([[k, round(float(metrics[k]), 6)] for k in sorted(metrics) if k[:5] == "loss_"])
            if job.kind != "parent" and module.members.router is not None:
                facts["learned"].append(digest(dict(module.members.router.named_parameters())))

        def on_train_end(self, trainer: Any, module: Any) -> None:
            facts["monitored"] = sorted(k for k in trainer.callback_metrics if k.startswith("val_"))
            if job.kind != "parent":
                held = module.host.core.state_dict()
                facts["weights"] = digest(dict(module.host.core.named_parameters()))
                family = {k: v for k, v in held.items() if k.startswith("elastic.")}
                facts["ranking"] = bytes(family.pop("elastic.ranking").tolist()).hex()  # has the basis's last bits
                facts["elastic"] = digest(family)

    task = fiddle.build(elastic(place, job))
    if job.kind != "rank":
        task.keywords["trainer"].callbacks += [Watch(), *([] if job.callback is None else [job.callback()])]
    as_job(task)
    return facts


def digest(tensors: dict[str, Any]) -> str:
    """Hash of named tensors."""
    h = hashlib.sha256()
    for name in sorted(tensors):
        h.update(name.encode() + tensors[name].detach().float().cpu().numpy().tobytes())
    return h.hexdigest()


def watch_samples(before: Callable[[Any], Any] | None = None, after: Callable[[Any, Any], Any] | None = None) -> None:
    """From here on call these with a model, whenever it draws what a micro-batch samples, and with what it drew."""
    from nemo_elastic.train.training import FamilyTraining

    draw = FamilyTraining.next_sample

    def watched(self: Any, host: Any) -> Any:
        if before is not None:
            before(host.module)
        drawn = draw(self, host)
        if after is not None:
            after(host.module, drawn)
        return drawn

    FamilyTraining.next_sample = watched


def saved_at_start(run: Path) -> Callable[[], Any]:
    """Makes a callback that saves what a run starts from, before its first step."""

    def make() -> Any:
        import lightning.pytorch as pl

        class Saves(pl.Callback):
            def on_train_start(self, trainer: Any, module: Any) -> None:
                trainer.save_checkpoint(run / "checkpoints" / "step=0-last")

        return Saves()

    return make
