# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo's own recipe of a parent, at the size of a cluster: a stage's lengths, its layout over GPUs, and real data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fiddle
import nemo_run as run
import torch
from nemo import lightning as nl
from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
from nemo.collections.llm.recipes.log.default import tensorboard_logger
from nemo.collections.llm.recipes.optim.adam import distributed_fused_adam_with_cosine_annealing
from nemo.collections.llm.recipes.precision.mixed_precision import bf16_mixed

from nemo_elastic.data.indexed import check_prefix
from nemo_elastic.errors import bad
from nemo_elastic.hosts.common.planned import NODES, SAVE_EVERY, SPLIT, VALIDATIONS, PlannedFamily, Precision
from nemo_elastic.hosts.nemo.folder_data import FolderDataModule
from nemo_elastic.hosts.nemo.recipe.checks import made_by
from nemo_elastic.plan import Layout

from .jobs import (
    PAPER,
    Curriculum,
    Executors,
    Stage,
    checkpoints,
    inside,
    rank_recipe,
    run_family,
    slice_step,
    stage_recipe,
)

#: prefixes of Megatron's token files, with weights before them or not, or such lists by split
Blend = Sequence[str | float] | Mapping[str, Sequence[str | float]]
SPLITS = ("train", "validation", "test")
#: micro-batches of each data-parallel rank that a validation runs, for every member
VALIDATION_BATCHES = 8


@dataclass(frozen=True)
class FamilyRecipe(PlannedFamily):
    """A family that is trained from one of NeMo's own recipes, e.g. `llm.nemotron_nano_12b_v2.pretrain_recipe`."""

    host = "nemo"

    @property
    def precision(self) -> Precision:
        """Of the plugin that every job has."""
        plugin = fiddle.build(bf16_mixed()).dtype_config
        weights = {torch.float32: "fp32", torch.bfloat16: "bf16"}[plugin.params_dtype]
        return Precision(weights, "fp32" if plugin.grad_reduce_in_fp32 else weights)

    def rank_recipe(
        self,
        parent: str,
        data: Blend,
        dir: str,
        num_gpus_per_node: int = 8,
        curriculum: Curriculum = PAPER,
        tokenizer: str | None = None,
    ) -> run.Partial:
        """Rank the parent, sort its weights and search first shapes, on one node.

        Every GPU holds the parent whole and looks at its share of the samples, which are stage 1's first.

        Args: as in `stage1_recipe`.
        """
        recipe = self._stock("rank", data, dir, 1, num_gpus_per_node, curriculum.stage1, curriculum, tokenizer)
        recipe.data.global_batch_size = curriculum.stage1.micro_batch_size * num_gpus_per_node
        return rank_recipe(recipe, self.config, parent=parent, dir=dir)

    def stage1_recipe(
        self,
        parent: str,
        data: Blend,
        dir: str,
        num_nodes: int = NODES,
        num_gpus_per_node: int = 8,
        gpu: str = "h100",
        curriculum: Curriculum = PAPER,
        tokenizer: str | None = None,
    ) -> run.Partial:
        """Stage 1: the router learns shapes by soft masks, then weights are trained on slices. Needs the ranking.

        Args:
            parent: NeMo checkpoint of the parent: the teacher.
            data: see `blend`.
            dir: folder for everything, an absolute path that all nodes see.
            num_nodes, num_gpus_per_node, gpu: machines; by their number and kind (h100, h200) the layout is planned.
            curriculum: lengths, batches, steps and rates of both stages.
            tokenizer: of the parent, a folder or hub name; the name in NeMo's recipe by default.

        Raises:
            ElasticError: no layout fits, or the block does not fit the parent.
        """
        return self._stage(1, parent, data, dir, num_nodes, num_gpus_per_node, gpu, curriculum, tokenizer)

    def stage2_recipe(
        self,
        parent: str,
        data: Blend,
        dir: str,
        num_nodes: int = NODES,
        num_gpus_per_node: int = 8,
        gpu: str = "h100",
        curriculum: Curriculum = PAPER,
        tokenizer: str | None = None,
    ) -> run.Partial:
        """Stage 2: the same members at a longer context. Needs the end of stage 1.

        Args: as in `stage1_recipe`.
        """
        return self._stage(2, parent, data, dir, num_nodes, num_gpus_per_node, gpu, curriculum, tokenizer)

    def slice_step(self, dir: str, curriculum: Curriculum = PAPER) -> run.Partial:
        """Cut every member out of the end of stage 2, see `curriculum.slice_family`."""
        return slice_step(curriculum, self.config, dir=dir)

    def family_experiment(
        self,
        parent: str,
        data: Blend,
        dir: str,
        executors: Executors,
        long_data: Blend | None = None,
        num_nodes: int = NODES,
        num_gpus_per_node: int = 8,
        gpu: str = "h100",
        curriculum: Curriculum = PAPER,
        tokenizer: str | None = None,
        repeat: int = 1,
        dryrun: str | None = None,
    ) -> None:
        """All four jobs as one experiment.

        Args:
            executors: (nodes, GPUs per node) -> where a job runs.
            long_data: data of stage 2, if other.
            repeat, dryrun: see `curriculum.run_family`.
            parent, data, dir, num_nodes, num_gpus_per_node, gpu, curriculum, tokenizer: as in `stage1_recipe`.

        Raises:
            ElasticError: as in `stage1_recipe`; a job failed.
        """
        jobs = self.jobs(parent, data, dir, long_data, num_nodes, num_gpus_per_node, gpu, curriculum, tokenizer)
        estimates = self.estimates(curriculum, num_nodes, num_gpus_per_node, gpu)
        run_family(self.name, jobs, executors, repeat=repeat, dryrun=dryrun, estimates=estimates)

    def jobs(
        self,
        parent: str,
        data: Blend,
        dir: str,
        long_data: Blend | None = None,
        num_nodes: int = NODES,
        num_gpus_per_node: int = 8,
        gpu: str = "h100",
        curriculum: Curriculum = PAPER,
        tokenizer: str | None = None,
    ) -> dict[str, run.Partial]:
        """All four jobs by name, in order.

        Args: as in `family_experiment`.

        Raises:
            ElasticError: as in `stage1_recipe`.
        """
        machines: dict[str, Any] = {"num_nodes": num_nodes, "num_gpus_per_node": num_gpus_per_node, "gpu": gpu}
        same: dict[str, Any] = {"curriculum": curriculum, "tokenizer": tokenizer}
        return {
            "rank": self.rank_recipe(parent, data, dir, num_gpus_per_node, **same),
            "stage1": self.stage1_recipe(parent, data, dir, **machines, **same),
            "stage2": self.stage2_recipe(parent, long_data or data, dir, **machines, **same),
            "slice": self.slice_step(dir, curriculum),
        }

    def _stage(self, number: int, parent: str, data: Blend, dir: str, nodes: int, devices: int, gpu: str,
               curriculum: Curriculum, tokenizer: str | None) -> run.Partial:  # fmt: skip
        layout, stage = self.layout(number, curriculum, nodes * devices, gpu, devices), curriculum.stage(number)
        recipe = self._stock(f"stage{number}", data, dir, nodes, devices, stage, curriculum, tokenizer, layout)
        return stage_recipe(recipe, self.config, curriculum, number, parent=parent, dir=dir)

    def _stock(self, job: str, data: Blend, dir: str, nodes: int, devices: int, stage: Stage, curriculum: Curriculum,
               tokenizer: str | None, layout: Layout | None = None) -> run.Partial:  # fmt: skip
        """NeMo's recipe for a job, not yet elastic; without a layout every GPU holds the whole model."""
        recipe = self.stock(
            name=f"{self.name}-{job}",
            num_nodes=nodes,
            num_gpus_per_node=devices,
            tensor_parallelism=layout.tensor if layout else 1,
            pipeline_parallelism=layout.pipeline if layout else 1,
            sequence_parallelism=layout.sequence_parallel if layout else False,
            max_steps=stage.max_steps,
            val_check_interval=max(1, stage.max_steps // VALIDATIONS),
            limit_val_batches=VALIDATION_BATCHES,
        )
        if layout is not None and layout.recompute:
            config = recipe.model.config
            config.recompute_granularity, config.recompute_method, config.recompute_num_layers = "full", "uniform", 1
        if tokenizer is not None:
            recipe.model.tokenizer = run.Config(AutoTokenizer, pretrained_model_name=tokenizer)
        recipe.data = blend(data, stage, recipe.model.tokenizer, index=inside(dir, "index"))
        trainer = recipe.trainer
        trainer.plugins = [bf16_mixed()]
        # its own ModelCheckpoint gives way to that of `log`, at a place that the next job knows
        trainer.callbacks = [c for c in trainer.callbacks if made_by(c) is not nl.ModelCheckpoint]
        trainer.strategy.ckpt_load_strictness = None  # a tensor that is missing in a hand-over is an error
        # moments that any layout reads, gathered on one data-parallel rank, on the host: by default every GPU would
        # take 4 bytes for each parameter of its shard of the model to write them, and every process 12 of the host's
        trainer.strategy.ckpt_optim_fully_reshardable = True
        trainer.strategy.distrib_optim_fully_reshardable_mem_efficient = True
        recipe.log = run.Config(
            nl.NeMoLogger,
            name=job,
            explicit_log_dir=inside(dir, job),
            ckpt=checkpoints(SAVE_EVERY),
            tensorboard=tensorboard_logger(name=job),
        )
        recipe.optim = distributed_fused_adam_with_cosine_annealing(
            max_lr=curriculum.lr, min_lr=curriculum.lr * curriculum.min_ratio, warmup_steps=curriculum.warmup_steps
        )
        return recipe


def blend(data: Blend, stage: Stage, tokenizer: Any, *, index: str, seed: int = 1234, workers: int = 8) -> run.Config:
    """NeMo's pre-training data for a stage.

    Args:
        data: `["/data/a", "/data/b"]`, with weights `[0.7, "/data/a", 0.3, "/data/b"]`, or by split
            `{"train": […], "validation": […]}`, where test is the validation unless given. Prefixes of Megatron's .bin
            and .idx files; without splits, shares of 998, 1 and 1 are taken from each.
        stage: lengths and sizes.
        tokenizer: its config.
        index: folder in which Megatron keeps the order of the samples that it computes for these lengths.
        seed: of that order.
        workers: loader processes per rank.

    Raises:
        ElasticError: no data, or a split is missing.
    """
    if not data or isinstance(data, str):
        raise bad("data", data, "a list of prefixes of token files, such as [0.7, /data/a, 0.3, /data/b]")
    if isinstance(data, Mapping):
        if not {"train", "validation"} <= set(data) <= set(SPLITS):
            raise bad("data", sorted(data), "the splits train and validation, and test if there is one")
        paths: Any = {"test": list(data["validation"])} | {split: list(prefixes) for split, prefixes in data.items()}
    else:
        paths = list(data)
    for part in paths.values() if isinstance(paths, dict) else [paths]:
        for prefix in part:
            check_prefix("data", str(prefix))
    return run.Config(
        FolderDataModule,
        paths=paths,
        split=None if isinstance(paths, dict) else SPLIT,
        seq_length=stage.seq_length,
        micro_batch_size=stage.micro_batch_size,
        global_batch_size=stage.global_batch_size,
        num_train_samples=stage.samples,
        tokenizer=tokenizer,
        seed=seed,
        num_workers=workers,
        persistent_workers=workers > 0,
        index_mapping_dir=index,
    )
