# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Trains a tiny Nemotron-H for a few steps through llm.pretrain, for test_platform (in a process of its own)."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from nemo.collections.common.tokenizers.tokenizer_spec import TokenizerSpec
from nemo.lightning import io
from nemo.lightning.pytorch.plugins import MegatronDataSampler
from torch.utils.data import DataLoader, Dataset

VOCABULARY, LENGTH, SAVED, STEPS = 1024, 32, 3, 6


class Numbers(TokenizerSpec, io.IOMixin):
    """Token ids are the text."""

    vocab_size = VOCABULARY
    eos_id = VOCABULARY - 1

    def text_to_tokens(self, text):
        return text.split()

    def tokens_to_text(self, tokens):
        return " ".join(tokens)

    def tokens_to_ids(self, tokens):
        return [int(t) for t in tokens]

    def ids_to_tokens(self, ids):
        return [str(i) for i in ids]

    def text_to_ids(self, text):
        return self.tokens_to_ids(text.split())

    def ids_to_text(self, ids):
        return " ".join(self.ids_to_tokens(ids))


class Counting(Dataset):
    """Sample i counts upwards from a start of its own."""

    def __len__(self):
        return 1000

    def __getitem__(self, i):
        start = torch.randint(VOCABULARY, (), generator=torch.Generator().manual_seed(i))
        t = (start + torch.arange(LENGTH + 1)) % VOCABULARY
        return {
            "tokens": t[:-1],
            "labels": t[1:],
            "loss_mask": torch.ones(LENGTH),
            "position_ids": torch.arange(LENGTH),
        }


class Data(pl.LightningDataModule, io.IOMixin):
    def __init__(self, micro_batch_size: int = 2, global_batch_size: int = 4):
        super().__init__()
        self.micro_batch_size, self.global_batch_size = micro_batch_size, global_batch_size
        self.seq_length, self.tokenizer = LENGTH, Numbers()
        self.data_sampler = MegatronDataSampler(LENGTH, micro_batch_size, global_batch_size)

    def train_dataloader(self):
        self.data_sampler.init_global_step = self.trainer.global_step
        return DataLoader(Counting())

    def val_dataloader(self):
        return DataLoader(Counting())

    def state_dict(self):
        steps = self.trainer.global_step - self.data_sampler.init_global_step
        return {"consumed_samples": self.data_sampler.compute_consumed_samples(steps)}

    def load_state_dict(self, state_dict):
        # without this a resumed run starts again with the first sample
        self.data_sampler.init_consumed_samples = state_dict["consumed_samples"]
        self.data_sampler.prev_consumed_samples = state_dict["consumed_samples"]
        self.data_sampler.if_first_step = 1


class Watch(pl.Callback, io.IOMixin):
    """Notes losses, and keeps a copy of the checkpoint of step SAVED as a run that was cut off there would have it."""

    def __init__(self, folder: str = "", keep: str = ""):
        self.folder, self.keep, self.losses, self.val_losses = Path(folder), keep, [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.keep and trainer.global_step == SAVED:
            shutil.copytree(self.folder / "checkpoints", Path(self.keep) / "checkpoints")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(trainer.callback_metrics["reduced_train_loss"]))

    def on_validation_end(self, trainer, pl_module):
        self.val_losses.append(float(trainer.callback_metrics["val_loss"]))


def main(folder: str, keep: str) -> None:
    """Trains in ``folder``, from the checkpoint there if there is one, up to step STEPS."""
    from megatron.core import optimizer as mcore
    from megatron.core.optimizer import OptimizerConfig
    from nemo import lightning as nl
    from nemo.collections import llm

    from nemo_elastic.hosts.nemo.platform.strategy import strategy_class
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH

    data, watch = Data(), Watch(folder, keep)
    config = TinyNemotronH(hybrid_override_pattern="M*-", num_layers=3, seq_length=LENGTH)
    # as stock recipes ask for it
    optimizer = OptimizerConfig(optimizer="adam", lr=3e-3, clip_grad=1.0, use_distributed_optimizer=True)
    model = llm.MambaModel(config, optim=nl.MegatronOptimizerModule(config=optimizer), tokenizer=data.tokenizer)
    trainer = nl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=STEPS,
        strategy=strategy_class()(),
        plugins=nl.MegatronMixedPrecision(precision="32"),
        callbacks=[watch],
        limit_val_batches=2,  # counted in micro-batches: a global batch
        num_sanity_val_steps=0,
        val_check_interval=2,
        log_every_n_steps=1,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    checkpoint = nl.ModelCheckpoint(
        save_last=True,
        every_n_train_steps=SAVED,
        save_top_k=1,
        monitor="reduced_train_loss",
        save_optim_on_train_end=True,
    )
    llm.pretrain(
        model,
        data,
        trainer,
        log=nl.NeMoLogger(explicit_log_dir=folder, ckpt=checkpoint),
        resume=nl.AutoResume(resume_if_exists=True, resume_ignore_no_checkpoint=True),
    )
    module = model.module
    while hasattr(module, "module"):
        module = module.module
    (optimizer,) = trainer.optimizers[0].mcore_optimizer.chained_optimizers
    result = {
        "optimizer": [type(optimizer).__name__, type(optimizer.optimizer).__name__],
        "state": sorted({name for state in optimizer.optimizer.state.values() for name in state}),
        "steps": [group["step"] for group in optimizer.optimizer.param_groups],
        "losses": watch.losses,
        "val_losses": watch.val_losses,
        "step": trainer.global_step,
        "embedding": list(module.embedding.word_embeddings.weight.shape),
        "cuda_is_itself": not torch.cuda.is_available() and torch.cuda.current_device.__module__ == "torch.cuda",
        "adam_is_itself": mcore.Adam is torch.optim.AdamW and mcore.USING_PYTORCH_OPTIMIZER,
    }
    (Path(folder) / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
