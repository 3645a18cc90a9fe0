# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every kind of data of Megatron-Bridge's that a family can have: ranks, searches, trains both stages, validates."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.hosts.data_kinds import AS_STOCK, BRIDGE, STEPS, WHOLE, run_all, write_data
from tests.parallel import forks
from tests.parallel.bridge import config, own_tokenizer, prompts
from tests.parallel.runs import LENGTH, PEAK, Job, Layout, block_of, do, prepare_data, write_prompts


def container(place: Path, name: str, job: Job) -> Any:
    """A stock container on a kind of data."""
    from megatron.bridge.data.builders.direct_hf_sft import DirectHFSFTDatasetConfig
    from megatron.bridge.data.packing.config import PackedSequenceSpecs
    from megatron.bridge.data.sft_processing import ChatSFTPreprocessingConfig
    from megatron.bridge.data.sources.hf import HFDatasetSourceConfig
    from megatron.bridge.training import config as bridge

    made = config(place, job)
    if name == "b apart":
        made.dataset.reset_position_ids = True
        made.dataset.blend_per_split = [([str(place / "notes" / half)], None) for half in ("train", "val", "val")]
        made.tokenizer = own_tokenizer(place)
        return made
    prompts(place, made)
    dataset, chats = made.dataset, place / "chats"
    dataset.dataloader_type = "batch"
    if name in ("b prompts", "b chats"):
        dataset.enable_offline_packing, dataset.offline_packing_specs, dataset.dataset_kwargs = False, None, None
    if name in ("b packed", "b chats packed"):
        made.train.micro_batch_size = 1
    if name == "b chats packed":
        dataset.offline_packing_specs = PackedSequenceSpecs(
            packed_sequence_size=LENGTH, packed_train_data_path=str(chats / "training.idx.parquet"),
            packed_val_data_path=str(chats / "validation.idx.parquet"),
        )  # fmt: skip
    if name not in ("b prompts", "b packed"):
        made.tokenizer.tokenizer_model = str(chats / "tokenizer")
    if name in ("b chats", "b chats packed"):
        dataset.dataset_root, dataset.preprocessing = str(chats), ChatSFTPreprocessingConfig()
    if name in ("b direct", "b in batch"):
        files = {split: str(chats / f"{split}.jsonl") for split in ("training", "validation")}
        load = {"data_files": files, "cache_dir": str(place / "cache")}
        source = HFDatasetSourceConfig(path_or_dataset="json", split="training", load_kwargs=load)
        made.dataset = DirectHFSFTDatasetConfig(
            seq_length=LENGTH, source=source, validation_source=source.with_split("validation"), do_test=False,
            num_workers=0, enable_in_batch_packing=name == "b in batch",
        )  # fmt: skip
    assert isinstance(made, bridge.ConfigContainer)
    return made


def refused(name: str) -> Any:
    """A recipe on a kind that no family can have."""
    from megatron.bridge.data.builders.energon import EnergonDatasetConfig

    from nemo_elastic.hosts.bridge.checks import BridgeRecipe
    from nemo_elastic.hosts.bridge.cli import find_stock

    recipe = find_stock("nemotron_nano_12b_v2_sft_config")()
    dataset: Any = recipe.dataset
    assert dataset.enable_offline_packing
    if name == "b in batch, stages":
        dataset.enable_offline_packing, dataset.enable_in_batch_packing = False, True
    elif name == "b packed, stages":
        dataset.dataset_kwargs = None
    elif name == "b external":
        dataset.dataloader_type = "external"
    else:
        recipe.dataset = EnergonDatasetConfig.__new__(EnergonDatasetConfig)
    recipe.model.pipeline_model_parallel_size = 2 if "stages" in name else 1
    return BridgeRecipe(recipe)


def train(place: Path, name: str, out: Path, block: Any, options: dict[str, Any]) -> None:
    """A stage; see `data_kinds.stages`."""
    from nemo_elastic.hosts.bridge.apply import apply_elastic

    made = container(place, name, Job(str(out), layout=Layout(micro_batches=2), steps=STEPS))
    teacher = str(place / "parent" / "checkpoints")
    apply_elastic(made, block, teacher=teacher, verbose=False, **options).pretrain()


def as_stock(place: Path) -> dict[str, Any]:
    """Losses of Bridge's own fine-tuning on prompts and answers, and of a family's whole member on the same.

    Both at one rate, for their schedules are not the same; with micro-batches that weigh alike, and tokens.
    """
    from megatron.bridge.training.callbacks import Callback
    from megatron.bridge.training.gpt_step import forward_step
    from megatron.bridge.training.pretrain import pretrain
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    from nemo_elastic.hosts.bridge.apply import apply_elastic
    from nemo_elastic.hosts.bridge.platform import bridge_on_this_machine
    from nemo_elastic.hosts.bridge.step import LOSS

    class Recorder(Callback):
        def __init__(self, losses: list[float]) -> None:
            self.losses = losses

        def on_train_step_start(self, context: Any) -> None:
            for group in context.optimizer.param_groups:
                group["lr"] = PEAK

        def on_train_step_end(self, context: Any) -> None:
            self.losses.append(float(context.loss_dict[LOSS]))

    parent, losses = str(place / "parent" / "checkpoints"), {}
    for per_token in (False, True):
        for name in ("stock", "whole"):
            losses[f"{name} {per_token}"] = own = []
            out = place / AS_STOCK / f"{name} {per_token}"
            layout = Layout(micro_batches=2, per_token=per_token)
            made = container(place, "b prompts", Job(str(out), layout=layout, steps=2 * STEPS))
            if name == "stock":
                made.checkpoint.pretrained_checkpoint = parent
                with bridge_on_this_machine(made):
                    pretrain(made, forward_step, callbacks=[Recorder(own)])
            else:
                run = apply_elastic(made, block_of(layout, **WHOLE), teacher=parent, verbose=False)
                run.callbacks.append(Recorder(own))
                run.pretrain()
            destroy_num_microbatches_calculator()
    return losses


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """What each kind of `data_kinds.KINDS` leaves."""
    write_prompts(place)
    prepare_data(place)
    forks.run(place / "log" / "notes", 1, write_data, place, "parquet", LENGTH)
    do(place, Job("parent", "parent"))
    return run_all(place, BRIDGE, train, as_stock)
