# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a recipe and an elastic block must agree on, seen from the configuration alone, before anything starts.

Nothing is built and nothing is downloaded: sizes are read off the recipe's `run.Config`s. Each check raises one line
that names the recipe's field as an override would spell it, after `recipe.`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fiddle
from nemo import lightning as nl
from nemo.collections import llm
from nemo.collections.llm.gpt.data.mock import MockDataModule
from nemo.collections.llm.gpt.model.ssm import SSMConfig
from torch.nn.parallel import DistributedDataParallel

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.errors import ElasticError, bad, did_you_mean
from nemo_elastic.hosts.common.agreement import (
    Names,
    check_documents,
    check_length,
    check_model,
    check_no_file,
    check_ranks,
    check_rates,
    check_vocabulary,
    router_warnings,
    vocabulary_rows,
)
from nemo_elastic.hosts.common.stage import StageOptions
from nemo_elastic.hosts.common.token_files import FileNames, check_token_files, files_of
from nemo_elastic.hosts.nemo.folder_data import PackedChats
from nemo_elastic.hosts.nemo.model import ElasticMambaModel
from nemo_elastic.hosts.nemo.optim import ElasticSchedule
from nemo_elastic.io.values import integer
from nemo_elastic.kernels import BLOCK, SHAPE, TENSOR, check_widths
from nemo_elastic.plan.stages import Pace

STRATEGY = "recipe.trainer.strategy"
#: how a recipe of NeMo's spells what a check may refuse
NAMES = Names(
    tensor=f"{STRATEGY}.tensor_model_parallel_size",
    pipeline=f"{STRATEGY}.pipeline_model_parallel_size",
    context=f"{STRATEGY}.context_parallel_size",
    model="recipe.model.config",
)
#: the same of token files
FILES = FileNames("recipe.data.paths", "recipe.data.seq_length", "recipe.data.split")


def made_by(value: Any) -> Any:
    """The class or function of a `run.Config`, None for anything else."""
    return getattr(value, "__fn_or_cls__", None)


def name_of(value: Any) -> str:
    """A short name of a setting for messages: of what a `run.Config` makes, else of the value itself."""
    made = made_by(value)
    return str(getattr(made, "__name__", made)) if made is not None else str(value)


def check_architecture(recipe: Any) -> None:
    """Raise unless the recipe trains a Nemotron-H with Megatron that is not elastic yet."""
    model = getattr(recipe, "model", None)
    made = made_by(model)
    if not (isinstance(made, type) and issubclass(made, llm.MambaModel)):
        raise bad("recipe.model", name_of(model), "a MambaModel (Nemotron-H)")
    if issubclass(made, ElasticMambaModel):
        raise bad("recipe.model", made.__name__, "a stock recipe; this one is elastic already")
    config = getattr(model, "config", None)
    if not (isinstance(made_by(config), type) and issubclass(made_by(config), SSMConfig)):
        raise bad("recipe.model.config", name_of(config), "a subclass of SSMConfig")
    if not getattr(config, "hybrid_override_pattern", None):
        raise bad("recipe.model.config.hybrid_override_pattern", None, "a pattern such as M-M*-, one symbol per layer")
    for part, base in (("trainer.strategy", nl.MegatronStrategy), ("optim", nl.MegatronOptimizerModule)):
        value: Any = recipe
        for name in part.split("."):
            value = getattr(value, name, None)
        if not (isinstance(made_by(value), type) and issubclass(made_by(value), base)):
            raise bad(f"recipe.{part}", name_of(value), f"a run.Config of {base.__name__}")
    rates = ("config", "lr"), ("lr_scheduler", "min_lr")
    check_rates(
        *(
            (f"recipe.optim.{owner}.{name}", getattr(getattr(recipe.optim, owner, None), name, None))
            for owner, name in rates
        )
    )
    if getattr(recipe, "data", None) is None:
        raise bad("recipe.data", None, "a run.Config of a data module")
    if getattr(recipe, "peft", None) is not None:
        raise bad("recipe.peft", name_of(recipe.peft), "null: every weight of the family is trained")
    check_spelling("recipe.trainer", recipe.trainer)
    check_spelling(STRATEGY, recipe.trainer.strategy, DistributedDataParallel)


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


def check_parallel(recipe: Any, config: ElasticConfig, parent: Parent) -> None:
    """Raise for layouts over GPUs that the family cannot have."""
    strategy = recipe.trainer.strategy
    sizes = {k: getattr(strategy, f"{k}_model_parallel_size", 1) or 1 for k in ("tensor", "pipeline")}
    tensor, pipeline = sizes["tensor"], sizes["pipeline"]
    for name, allowed in (
        ("virtual_pipeline_model_parallel_size", "null: NeMo's Mamba models have no virtual stages"),
        ("fsdp", "null: gradients of sliced weights need the buffers of Megatron's own data parallelism"),
    ):
        value = getattr(strategy, name, None)
        if value not in (None, 1):
            raise bad(f"{STRATEGY}.{name}", value, allowed)
    context = getattr(strategy, "context_parallel_size", 1) or 1
    check_ranks(config, parent, tensor, pipeline, NAMES, context=context)
    ranks = tensor * pipeline * context
    devices, nodes = getattr(recipe.trainer, "devices", None), getattr(recipe.trainer, "num_nodes", 1) or 1
    if type(devices) is int and devices > 0 and devices * nodes % ranks:
        allowed = f"a multiple of {ranks} with {nodes} node(s): tensor x pipeline x context parallel ranks"
        raise bad("recipe.trainer.devices", devices, allowed)


def check_kernels(recipe: Any, config: ElasticConfig, parent: Parent) -> None:
    """Raise for a Mamba width that the kernels of a GPU refuse, unless the recipe trains on a CPU."""
    if getattr(recipe.trainer, "accelerator", None) == "cpu":
        return
    sizes = ("tensor_model_parallel_size", "context_parallel_size")
    tensor, context = (getattr(recipe.trainer.strategy, name, 1) or 1 for name in sizes)
    names = {TENSOR: f"{STRATEGY}.{TENSOR}", SHAPE: f"recipe.model.config.{SHAPE}", BLOCK: f"elastic.{BLOCK}"}
    check_widths(parent, config.resolve_axes(parent), tensor * context, names)


def check_text(recipe: Any, options: StageOptions) -> None:
    """Raise where the data are random tokens that nobody asked for."""
    if made_by(recipe.data) is MockDataModule:
        options.check_mock("recipe.data", name_of(recipe.data), "a module that reads text, or data.paths=[PREFIX]")


def check_data(recipe: Any, block: ElasticConfig) -> None:
    """Raise where model and data disagree on the sequence, or the data is shorter than one, or does not say enough."""
    made = made_by(recipe.data)
    if isinstance(made, type) and not {"micro_batch_size", "global_batch_size"} <= {*field_names(made)}:
        allowed = "a data module with micro_batch_size and global_batch_size, as NeMo's for Megatron have them"
        raise bad("recipe.data", made.__name__, allowed)
    for name in {"micro_batch_size", "global_batch_size"} & recipe.data.__arguments__.keys():
        integer(f"recipe.data.{name}", getattr(recipe.data, name), 1, "a number of sequences")
    resets = getattr(recipe.data, "reset_position_ids", None)
    check_documents(block, "recipe.data.reset_position_ids", resets)
    length = getattr(recipe.data, "seq_length", None)
    if length is None:
        return
    config = recipe.model.config
    if "seq_length" in config.__arguments__ and config.seq_length != length:
        raise bad("recipe.data.seq_length", length, f"recipe.model.config.seq_length says {config.seq_length}; "
                  "set both to the same number of tokens")  # fmt: skip
    tensor = getattr(recipe.trainer.strategy, "tensor_model_parallel_size", 1) or 1
    sequence_parallel = getattr(recipe.trainer.strategy, "sequence_parallel", False)
    context = getattr(recipe.trainer.strategy, "context_parallel_size", 1) or 1
    check_length(length, tensor, sequence_parallel, "recipe.data.seq_length", context)
    steps, batch = recipe.trainer.max_steps, getattr(recipe.data, "global_batch_size", None)
    samples = getattr(recipe.data, "num_train_samples", None)
    if isinstance(samples, int) and isinstance(batch, int) and samples < steps * batch:
        allowed = f"at least trainer.max_steps x global_batch_size = {steps * batch}"
        raise bad("recipe.data.num_train_samples", samples, allowed)
    paths = getattr(recipe.data, "paths", None)
    split = None if isinstance(paths, Mapping) else getattr(recipe.data, "split", None)
    check_token_files(files_of(paths), length, split, FILES)
    if made is PackedChats:
        if recipe.data.micro_batch_size != 1:
            raise bad("recipe.data.micro_batch_size", recipe.data.micro_batch_size, "1, of packed conversations")
        root = recipe.data.dataset_root
        if getattr(recipe.data, "packed_sequence_specs", None) is None and Path(root).exists():
            PackedChats.folder(root, length)


def tokens(recipe: Any) -> int | None:
    """Size of the tokenizer; None where it would have to be downloaded."""
    tokenizer = getattr(recipe.data, "tokenizer", None) or getattr(recipe.model, "tokenizer", None)
    if isinstance(tokenizer, fiddle.Buildable) and any(
        isinstance(v, str) and Path(v).exists() for v in tokenizer.__arguments__.values()
    ):
        return getattr(fiddle.build(tokenizer), "vocab_size", None)
    return None


def vocabulary(recipe: Any) -> int | None:
    """Rows of the embedding: the tokenizer's size, padded as NeMo pads it; the config's where that needs a download.

    Returns:
        None where neither is known.
    """
    config = recipe.model.config
    size = tokens(recipe) or getattr(config, "vocab_size", None)
    if not isinstance(size, int):
        return None
    unit = config.make_vocab_size_divisible_by * (recipe.trainer.strategy.tensor_model_parallel_size or 1)
    return -(-size // unit) * unit


def check_shape(recipe: Any, config: ElasticConfig, teacher: str | None = None) -> Parent:
    """The parent's shape, see `agreement.check_model`; its vocabulary is the teacher's where that is readable here."""
    rows = vocabulary_rows(teacher)
    if rows is not None:
        tensor = recipe.trainer.strategy.tensor_model_parallel_size or 1
        check_vocabulary(tokens(recipe) or rows, rows, tensor, "recipe.data.tokenizer.vocab_size", NAMES.tensor)
    return check_model(config, recipe.model.config, rows or vocabulary(recipe), NAMES, teacher)


def check_folders(recipe: Any, out: str | None) -> None:
    """Raise where a file lies in the way of what the run writes: it would be found after the ranking."""
    log = getattr(recipe, "log", None)
    check_no_file("out", out)
    check_no_file("recipe.log.explicit_log_dir", getattr(log, "explicit_log_dir", None))


def pace(recipe: Any) -> Pace:
    """Rates and batches as `ElasticSchedule` and the data have them."""
    schedule, batch = getattr(recipe.optim, "lr_scheduler", None), getattr(recipe.data, "global_batch_size", None)
    warmup, length = getattr(schedule, "warmup_steps", None), getattr(recipe.data, "seq_length", None)
    cosine = schedule is None or "Cosine" in name_of(schedule) or made_by(schedule) is ElasticSchedule
    return Pace(
        lr=("recipe.optim.config.lr", recipe.optim.config.lr),
        warmup=("recipe.optim.lr_scheduler.warmup_steps", warmup) if isinstance(warmup, int) else None,
        batch=("recipe.data.global_batch_size", batch, batch * length) if batch and length else None,
        schedule=None if cosine else ("recipe.optim.lr_scheduler", name_of(schedule)),
    )


def warnings(recipe: Any, config: ElasticConfig, stage: int, total_steps: int) -> list[str]:
    """What can run and makes no sense, a line for each.

    Args:
        recipe: a stock recipe.
        config: the elastic block.
        stage: 1, 2 or 3.
        total_steps: optimizer steps of all stages.
    """
    out = router_warnings(config, recipe.trainer.max_steps) if stage == 1 else []
    stages = getattr(recipe.trainer.strategy, "pipeline_model_parallel_size", 1) or 1
    if stage == 1 and stages > 1:
        out.append(f"{STRATEGY}.pipeline_model_parallel_size: {stages}: stages cannot rank; let recipe.resume start "
                   "from a ranked checkpoint, or the run is refused when it starts")  # fmt: skip
    warmup = getattr(getattr(recipe.optim, "lr_scheduler", None), "warmup_steps", None)
    if isinstance(warmup, int) and warmup >= total_steps:
        out.append(f"recipe.optim.lr_scheduler.warmup_steps: {warmup} of {total_steps} steps in all: "
                   "the learning rate never reaches its peak")  # fmt: skip
    batch = getattr(recipe.data, "global_batch_size", None)
    steps = recipe.trainer.max_steps * batch if isinstance(batch, int) else 0
    samples, has = config.importance.samples, getattr(recipe.data, "num_train_samples", None) or steps
    if stage == 1 and config.ranking is None and 0 < has < samples:
        out.append(f"elastic.importance.samples: {samples}, of which the run asks its data for {has}: if the data has "
                   "no more, ranking is refused when it starts")  # fmt: skip
    return out
