# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo's own recipe of a parent, at the size of a cluster: a stage's lengths, its layout over GPUs, and real data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import fiddle
import nemo_run
import torch
from nemo import lightning as nl
from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
from nemo.collections.llm.gpt.data.packed_sequence import PackedSequenceSpecs
from nemo.collections.llm.recipes.log.default import tensorboard_logger
from nemo.collections.llm.recipes.optim.adam import distributed_fused_adam_with_cosine_annealing
from nemo.collections.llm.recipes.precision.mixed_precision import bf16_mixed

from nemo_elastic.core.family import Parent
from nemo_elastic.data.packing import NPY
from nemo_elastic.formats.megatron.shape import stock_sizes
from nemo_elastic.hosts.common.changes import Changes, settings
from nemo_elastic.hosts.common.chat_data import chat_folder, packed_files
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun, job_folder
from nemo_elastic.hosts.common.planned import PlannedFamily, Precision
from nemo_elastic.hosts.common.token_files import SPLIT, splits_of
from nemo_elastic.hosts.nemo.checkpoint.resume import ElasticResume
from nemo_elastic.hosts.nemo.folder_data import FolderDataModule, PackedChats
from nemo_elastic.hosts.nemo.platform.strategy import without_cuda
from nemo_elastic.hosts.nemo.recipe.apply import change
from nemo_elastic.hosts.nemo.recipe.checks import NemoRecipe, made_by
from nemo_elastic.hosts.nemo.watch import NemoWatch
from nemo_elastic.megatron.spec import elastic_stack_spec

from .jobs import checkpoints, end_of, stop_in_time
from .rank import rank_only

#: loader processes of a rank
WORKERS = 8


@dataclass(frozen=True)
class FamilyRecipe(PlannedFamily):
    """A family that is trained from one of NeMo's own recipes, e.g. `llm.nemotron_nano_12b_v2.pretrain_recipe`."""

    host = "nemo"
    validation_batches = 8

    @property
    def precision(self) -> Precision:
        """Of the plugin that every job has."""
        plugin = fiddle.build(bf16_mixed()).dtype_config
        weights = {torch.float32: "fp32", torch.bfloat16: "bf16"}[plugin.params_dtype]
        return Precision(weights, "fp32" if plugin.grad_reduce_in_fp32 else weights)

    def checkpoint_of(self, job: str, run: CurriculumRun) -> str:
        if job == "rank":
            return os.path.join(run.folder(job), "checkpoints", "ranked")
        return end_of(run.folder(job), run.stage(job).max_steps)

    def recipe_of(self, built: nemo_run.Partial) -> NemoRecipe:
        return NemoRecipe(built)

    def settings(self, built: nemo_run.Partial) -> dict[str, Any]:
        return settings(built)

    def parent_recipe(self, run: CurriculumRun) -> nemo_run.Partial:
        recipe = self.stock_recipe("parent", run)
        recipe.model.config.mamba_stack_spec = elastic_stack_spec
        recipe.trainer.callbacks = []
        recipe.trainer.strategy.ddp.overlap_grad_reduce = False
        return recipe

    def watched(self, built: nemo_run.Partial, out: str, stop_after: int | None) -> nemo_run.Partial:
        built = built.clone()
        watch = nemo_run.Config(NemoWatch, out=out, stop_after=stop_after)
        built.trainer.callbacks = [*built.trainer.callbacks, watch]
        return built

    def task(self, built: nemo_run.Partial, job: str, run: CurriculumRun, watch: Any = None) -> nemo_run.Partial:
        return built

    @staticmethod
    def stop_in_time(task: nemo_run.Partial, code: int) -> None:
        stop_in_time(task, code)

    def elastic(self, recipe: nemo_run.Partial, job: str, run: CurriculumRun) -> nemo_run.Partial:
        ranked = self.checkpoint_of("rank", run)
        if job == "rank":
            out = os.path.join(run.folder(job), "elastic")
            return rank_only(recipe, run.block_of(job), parent=run.parent, out=out, checkpoint=ranked)
        changes = Changes(recipe)
        options = run.options(job, self.checkpoint_of(f"stage{run.before(job)}", run))
        change(recipe, run.block_of(job), options, changes)
        if job == "stage1":
            recipe.resume = nemo_run.Config(
                ElasticResume,
                resume_if_exists=True,
                resume_ignore_no_checkpoint=True,
                # there is no optimizer state to go on with: the ranking moved the weights, it did not train them
                restore_config=nemo_run.Config(nl.RestoreConfig, path=ranked, load_optim_state=False),
            )
        print(changes.text(recipe), flush=True)
        return recipe

    def stock_recipe(self, job: str, run: CurriculumRun) -> nemo_run.Partial:
        nodes, devices = run.machines(job)
        recipe = self.stock(name=f"{self.name}-{job}", num_nodes=nodes, num_gpus_per_node=devices)
        trainer = recipe.trainer
        if run.shape is not None:
            set_sizes(recipe.model.config, run.shape)
        if run.tokenizer is not None:
            recipe.model.tokenizer = nemo_run.Config(AutoTokenizer, pretrained_model_name=run.tokenizer)
        recipe.data = (chats if run.chat else blend)(job, run, recipe.model.tokenizer)
        trainer.plugins = [bf16_mixed()]
        # its own ModelCheckpoint gives way to that of `log`, at a place that the next job knows
        trainer.callbacks = [c for c in trainer.callbacks if made_by(c) is not nl.ModelCheckpoint]
        trainer.strategy.ckpt_load_strictness = None  # a tensor that is missing in a hand-over is an error
        # moments that any layout reads, gathered on one data-parallel rank, on the host: by default every GPU would
        # take 4 bytes for each parameter of its shard of the model to write them, and every process 12 of the host's
        trainer.strategy.ckpt_optim_fully_reshardable = True
        trainer.strategy.distrib_optim_fully_reshardable_mem_efficient = True
        recipe.log = nemo_run.Config(
            nl.NeMoLogger,
            name=job,
            explicit_log_dir=run.folder(job),
            ckpt=checkpoints(run.save_every),
            tensorboard=tensorboard_logger(name=job),
        )
        recipe.optim = distributed_fused_adam_with_cosine_annealing()
        self.put(NemoRecipe(recipe), job, run, self.layout_of(job, run))
        if not run.cuda:
            without_cuda(recipe)
        return recipe


def blend(job: str, run: CurriculumRun, tokenizer: Any, *, seed: int = 1234) -> nemo_run.Config:
    """NeMo's pre-training data for a job.

    Args:
        job, run: what reads them.
        tokenizer: its config.
        seed: of the order of samples, which Megatron computes for these lengths and keeps in DIR/index.

    Raises:
        ElasticError: no data, or a split is missing.
    """
    paths = splits_of(run.text(job))
    return nemo_run.Config(
        FolderDataModule,
        paths=paths,
        split=None if isinstance(paths, dict) else SPLIT,
        num_train_samples=run.stage(job).samples,
        tokenizer=tokenizer,
        seed=seed,
        index_mapping_dir=job_folder(run.dir, "index"),
        num_workers=WORKERS,
        persistent_workers=True,
    )


def chats(job: str, run: CurriculumRun, tokenizer: Any, *, seed: int = 1234) -> nemo_run.Config:
    """NeMo's fine-tuning data for a job: packed conversations, whose answers count in the loss.

    Args:
        job, run: what reads them.
        tokenizer: its config.
        seed: of the order of sequences.

    Raises:
        ElasticError: see `chat_folder`.
    """
    folder, length = chat_folder(run, job, NPY), run.stage(job).seq_length
    return nemo_run.Config(
        PackedChats,
        dataset_root=folder,
        tokenizer=tokenizer,
        seed=seed,
        packed_sequence_specs=nemo_run.Config(
            PackedSequenceSpecs, packed_sequence_size=length, **packed_files(folder, NPY)
        ),
        dataset_kwargs={"pad_to_max_length": True},  # as ranks and stages share it
        num_workers=WORKERS,
        persistent_workers=True,
    )


def set_sizes(config: nemo_run.Config, parent: Parent) -> None:
    """Give a model's config a parent's widths and layers."""
    for name, value in stock_sizes(parent, parent.full).items():
        if getattr(config, name, None) != value:
            setattr(config, name, value)
