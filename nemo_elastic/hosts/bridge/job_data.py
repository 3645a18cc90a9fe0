# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a job of the curriculum reads, as Megatron-Bridge's container has it: token files or packed conversations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from megatron.bridge.data.builders.gpt_sft import GPTSFTDatasetConfig
from megatron.bridge.data.packing.config import PackedSequenceSpecs
from megatron.bridge.training.config import GPTDatasetConfig

from nemo_elastic.data.packing import PARQUET
from nemo_elastic.errors import bad
from nemo_elastic.hosts.common.chat_data import chat_folder, packed_files
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun
from nemo_elastic.hosts.common.token_files import SPLIT, SPLITS, number, prefixes_of, splits_of

#: micro-batches of conversations that it has at least, on all ranks
HELD_OUT = 8
#: loader processes of a rank that reads conversations, as Bridge's recipes have for text
WORKERS = 8


def set_data(config: Any, job: str, run: CurriculumRun, replicas: int) -> None:
    """Give a container the data of a job, as Bridge reads them.

    Args:
        config: Bridge's container.
        job: of the run.
        run: of the curriculum.
        replicas: ranks that read different data.

    Raises:
        ElasticError: weights before some of the data alone.
    """
    if run.chat:
        config.dataset = _chats(job, run)
        # a micro-batch of each rank, some of few ranks: fewer conversations are held out than a step may train on
        each = max(1, HELD_OUT // replicas) * run.stage(job).micro_batch_size
        config.validation.eval_global_batch_size = replicas * each
    else:
        if not isinstance(config.dataset, GPTDatasetConfig):  # a recipe of prompts and answers
            config.dataset = _no_text(config.dataset.seed)
        _text(config.dataset, job, run)


def _text(dataset: Any, job: str, run: CurriculumRun) -> None:
    data = splits_of(run.text(job))
    if isinstance(data, dict):
        dataset.blend, dataset.split = None, None
        dataset.blend_per_split = [_blend(data[split]) for split in SPLITS]
    else:
        dataset.blend, dataset.split = _blend(data), SPLIT
    dataset.path_to_cache = os.path.join(run.dir, "index")
    # nothing reads it, and at 49152 tokens each micro-batch would have one of 2.4 GB
    dataset.create_attention_mask = False


def _no_text(seed: int) -> GPTDatasetConfig:
    resets = dict.fromkeys(("reset_position_ids", "reset_attention_mask", "eod_mask_loss"), False)
    return GPTDatasetConfig(random_seed=seed, seq_length=1, dataloader_type="single", **resets)


def _chats(job: str, run: CurriculumRun) -> GPTSFTDatasetConfig:
    """Packed conversations, whose answers count in the loss, repeated for all steps of the stage."""
    folder, stage = chat_folder(run, job, PARQUET), run.stage(job)
    specs = PackedSequenceSpecs(packed_sequence_size=stage.seq_length)
    for name, file in packed_files(folder, PARQUET).items():
        setattr(specs, name, file)  # its constructor asks for files that a cluster may have alone
    return GPTSFTDatasetConfig(
        seq_length=stage.seq_length,
        dataset_root=folder,
        max_train_samples=stage.samples,
        enable_offline_packing=True,
        offline_packing_specs=specs,
        dataset_kwargs={"pad_to_max_length": True},  # as ranks and stages share it
        do_test=False,
        dataloader_type="single",
        num_workers=WORKERS,
    )


def _blend(data: Sequence[str | float]) -> tuple[list[str], list[float] | None]:
    """Prefixes and their weights; a command line has both as text."""
    weights, prefixes = [x for x in map(number, data) if x is not None], prefixes_of(data)
    if weights and len(weights) != len(prefixes):
        raise bad("data", list(data), "a weight before each prefix, or before none")
    return prefixes, weights or None
