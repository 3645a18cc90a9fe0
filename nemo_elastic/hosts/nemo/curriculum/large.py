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
from nemo_elastic.hosts.common.token_files import SPLIT, Blend, splits_of
from nemo_elastic.hosts.nemo.checkpoint.resume import ElasticResume
from nemo_elastic.hosts.nemo.folder_data import FolderDataModule, PackedChats
from nemo_elastic.hosts.nemo.platform.strategy import without_cuda
from nemo_elastic.hosts.nemo.recipe.apply import change
from nemo_elastic.hosts.nemo.recipe.checks import NemoRecipe, made_by
from nemo_elastic.slicing.family_folder import slice_family

from .jobs import PAPER, Curriculum, checkpoints, end_of, stop_in_time
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

    def rank_recipe(self, parent: str, data: Blend, dir: str, **named: Any) -> nemo_run.Partial:
        """Rank the parent, sort its weights and search a shape for every budget, on one node.

        Every GPU holds the parent whole and looks at its share of the samples, which are stage 1's first.

        Args:
            parent, data, dir, named: see `run_of`.
        """
        return self.build("rank", self.run_of(parent, data, dir, **named))

    def stage1_recipe(self, parent: str, data: Blend, dir: str, **named: Any) -> nemo_run.Partial:
        """Stage 1 on short sequences. Needs the ranking.

        Args:
            parent, data, dir, named: see `run_of`.

        Raises:
            ElasticError: no layout fits, or the block does not fit the parent.
        """
        return self.build("stage1", self.run_of(parent, data, dir, **named))

    def stage2_recipe(self, parent: str, data: Blend, dir: str, **named: Any) -> nemo_run.Partial:
        """Stage 2: the same members at a longer context. Needs the end of stage 1.

        Args, Raises: as `stage1_recipe`.
        """
        return self.build("stage2", self.run_of(parent, data, dir, **named))

    def slice_step(self, dir: str, curriculum: Curriculum = PAPER) -> nemo_run.Partial:
        """Cut every member out of the end of stage 2, see `slicing.family_folder.slice_family`."""
        return nemo_run.Partial(slice_family, **self.slicing(self.run_of("", (), dir, curriculum=curriculum)))

    def checkpoint_of(self, job: str, run: CurriculumRun) -> str:
        if job == "rank":
            return os.path.join(run.folder(job), "checkpoints", "ranked")
        return end_of(run.folder(job), run.stage(job).max_steps)

    def recipe_of(self, built: nemo_run.Partial) -> NemoRecipe:
        return NemoRecipe(built)

    def settings(self, built: nemo_run.Partial) -> dict[str, Any]:
        return settings(built)

    def task(self, built: nemo_run.Partial, job: str, run: CurriculumRun) -> nemo_run.Partial:
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
