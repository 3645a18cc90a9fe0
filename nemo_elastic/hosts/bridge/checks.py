# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A `ConfigContainer` as rules see it: where its fields lie, and what can be checked of its model and its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from megatron.bridge.data.builders.energon import EnergonDatasetConfig
from megatron.bridge.data.builders.mock_vlm_sft import MockVLMSFTDatasetConfig
from megatron.bridge.models.hybrid.hybrid_provider import HybridModelProvider
from megatron.bridge.training.config import (
    ConfigContainer,
    DirectHFSFTDatasetConfig,
    GPTSFTDatasetConfig,
    MockGPTDatasetConfig,
)
from megatron.bridge.training.tokenizers.tokenizer import build_tokenizer
from megatron.bridge.utils.vocab_utils import calculate_padded_vocab_size

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.config.sections import APART
from nemo_elastic.errors import bad
from nemo_elastic.hosts.common.recipe import Recipe, TokenFiles
from nemo_elastic.hosts.common.token_files import files_of
from nemo_elastic.io.values import integer

from .optim import ElasticOverrides

#: Bridge's tokenizer that stands for one, in recipes on random tokens; data that is tokenized needs no other
PLACEHOLDER = "NullTokenizer"
NOT_TRAINED = "layers that predict further tokens are cut and exported, not trained"
OWN_GRADIENTS = "false: gradients of sliced weights need Megatron's own data parallelism"


class BridgeRecipe(Recipe):
    """A `ConfigContainer`; see `hosts.common.recipe.Recipe`."""

    text = "text, as dataset.data_path=[PREFIX]"
    ranking = "give ranked= the checkpoint of a ranking"
    needs = "for a family "
    paths: ClassVar = {
        "shape": "model",
        "pattern": "model.hybrid_layer_pattern",
        "tensor": "model.tensor_model_parallel_size",
        "pipeline": "model.pipeline_model_parallel_size",
        "context": "model.context_parallel_size",
        "expert": "model.expert_model_parallel_size",
        "expert tensor": "model.expert_tensor_parallel_size",
        "recompute": "model.recompute_granularity",
        "recompute method": "model.recompute_method",
        "recompute layers": "model.recompute_num_layers",
        "per token": "model.calculate_per_token_loss",
        "average_in_collective": "ddp.average_in_collective",
        "sequence_parallel": "model.sequence_parallel",
        "balancing": "model.moe_router_load_balancing_type",
        "device": "dist.distributed_backend",
        "steps": "train.train_iters",
        "lr": "optimizer.lr",
        "min_lr": "optimizer.min_lr",
        "warmup": "scheduler.lr_warmup_iters",
        "decay": "scheduler.lr_decay_iters",
        "trains": "checkpoint.save_optim",
        "distributed": "optimizer.use_distributed_optimizer",
        "reshardable": "checkpoint.dist_ckpt_optim_fully_reshardable",
        "batch": "train.global_batch_size",
        "micro batch": "train.micro_batch_size",
        "data": "dataset",
        "length": "dataset.seq_length",
        "split": "dataset.split",
        "reset_position_ids": "dataset.reset_position_ids",
        "workers": "dataset.num_workers",
        "persistent_workers": "dataset.persistent_workers",
        "save every": "checkpoint.save_interval",
        "validate every": "validation.eval_interval",
        "validation batches": "validation.eval_iters",
        "save": "checkpoint.save",
        "own checkpoints": "checkpoint.load",
    }
    refused: ClassVar = {
        "model.hybrid_context_parallel": ((None, False), "false: all steps share sequences over the same ranks"),
        "model.dynamic_context_parallel": ((None, False), "false: all steps share sequences over the same ranks"),
        "dist.eval_context_parallel_size": ((None,), "null: members are validated on the ranks that train them"),
        "model.virtual_pipeline_model_parallel_size": ((None, 1), "null: hybrid models have no virtual stages"),
        "ddp.use_megatron_fsdp": ((False,), OWN_GRADIENTS),
        "dist.use_megatron_fsdp": ((False,), OWN_GRADIENTS),
        "dist.use_torch_fsdp2": ((False,), OWN_GRADIENTS),
        "dist.use_decentralized_pg": ((False,), "false: ranks are found by megatron-core's parallel state"),
        "rerun_state_machine.rerun_mode": (
            ("disabled",),
            "disabled: a step that runs twice would sample its budgets twice",
        ),
        "checkpoint.also_save_hf_checkpoint": (
            (None, False),
            "false: Bridge does not know the router; slice writes such folders, and so does AutoBridge under as_stock",
        ),
        "scheduler.lr_warmup_samples": (
            (None, 0),
            "0: a stage counts steps; use lr_warmup_iters or lr_warmup_fraction",
        ),
        "optimizer.optimizer_cuda_graph": ((False,), "false: elastic.nonfinite reads gradients in each step"),
        "model.mtp_num_layers": ((None, 0), f"null, as mtp_hybrid_override_pattern: {NOT_TRAINED}"),
        "model.mtp_hybrid_override_pattern": ((None,), f"null: {NOT_TRAINED}"),
    }

    def check_kind(self) -> None:
        if not isinstance(self.made, ConfigContainer):
            raise bad("recipe", type(self.made).__name__, "a ConfigContainer of Megatron-Bridge")
        if not isinstance(self.made.model, HybridModelProvider):
            raise bad("recipe.model", type(self.made.model).__name__, "a HybridModelProvider (Nemotron-H)")
        if isinstance(self.made.optimizer_config_override_provider, ElasticOverrides):
            raise bad("recipe", "ElasticOverrides", "a stock recipe; this one is elastic already")
        for name in ("global_batch_size", "micro_batch_size"):
            integer(f"recipe.train.{name}", getattr(self.made.train, name), 1, "a number of sequences")
        if self.get("optimizer.decoupled_lr") is not None and self.get("logger.tensorboard_dir") is not None:
            allowed = "null with optimizer.decoupled_lr: Bridge's log of that rate ends in an error"
            raise self.bad("logger.tensorboard_dir", allowed)
        if "/" in str(self.get("pattern")):
            raise self.bad("pattern", f"the layers before the /: {NOT_TRAINED}")

    def check_data(self, block: ElasticConfig, stage: int) -> None:
        data, stages = self.made.dataset, self.ranks("pipeline")
        if isinstance(data, (EnergonDatasetConfig, MockVLMSFTDatasetConfig)):
            raise bad("recipe.dataset", type(data).__name__, "text, prompts and answers or chats: a GPTDatasetConfig, "
                      "GPTSFTDatasetConfig or DirectHFSFTDatasetConfig")  # fmt: skip
        # in the first stage a run may have to rank and search, on its data by number
        ranks = (block.ranking is None and not block.is_sorted) or block.searches
        finds = stage == 1 and ranks and not self.starts_ranked
        if finds and self.get("dataset.dataloader_type") == "external":
            loader = "your own loader needs ranked= from a run with rank_only=True"
            raise self.bad(
                "dataset.dataloader_type", f"single, cyclic or batch, because this stage finds shapes; {loader}"
            )
        resets = self.get("reset_position_ids")
        if block.data.documents == APART and resets:
            if self.made.tokenizer.tokenizer_type == PLACEHOLDER:
                allowed = "the data's own tokenizer, whose end token separates documents"
                raise self.bad("tokenizer.tokenizer_type", allowed)
            if stages > 2:
                why = "Bridge gives the middle ranks packed data only"
                raise bad("elastic.data.documents", APART, f"joined on {stages} pipeline ranks: {why}")
        if stages > 1 and self.get("dataset.enable_in_batch_packing"):
            why = "pipeline ranks pass on rows of one length"
            raise self.bad("dataset.enable_in_batch_packing", f"false on {stages} pipeline ranks: {why}")
        padded = (self.get("dataset.dataset_kwargs") or {}).get("pad_to_max_length")
        if stages > 1 and self.get("dataset.enable_offline_packing") and not padded:
            why = "pipeline ranks pass on rows of one length"
            allowed = f"true on {stages} pipeline ranks: {why}"
            raise bad("recipe.dataset.dataset_kwargs.pad_to_max_length", padded, allowed)
        if not isinstance(self.get("length"), int):
            raise self.bad("length", "a number of tokens")

    @property
    def answers(self) -> bool:
        return isinstance(self.made.dataset, (GPTSFTDatasetConfig, DirectHFSFTDatasetConfig))

    def random_data(self) -> str | None:
        data = self.made.dataset
        named = getattr(data, "blend", None) or getattr(data, "blend_per_split", None)
        random = isinstance(data, MockGPTDatasetConfig) or not (named or getattr(data, "data_path", 1))
        return type(data).__name__ if random else None

    def data(self) -> Mapping[str, Sequence[str]]:
        return {self.at(name): files for name, files in self._files().items()}

    def _files(self) -> dict[str, list[str]]:
        """What the data set reads, by the field that names it."""
        parts = [part[0] for part in self.get("dataset.blend_per_split") or () if part]
        given = {
            "dataset.blend_per_split": [file for part in parts for file in part],
            "dataset.blend": (self.get("dataset.blend") or ((),))[0],
            "dataset.data_path": self.get("dataset.data_path"),
            "dataset.dataset_root": self.get("dataset.dataset_root"),
        }
        return {name: files_of(value) for name, value in given.items()}

    def token_files(self) -> TokenFiles:
        by_split, blend, path, _ = self._files().items()
        name, files = next((given for given in (by_split, blend) if given[1]), path)
        return name, files, None if by_split[1] else self.get("split")

    def vocabularies(self) -> Mapping[str, int | None]:
        tokenizer, built = self.made.tokenizer, self.get("dataset.tokenizer")
        files = tokenizer.tokenizer_model
        if built is None and tokenizer.tokenizer_type != PLACEHOLDER and files is not None and Path(files).exists():
            built = build_tokenizer(tokenizer)
        size = None if built is None else built.vocab_size
        return {"tokenizer.vocab_size": size, "model.vocab_size": self._own_vocabulary()}

    def vocabulary(self) -> int | None:
        model, tokenizer, size = self.made.model, self.made.tokenizer, self._own_vocabulary()
        if size is not None and not model.should_pad_vocab:
            return size
        if size is None and tokenizer.tokenizer_type == PLACEHOLDER and isinstance(tokenizer.vocab_size, int):
            size = tokenizer.vocab_size
        if size is None:
            return None
        return calculate_padded_vocab_size(size, model.make_vocab_size_divisible_by, model.tensor_model_parallel_size)

    def _own_vocabulary(self) -> int | None:
        """What the model says of its vocabulary, and Bridge goes by: None where it asks the tokenizer."""
        size = self.made.model.vocab_size
        return size if isinstance(size, int) and not self.made.tokenizer.use_tokenizer_vocab_size else None

    def warmup(self, total_steps: int) -> tuple[str, int] | None:
        """A number of steps, or a share of those over which rates fall."""
        scheduler = self.made.scheduler
        if scheduler.lr_warmup_fraction is None:
            return super().warmup(total_steps)
        steps = scheduler.lr_warmup_fraction * (scheduler.lr_decay_iters or total_steps)
        return "recipe.scheduler.lr_warmup_fraction", round(steps)

    def other_schedule(self, total_steps: int) -> tuple[str, str] | None:
        usual = {"scheduler.lr_decay_style": (None, "cosine"), "scheduler.lr_decay_iters": (None, total_steps)}
        other = {self.at(name): str(self.get(name)) for name in usual if self.get(name) not in usual[name]}
        return next(iter(other.items()), None)
