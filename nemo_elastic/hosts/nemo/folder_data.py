# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of `nemo-elastic data` as NeMo's data: token files to pre-train on, packed conversations to fine-tune on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nemo_run as run
import torch
from nemo.collections.common.tokenizers.tokenizer_utils import get_nmt_tokenizer
from nemo.collections.llm.gpt.data import FineTuningDataModule, PreTrainingDataModule
from nemo.collections.llm.gpt.data.packed_sequence import PackedSequenceSpecs

from nemo_elastic.data.folder import TOKENIZER, ChatFolder, DataFolder
from nemo_elastic.data.packing import NPY
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.hosts.common.chat_data import packed_files
from nemo_elastic.io.values import integer

__all__ = ["FolderDataModule", "PackedChats", "packed_chats", "pretraining_data"]


class FolderDataModule(PreTrainingDataModule):
    """NeMo's PreTrainingDataModule where three of its settings would not do.

    It has the arguments of its base, all of them, and no constructor: NeMo captures constructor calls to write a
    run's configuration into its checkpoints, and a second constructor on the way can get lost there.
    """

    @property
    def gpt_dataset_config(self) -> Any:
        """Megatron's dataset settings, without an attention mask.

        The base insists on building masks, seq_length² numbers a sample, where Transformer Engine is missing;
        Nemotron-H never looks at them.
        """
        self.create_attention_mask = False
        return super().gpt_dataset_config

    def build(self, trainer_max_steps: int, trainer_val_check_interval: int, *args: Any, **kwargs: Any) -> None:
        """Build the datasets, once the number of samples and the place of their order are seen to be fine.

        Every validation starts its loader anew and reads the same samples, so one's worth is asked for: their order
        would depend on the number of validations otherwise.
        """
        needed = trainer_max_steps * self.data_sampler.global_batch_size
        if self.num_train_samples is not None and self.num_train_samples < needed:
            raise bad("num_train_samples", self.num_train_samples, f"{trainer_max_steps} steps read {needed} samples")
        if self.index_mapping_dir:
            try:
                Path(self.index_mapping_dir).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                message = f"{self.index_mapping_dir}: cannot be made ({error.strerror}); give a writable index_dir"
                raise ElasticError(message) from None
        never = 1 + max(needed, self.num_train_samples or 0)
        super().build(trainer_max_steps, never, *args, **kwargs)

    def _create_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        self.pin_memory = self.pin_memory and torch.cuda.is_available()  # a warning per loader otherwise
        return super()._create_dataloader(*args, **kwargs)


class PackedChats(FineTuningDataModule):
    """NeMo's FineTuningDataModule, whose ranks read sequences of one length one after the other.

    The base reads global batches whole, to fill up their rows alike. Of fewer held-out sequences than a step trains on
    NeMo would validate nothing; here they are read again. Without `packed_sequence_specs` the packed files are
    those of `dataset_root`, a folder of `nemo-elastic data`.
    """

    def validate_batch_size_for_packed_sequence(self) -> None:
        """Where no packed files were named, take the folder's; the base's constructor calls this."""
        if self.packed_sequence_specs is None:
            folder = self.folder(self.dataset_root, self.seq_length)
            self.packed_sequence_size = folder.length
            self.packed_sequence_specs = PackedSequenceSpecs(folder.length, **packed_files(str(folder.path), NPY))
        super().validate_batch_size_for_packed_sequence()

    @staticmethod
    def folder(root: str | Path, length: int) -> ChatFolder:
        """The folder that is read.

        Raises:
            ElasticError: no folder of conversations, or one of sequences of another length or for another host.
        """
        folder = ChatFolder.open(root)
        if (folder.length, folder.packed) != (length, NPY):
            made = f"{folder.path}, made with --seq-length {folder.length} --packed {folder.packed}"
            raise bad("data.dataset_root", made, f"one with --seq-length {length} --packed {NPY}")
        return folder

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.dataset_kwargs.setdefault("pad_to_max_length", True)  # as ranks and stages share it
        assert self.data_sampler is not None
        self.data_sampler.dataloader_type = "single"

    def val_dataloader(self) -> Any:
        given = self.validation_path_packed, self.pack_metadata, True
        dataset = self._create_dataset(*given, **self.dataset_kwargs)
        if len(dataset) < self.global_batch_size:
            dataset = self._create_dataset(*given, max_num_samples=self.global_batch_size, **self.dataset_kwargs)
        return self._create_dataloader(dataset, mode="validation")

    def _create_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        self.pin_memory = self.pin_memory and torch.cuda.is_available()  # a warning per loader otherwise
        return super()._create_dataloader(*args, **kwargs)


def packed_chats(folder: ChatFolder, global_batch_size: int, seed: int) -> run.Config:
    """Configure a run's data of conversations, in sequences of the folder's length."""
    return run.Config(
        PackedChats,
        dataset_root=str(folder.path.resolve()),
        tokenizer=_tokenizer(folder.tokenizer_dir),
        seq_length=folder.length,
        micro_batch_size=1,
        global_batch_size=global_batch_size,
        seed=seed,
        num_workers=0,
        persistent_workers=False,
    )


def _tokenizer(folder: Path) -> run.Config:
    """A tokenizer, in the words of NeMo's own recipes."""
    return run.Config(get_nmt_tokenizer, library="huggingface", model_name=str(folder.resolve()), use_fast=True)


def pretraining_data(
    folder: str | Path | DataFolder,
    *,
    seq_length: int,
    micro_batch_size: int,
    global_batch_size: int,
    num_train_samples: int,
    train: str = "train",
    validation: str = "val",
    seed: int = 1234,
    num_workers: int = 0,
    index_dir: str | Path | None = None,
) -> run.Config:
    """Configure a run's data.

    Args:
        folder: A data folder, or the path of one.
        seq_length: Tokens per sample.
        micro_batch_size: Samples per forward pass and rank.
        global_batch_size: Samples per optimizer step.
        num_train_samples: Samples of the whole run: its steps times the global batch size. The order of all samples
            depends on it, so it must stay the same when a run is resumed or prolonged; take the longest run planned.
        train: Split to train on.
        validation: Split to validate (and test) on.
        seed: Seed of the order.
        num_workers: Loader processes per rank.
        index_dir: Where Megatron keeps the orders that it computes; `<folder>/index` when absent, which must then be
            writable.

    Returns:
        Of a `FolderDataModule`; `fiddle.build` makes it.

    Raises:
        ElasticError: If a value is out of range, or the data is shorter than one sample.
    """
    data = folder if isinstance(folder, DataFolder) else DataFolder.open(folder)
    sizes: dict[str, Any] = {
        "seq_length": seq_length,
        "micro_batch_size": micro_batch_size,
        "global_batch_size": global_batch_size,
        "num_train_samples": num_train_samples,
    }
    _check(data, sizes, (train, validation))
    train, validation = data.available(train), data.available(validation)
    root = data.path.resolve()  # NeMo-Run starts jobs in other working directories
    # Megatron finds a stored order by paths and settings, not by content: rebuilt data must not meet an old order.
    index = Path(index_dir).resolve() / data.digest if index_dir else root / "index"
    return run.Config(
        FolderDataModule,
        paths={"train": [str(root / train)], **{part: [str(root / validation)] for part in ("validation", "test")}},
        split=None,
        **sizes,
        tokenizer=_tokenizer(root / TOKENIZER),
        seed=seed,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        index_mapping_dir=str(index),
    )


def _check(data: DataFolder, sizes: dict[str, int], splits: Sequence[str]) -> None:
    """Raise where a size is out of range, or a split is none or shorter than a sample."""
    for name, value in sizes.items():
        integer(name, value, 1, "an integer above 0")
    whole, micro, length = (sizes[name] for name in ("global_batch_size", "micro_batch_size", "seq_length"))
    if whole % micro:
        raise bad("global_batch_size", whole, f"a multiple of the micro-batch size, {micro}")
    for split in splits:
        tokens = data.splits[data.available(split)].tokens
        if tokens <= length:
            raise ElasticError(f"seq_length: {length} is too long; {data.prefix(split)} has {tokens} tokens")
