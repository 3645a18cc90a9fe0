# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every data module of NeMo's that a family can have: ranks, searches, trains both stages and validates on it."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.hosts.data_kinds import AS_STOCK, NEMO, STEPS, WHOLE, run_all, write_data
from tests.parallel import forks
from tests.parallel.nemo import parent, recipe
from tests.parallel.runs import LENGTH, Job, Layout, block_of, prepare, quiet, write_prompts


def data_of(place: Path, name: str, stock: Any) -> Any:
    """A stock recipe's data, of a kind."""
    import nemo_run as run
    from nemo.collections import llm
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
    from nemo.collections.llm.gpt.data.chat import ChatDataModule
    from nemo.collections.llm.gpt.data.packed_sequence import PackedSequenceSpecs

    if name == "apart":
        stock.data.reset_position_ids = True
        parts = (("train", "train"), ("validation", "val"), ("test", "val"))
        stock.data.paths = {part: [str(place / "notes" / half)] for part, half in parts}
        return stock.data
    chats, packed = place / "chats", "packed" in name
    sizes = {"seq_length": LENGTH, "micro_batch_size": 1 if packed else 2, "global_batch_size": 4, "num_workers": 0}
    if "chats" in name:
        paths = {
            "packed_train_data_path": chats / "training.npy", "packed_val_data_path": chats / "validation.npy",
            "packed_metadata_path": chats / "packed_metadata.jsonl",
        }  # fmt: skip
        tokenizer = run.Config(AutoTokenizer, pretrained_model_name=str(chats / "tokenizer"))
        made = run.Config(
            ChatDataModule, str(chats), tokenizer=tokenizer, use_hf_tokenizer_chat_template=True, **sizes
        )
    else:
        paths = {"tokenizer_model_name": "tiny"}
        made = run.Config(llm.FineTuningDataModule, str(place / "sft"), tokenizer=stock.data.tokenizer, **sizes)
    if packed:
        made.packed_sequence_specs = run.Config(PackedSequenceSpecs, packed_sequence_size=LENGTH, **paths)
    return made


def refused(name: str) -> Any:
    """A recipe on a kind that no family can have."""
    import nemo_run as run
    from nemo.collections.llm.gpt.data.hf_dataset import HFDatasetDataModule

    from nemo_elastic.hosts.nemo.recipe.checks import NemoRecipe

    assert name == "hub"
    return NemoRecipe(run.Config(dict, data=run.Config(HFDatasetDataModule, path_or_dataset="nobody/nothing")))


def train(place: Path, name: str, out: Path, block: Any, options: dict[str, Any]) -> None:
    """A stage; see `data_kinds.stages`."""
    import fiddle
    import torch

    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic

    quiet()
    torch.cuda.LongTensor = torch.LongTensor  # NeMo counts its samples with it
    stock = recipe(place, Job(str(out), layout=Layout(micro_batches=2), steps=STEPS))
    stock.data = data_of(place, name, stock)
    elastic = str(out / "elastic")
    task = apply_elastic(stock, block, teacher=str(parent(place)), out=elastic, verbose=False, **options)
    fiddle.build(task)()


def as_stock(place: Path) -> dict[str, Any]:
    """Losses of NeMo's own fine-tuning on prompts and answers, and of a family's whole member on the same."""
    import fiddle
    import nemo_run as run
    import torch
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator
    from nemo import lightning as nl

    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic

    quiet()
    torch.cuda.LongTensor = torch.LongTensor  # NeMo counts its samples with it
    teacher, losses = str(parent(place)), {}
    for name in ("stock", "whole"):
        out = place / AS_STOCK / name
        task = recipe(place, Job(str(out), layout=Layout(micro_batches=2), steps=2 * STEPS))
        task.data = data_of(place, "prompts", task)
        if name == "stock":
            task.resume.restore_config = run.Config(nl.RestoreConfig, path=teacher, load_optim_state=False)
        else:
            block = block_of(Layout(), **WHOLE)
            task = apply_elastic(task, block, teacher=teacher, out=str(out / "elastic"), verbose=False)
        destroy_num_microbatches_calculator()
        fiddle.build(task)()
        lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        losses[name] = [line["reduced_train_loss"] for line in lines if line["kind"] == "step"]
    return losses


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """What each kind of `data_kinds.KINDS` leaves."""
    prepare(place, whole=False)
    write_prompts(place)
    forks.run(place / "log" / "notes", 1, write_data, place, "npy", LENGTH)
    return run_all(place, NEMO, train, as_stock)
