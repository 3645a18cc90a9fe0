# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a `ConfigContainer` and an elastic block must agree on, seen from the configuration alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

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
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.moe import EXPERTS
from nemo_elastic.errors import bad
from nemo_elastic.formats.megatron.shape import layer_pattern
from nemo_elastic.hosts.common.agreement import (
    Names,
    check_documents,
    check_length,
    check_model,
    check_no_file,
    check_ranks,
    check_rates,
    check_vocabulary,
    looks,
    router_warnings,
    vocabulary_rows,
)
from nemo_elastic.hosts.common.stage import StageOptions
from nemo_elastic.hosts.common.token_files import FileNames, check_token_files, files_of
from nemo_elastic.io.values import integer
from nemo_elastic.kernels import BLOCK, SHAPE, TENSOR, check_widths
from nemo_elastic.plan.stages import Pace

from .optim import ElasticOverrides

#: how a config of Bridge's spells what a check may refuse
NAMES = Names(
    tensor="recipe.model.tensor_model_parallel_size",
    pipeline="recipe.model.pipeline_model_parallel_size",
    context="recipe.model.context_parallel_size",
    expert_tensor="recipe.model.expert_tensor_parallel_size",
    model="recipe.model",
    pattern="hybrid_layer_pattern",
)
#: Bridge's tokenizer that stands for one, in recipes on random tokens; data that is tokenized needs no other
PLACEHOLDER = "NullTokenizer"
FILES = FileNames("recipe.dataset.blend", "recipe.dataset.seq_length", "recipe.dataset.split")
#: setting -> the values that a family can have, and why
REFUSED = {
    "model.hybrid_context_parallel": ((None, False), "false: ranks that share sequences out are the same ones"),
    "model.dynamic_context_parallel": ((None, False), "false: ranks that share sequences out are the same ones"),
    "dist.eval_context_parallel_size": ((None,), "null: members are validated on the ranks that train them"),
    "model.virtual_pipeline_model_parallel_size": ((None, 1), "null: hybrid models have no virtual stages"),
    "ddp.use_megatron_fsdp": ((False,), "false: gradients of sliced weights need Megatron's own data parallelism"),
    "dist.use_megatron_fsdp": ((False,), "false: gradients of sliced weights need Megatron's own data parallelism"),
    "dist.use_torch_fsdp2": ((False,), "false: gradients of sliced weights need Megatron's own data parallelism"),
    "dist.use_decentralized_pg": ((False,), "false: ranks are found by megatron-core's parallel state"),
    "rerun_state_machine.rerun_mode": (
        ("disabled",),
        "disabled: a step that runs twice would sample its budgets twice",
    ),
    "checkpoint.also_save_hf_checkpoint": (
        (None, False),
        "false: Bridge cannot name the router; slice writes such folders, and AutoBridge does under as_stock",
    ),
    "peft": ((None,), "null: every weight of the family is trained"),
    "scheduler.lr_warmup_samples": ((None, 0), "0: a stage has so many steps; lr_warmup_iters or lr_warmup_fraction"),
}


def check_architecture(config: Any) -> None:
    """Raise unless the config trains a Nemotron-H that is not elastic yet, in a way that a family can be trained."""
    if not isinstance(config, ConfigContainer):
        raise bad("recipe", type(config).__name__, "a ConfigContainer of Megatron-Bridge")
    if not isinstance(config.model, HybridModelProvider):
        raise bad("recipe.model", type(config.model).__name__, "a HybridModelProvider (Nemotron-H)")
    if isinstance(config.optimizer_config_override_provider, ElasticOverrides):
        raise bad("recipe", "ElasticOverrides", "a stock recipe; this one is elastic already")
    if not layer_pattern(config.model):
        raise bad("recipe.model.hybrid_layer_pattern", None, "a pattern such as M-M*-, one symbol per layer")
    optimizer, train = config.optimizer, config.train
    check_rates(("recipe.optimizer.lr", optimizer.lr), ("recipe.optimizer.min_lr", optimizer.min_lr))
    for name in ("global_batch_size", "micro_batch_size"):
        integer(f"recipe.train.{name}", getattr(train, name), 1, "a number of sequences")
    check_settings(config)
    _check_prediction(config.model)


def _check_prediction(model: Any) -> None:
    """Raise for layers that predict more than one token where they cannot be trained."""
    steps, pattern = model.mtp_num_layers, model.mtp_hybrid_override_pattern
    if not steps:
        return
    if not pattern:
        allowed = "the layers of a step, as *E; or null as recipe.model.mtp_num_layers"
        raise bad("recipe.model.mtp_hybrid_override_pattern", pattern, allowed)
    if (ranks := model.pipeline_model_parallel_size) > 1:
        raise bad("recipe.model.mtp_num_layers", steps, f"null on {ranks} pipeline ranks: they read the embedding")
    if (ranks := model.context_parallel_size) > 1:
        allowed = f"null on {ranks} context-parallel ranks: further tokens of a sequence may lie on another one"
        raise bad("recipe.model.mtp_num_layers", steps, allowed)
    if model.mtp_detach_heads:
        raise bad("recipe.model.mtp_detach_heads", True, "false: their loss trains the model, too")


def check_settings(config: Any) -> None:
    """Raise for what no family can be trained with, whatever it is of the recipe."""
    for name, (allowed, why) in REFUSED.items():
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part, None)
        if value not in allowed:
            raise bad(f"recipe.{name}", value, f"for a family {why}")


def check_parallel(config: Any, block: ElasticConfig, parent: Parent) -> None:
    """Raise for layouts over ranks, and for widths on a GPU, that the family cannot have."""
    model = config.model
    tensor, pipeline = model.tensor_model_parallel_size, model.pipeline_model_parallel_size
    context = model.context_parallel_size or 1
    check_ranks(block, parent, tensor, pipeline, NAMES, model.expert_tensor_parallel_size, context)
    if parent.has(EXPERTS):
        _check_experts(model, parent, tensor)
    if config.dist.distributed_backend != "gloo":
        names = {TENSOR: f"recipe.model.{TENSOR}", SHAPE: f"recipe.model.{SHAPE}", BLOCK: f"elastic.{BLOCK}"}
        check_widths(parent, block.resolve_axes(parent), tensor * context, names)


def _check_experts(model: Any, parent: Parent, tensor: int) -> None:
    if tensor > 1 and not model.sequence_parallel:
        why = "with experts tensor-parallel ranks share the tokens"
        raise bad("recipe.model.sequence_parallel", model.sequence_parallel, f"true on {tensor} ranks: {why}")
    ranks, experts = model.expert_model_parallel_size or 1, parent.size(EXPERTS)
    if experts % ranks:
        raise bad("recipe.model.expert_model_parallel_size", ranks, f"a size that divides the {experts} experts")
    balancing = model.moe_router_load_balancing_type
    if "global_aux_loss" in (balancing if isinstance(balancing, (list, tuple)) else [balancing]):
        why = "a loss over many micro-batches would compare members that have other experts"
        raise bad("recipe.model.moe_router_load_balancing_type", balancing, f"aux_loss, seq_aux_loss or none: {why}")


def check_text(config: Any, options: StageOptions) -> None:
    """Raise where the data are random tokens that nobody asked for."""
    dataset = config.dataset
    named = getattr(dataset, "blend", None) or getattr(dataset, "blend_per_split", None)
    if isinstance(dataset, MockGPTDatasetConfig) or not (named or getattr(dataset, "data_path", 1)):
        options.check_mock("recipe.dataset", type(dataset).__name__, "text, as dataset.data_path=[PREFIX]")


def check_data(config: Any, block: ElasticConfig, stage: int, ranked: bool) -> None:
    """Raise where the data gives no sequences of one length, none that the ranks can share, or does not say enough.

    Args:
        config: the container.
        block: the elastic block.
        stage: of the run: in the first it may have to rank, search and compare candidates, on its data by number.
        ranked: whether it starts from what a ranking has left.
    """
    dataset, own, stages = config.dataset, config.checkpoint.load, config.model.pipeline_model_parallel_size
    goes_on = own is not None and Path(own).exists()
    if isinstance(dataset, (EnergonDatasetConfig, MockVLMSFTDatasetConfig)):
        raise bad("recipe.dataset", type(dataset).__name__, "text, prompts and answers or chats: a GPTDatasetConfig, "
                  "GPTSFTDatasetConfig or DirectHFSFTDatasetConfig")  # fmt: skip
    ranks = not ranked and not goes_on and looks(block)
    if stage == 1 and (ranks or block.keep) and getattr(dataset, "dataloader_type", None) == "external":
        raise bad("recipe.dataset.dataloader_type", "external", "single, cyclic or batch, to find shapes on; a loader "
                  "of one's own with shapes: search and ranked= of a run with rank_only=True")  # fmt: skip
    resets = getattr(dataset, "reset_position_ids", None)
    check_documents(block, "recipe.dataset.reset_position_ids", resets)
    if block.data.documents == APART and resets and config.tokenizer.tokenizer_type == PLACEHOLDER:
        why = "it knows no token that ends a document"
        raise bad("recipe.tokenizer.tokenizer_type", PLACEHOLDER, f"the data's own tokenizer, to read it apart: {why}")
    if stages > 2 and block.data.documents == APART and resets is not None:
        allowed = f"joined on {stages} pipeline ranks: Bridge gives those in the middle no data that is not packed"
        raise bad("elastic.data.documents", APART, allowed)
    if stages > 1 and getattr(dataset, "enable_in_batch_packing", False):
        why = "rows of all lengths do not fit what pipeline ranks pass on"
        raise bad("recipe.dataset.enable_in_batch_packing", True, f"false on {stages} pipeline ranks: {why}")
    padded = (getattr(dataset, "dataset_kwargs", None) or {}).get("pad_to_max_length")
    if stages > 1 and getattr(dataset, "enable_offline_packing", False) and not padded:
        why = "what they pass on has one length"
        raise bad("recipe.dataset.dataset_kwargs.pad_to_max_length", padded, f"true on {stages} pipeline ranks: {why}")
    length = getattr(dataset, "seq_length", None)
    if not isinstance(length, int):
        raise bad("recipe.dataset.seq_length", length, "a number of tokens")
    model = config.model
    check_length(length, model.tensor_model_parallel_size, model.sequence_parallel, "recipe.dataset.seq_length",
                 model.context_parallel_size or 1)  # fmt: skip
    if (model.context_parallel_size or 1) > 1 and isinstance(dataset, (GPTSFTDatasetConfig, DirectHFSFTDatasetConfig)):
        why = "where ranks share conversations out, of which some of them may count nothing"
        if not model.calculate_per_token_loss:
            raise bad("recipe.model.calculate_per_token_loss", model.calculate_per_token_loss, f"true {why}")
        if config.ddp.average_in_collective:
            raise bad("recipe.ddp.average_in_collective", True, f"false {why}")
    _check_files(dataset, length)


def data_of(dataset: Any) -> dict[str, list[str]]:
    """What a data set reads, by the field that names it."""
    parts = [part[0] for part in getattr(dataset, "blend_per_split", None) or () if part]
    blend = getattr(dataset, "blend", None)
    given = {
        "blend_per_split": [file for part in parts for file in part],
        "blend": blend[0] if blend is not None else (),
        "data_path": getattr(dataset, "data_path", None),
        "dataset_root": getattr(dataset, "dataset_root", None),
    }
    return {f"recipe.dataset.{name}": files_of(value) for name, value in given.items()}


def _check_files(dataset: Any, length: int) -> None:
    """Raise where the token files of a data set are none, or none of a split's: see `check_token_files`."""
    by_split, blend, path, _ = data_of(dataset).items()
    name, files = next((given for given in (by_split, blend) if given[1]), path)
    split = None if by_split[1] else getattr(dataset, "split", None)
    check_token_files(files, length, split, replace(FILES, paths=name))


def vocabulary(config: Any) -> int | None:
    """Rows of the embedding, padded as Bridge pads them; None where a tokenizer would have to be downloaded."""
    model, tokenizer = config.model, config.tokenizer
    size = _own_vocabulary(config)
    if size is not None and not model.should_pad_vocab:
        return size
    if size is None and tokenizer.tokenizer_type == PLACEHOLDER and isinstance(tokenizer.vocab_size, int):
        size = tokenizer.vocab_size
    if size is None:
        return None
    return calculate_padded_vocab_size(size, model.make_vocab_size_divisible_by, model.tensor_model_parallel_size)


def _own_vocabulary(config: Any) -> int | None:
    """What the model says of its vocabulary, and Bridge goes by: None where it asks the tokenizer."""
    by_tokenizer = config.tokenizer.use_tokenizer_vocab_size and config.model.vocab_size is not None
    return config.model.vocab_size if isinstance(config.model.vocab_size, int) and not by_tokenizer else None


def check_vocabularies(config: Any, rows: int | None) -> None:
    """Raise where model or tokenizer have another vocabulary than the teacher; a placeholder's gives way to it.

    Args:
        config: of the run, before Bridge has built its tokenizer or after.
        rows: of the teacher's vocabulary; None where it is not there.
    """
    if rows is None:
        return
    tensor, own, tokenizer = config.model.tensor_model_parallel_size, _own_vocabulary(config), config.tokenizer
    built, files = getattr(config.dataset, "tokenizer", None), tokenizer.tokenizer_model
    if built is None and tokenizer.tokenizer_type != PLACEHOLDER and files is not None and Path(files).exists():
        built = build_tokenizer(tokenizer)
    if built is not None:
        check_vocabulary(built.vocab_size, rows, tensor, "recipe.tokenizer.vocab_size", NAMES.tensor)
    check_vocabulary(rows if own is None else own, rows, tensor, "recipe.model.vocab_size", NAMES.tensor)


def check_shape(config: Any, block: ElasticConfig, teacher: str | None) -> Parent:
    """The parent's shape, see `agreement.check_model`; its vocabulary is the teacher's where that is readable here."""
    rows = vocabulary_rows(teacher)
    check_vocabularies(config, rows)
    return check_model(block, config.model, rows or vocabulary(config), NAMES, teacher)


def check_folders(config: Any, out: str | None) -> None:
    """Raise where a file lies in the way of what the run writes."""
    check_no_file("out", out)
    check_no_file("recipe.checkpoint.save", config.checkpoint.save)


def warmup(config: Any, total_steps: int) -> tuple[str, int]:
    """Steps of warm-up, and the setting that says so: a number of them, or a share of those over which rates fall."""
    scheduler = config.scheduler
    if scheduler.lr_warmup_fraction is None:
        return "recipe.scheduler.lr_warmup_iters", scheduler.lr_warmup_iters
    return (
        "recipe.scheduler.lr_warmup_fraction",
        round(scheduler.lr_warmup_fraction * (scheduler.lr_decay_iters or total_steps)),
    )


def pace(config: Any, total_steps: int) -> Pace:
    """Rates and batches as `Rates` and the data have them."""
    scheduler, batch = config.scheduler, config.train.global_batch_size
    falls = {"lr_decay_style": (None, "cosine"), "lr_decay_iters": (None, total_steps)}
    other = {name: value for name, usual in falls.items() if (value := getattr(scheduler, name)) not in usual}
    return Pace(
        lr=("recipe.optimizer.lr", config.optimizer.lr),
        warmup=warmup(config, total_steps),
        batch=None if not batch else ("recipe.train.global_batch_size", batch, batch * config.dataset.seq_length),
        schedule=next(((f"recipe.scheduler.{name}", str(value)) for name, value in other.items()), None),
    )


def warnings(config: Any, block: ElasticConfig, stage: int, total_steps: int, ranked: str | None) -> list[str]:
    """What can run and makes no sense, a line for each."""
    out = router_warnings(block, config.train.train_iters) if stage == 1 else []
    stages = config.model.pipeline_model_parallel_size
    own = config.checkpoint.load is not None and Path(config.checkpoint.load).exists()
    if stage == 1 and stages > 1 and ranked is None and not own:
        out.append(f"{NAMES.pipeline}: {stages}: stages cannot rank; let ranked= name what a ranking left, "
                   "or the run is refused when it starts")  # fmt: skip
    name, steps = warmup(config, total_steps)
    if steps >= total_steps:
        out.append(f"{name}: {steps} of {total_steps} steps in all: "
                   "the learning rate never reaches its peak")  # fmt: skip
    samples, has = block.importance.samples, config.train.train_iters * config.train.global_batch_size
    if stage == 1 and block.ranking is None and ranked is None and has < samples:
        out.append(f"elastic.importance.samples: {samples}, of which the run asks its data for {has}: if the data has "
                   "no more, ranking is refused when it starts")  # fmt: skip
    return out
