# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A recipe of NeMo's as rules see it: where its fields lie, and what can be checked of its classes and its data.

Nothing is built and nothing is downloaded: sizes are read off the recipe's `run.Config`s.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import fiddle
from nemo import lightning as nl
from nemo.collections import llm
from nemo.collections.llm.gpt.data import FineTuningDataModule
from nemo.collections.llm.gpt.data.mock import MockDataModule
from nemo.collections.llm.gpt.model.ssm import SSMConfig
from torch.nn.parallel import DistributedDataParallel

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError, did_you_mean
from nemo_elastic.hosts.common.changes import made_by
from nemo_elastic.hosts.common.recipe import Recipe, TokenFiles
from nemo_elastic.hosts.common.token_files import files_of
from nemo_elastic.hosts.nemo.folder_data import PackedChats
from nemo_elastic.hosts.nemo.model import ElasticMambaModel
from nemo_elastic.hosts.nemo.optim import ElasticSchedule
from nemo_elastic.io.values import integer

STRATEGY = "recipe.trainer.strategy"


def field_names(made: type, *others: type) -> list[str]:
    """Arguments of every constructor of a class, of its bases and of `others`."""
    classes = [*inspect.getmro(made), *others]
    constructors = [c.__init__ for c in classes if "__init__" in vars(c) and c is not object]
    return sorted(
        {p for init in constructors for p in inspect.signature(init).parameters} - {"self", "args", "kwargs"}
    )


def check_spelling(where: str, config: Any, *others: type) -> None:
    """Raise for a field that no constructor knows: the `**kwargs` of some would swallow it."""
    names = field_names(made_by(config), *others)
    for name in config.__arguments__:
        if name not in names:
            raise ElasticError(f"{where}: unknown field {name!r}{did_you_mean(name, names)}")


class NemoRecipe(Recipe):
    """A `run.Partial` of NeMo's; see `hosts.common.recipe.Recipe`."""

    checkpoint = "NeMo checkpoint"
    text = "a module that reads text, or data.paths=[PREFIX]"
    ranking = "let recipe.resume start from a ranked checkpoint"
    paths: ClassVar = {
        "shape": "model.config",
        "pattern": "model.config.hybrid_override_pattern",
        "tensor": "trainer.strategy.tensor_model_parallel_size",
        "pipeline": "trainer.strategy.pipeline_model_parallel_size",
        "context": "trainer.strategy.context_parallel_size",
        "recompute": "model.config.recompute_granularity",
        "recompute method": "model.config.recompute_method",
        "recompute layers": "model.config.recompute_num_layers",
        "per token": "model.config.calculate_per_token_loss",
        "average_in_collective": "trainer.strategy.ddp.average_in_collective",
        "sequence_parallel": "trainer.strategy.sequence_parallel",
        "device": "trainer.accelerator",
        "devices": "trainer.devices",
        "nodes": "trainer.num_nodes",
        "steps": "trainer.max_steps",
        "lr": "optim.config.lr",
        "min_lr": "optim.lr_scheduler.min_lr",
        "min_ratio": "optim.lr_scheduler.min_ratio",
        "warmup": "optim.lr_scheduler.warmup_steps",
        "trains": "optim",
        "ddp": "trainer.strategy.ddp",
        "optimizer": "optim.config",
        "distributed": "optim.config.use_distributed_optimizer",
        "reshardable": "trainer.strategy.ckpt_optim_fully_reshardable",
        "batch": "data.global_batch_size",
        "micro batch": "data.micro_batch_size",
        "samples": "data.num_train_samples",
        "length": "data.seq_length",
        "split": "data.split",
        "reset_position_ids": "data.reset_position_ids",
        "workers": "data.num_workers",
        "persistent_workers": "data.persistent_workers",
        "save every": "log.ckpt.every_n_train_steps",
        "validate every": "trainer.val_check_interval",
        "validation batches": "trainer.limit_val_batches",
        "save": "log.explicit_log_dir",
    }
    refused: ClassVar = {
        "trainer.strategy.virtual_pipeline_model_parallel_size": (
            (None, 1),
            "null: NeMo's Mamba models have no virtual stages",
        ),
        "trainer.strategy.fsdp": (
            (None,),
            "null: gradients of sliced weights need the buffers of Megatron's own data parallelism",
        ),
    }

    def check_kind(self) -> None:
        for name, base, words in (
            ("model", llm.MambaModel, "a MambaModel (Nemotron-H)"),
            ("model.config", SSMConfig, "a subclass of SSMConfig"),
            ("trainer.strategy", nl.MegatronStrategy, "a run.Config of MegatronStrategy"),
            ("optim", nl.MegatronOptimizerModule, "a run.Config of MegatronOptimizerModule"),
        ):
            made = made_by(self.get(name))
            if not (isinstance(made, type) and issubclass(made, base)):
                raise self.bad(name, words)
        made = made_by(self.get("model"))
        if issubclass(made, ElasticMambaModel):
            raise self.bad("model", "a stock recipe; this one is elastic already")
        if self.get("data") is None:
            raise self.bad("data", "a run.Config of a data module")
        check_spelling("recipe.trainer", self.get("trainer"))
        check_spelling(STRATEGY, self.get("trainer.strategy"), DistributedDataParallel)

    def check_data(self, block: ElasticConfig, stage: int) -> None:
        data, config = self.get("data"), self.get("shape")
        made, length, steps = made_by(data), self.get("length"), self.get("steps")
        sizes = {"micro_batch_size", "global_batch_size"}
        if isinstance(made, type) and not sizes <= {*field_names(made)}:
            allowed = "a data module with micro_batch_size and global_batch_size, as NeMo's for Megatron have them"
            raise self.bad("data", allowed)
        for name in sizes & data.__arguments__.keys():
            integer(f"recipe.data.{name}", getattr(data, name), 1, "a number of sequences")
        if length is None:
            return
        if "seq_length" in config.__arguments__ and config.seq_length != length:
            other = f"recipe.model.config.seq_length says {config.seq_length}"
            raise self.bad("length", f"{other}; set both to the same number of tokens")
        samples, batch = self.get("samples"), self.get("batch")
        if isinstance(samples, int) and isinstance(batch, int) and samples < steps * batch:
            raise self.bad("samples", f"at least trainer.max_steps x global_batch_size = {steps * batch}")
        if made is PackedChats:
            if data.micro_batch_size != 1:
                raise self.bad("data.micro_batch_size", "1, of packed conversations")
            if self.get("data.packed_sequence_specs") is None and Path(data.dataset_root).exists():
                PackedChats.folder(data.dataset_root, length)

    @property
    def answers(self) -> bool:
        made = made_by(self.get("data"))
        return isinstance(made, type) and issubclass(made, FineTuningDataModule)

    def random_data(self) -> str | None:
        return "MockDataModule" if made_by(self.get("data")) is MockDataModule else None

    def data(self) -> Mapping[str, Sequence[str]]:
        return {"recipe.data": [*files_of(self.get("data.paths")), *files_of(self.get("data.dataset_root"))]}

    def token_files(self) -> TokenFiles:
        paths = self.get("data.paths")
        return "data.paths", files_of(paths), None if isinstance(paths, Mapping) else self.get("split")

    def vocabularies(self) -> Mapping[str, int | None]:
        return {"data.tokenizer.vocab_size": self._tokens()}

    def vocabulary(self) -> int | None:
        config = self.get("shape")
        size = self._tokens() or getattr(config, "vocab_size", None)
        if not isinstance(size, int):
            return None
        unit = config.make_vocab_size_divisible_by * self.ranks("tensor")
        return -(-size // unit) * unit

    def _tokens(self) -> int | None:
        """Size of the tokenizer; None where it would have to be downloaded."""
        tokenizer = self.get("data.tokenizer") or self.get("model.tokenizer")
        if isinstance(tokenizer, fiddle.Buildable) and any(
            isinstance(v, str) and Path(v).exists() for v in tokenizer.__arguments__.values()
        ):
            return getattr(fiddle.build(tokenizer), "vocab_size", None)
        return None

    def other_schedule(self, total_steps: int) -> tuple[str, str] | None:
        schedule = self.get("optim.lr_scheduler")
        name = getattr(made_by(schedule), "__name__", str(schedule))
        cosine = schedule is None or "Cosine" in name or made_by(schedule) is ElasticSchedule
        return None if cosine else ("recipe.optim.lr_scheduler", name)
