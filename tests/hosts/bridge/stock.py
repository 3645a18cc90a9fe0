# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every Nemotron recipe of Megatron-Bridge's own through `apply_elastic`: what it says, and a small step of each.

    python -m tests.support.bridge -m tests.hosts.bridge.stock PLACE [NAME ...]

gives PLACE/steps.json: of each accepted recipe what its step left. Each runs in a fork of this process.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.hosts.stock import (
    ACCEPTED,
    BATCH,
    LENGTH,
    TEACHER,
    VOCAB,
    Outcome,
    block_of,
    in_small,
    outcome,
    run_steps,
)
from tests.parallel.runs import write_prompts

#: optimizer steps
STEPS = 1
#: settings that every recipe changes
CHANGED = {"checkpoint.custom_manager_class", "checkpoint.dist_ckpt_optim_fully_reshardable",
           "model.hybrid_stack_spec", "optimizer_config_override_provider"}  # fmt: skip
PACKAGES = ("megatron.bridge.recipes.nemotronh", "megatron.bridge.perf_recipes.nemotronh")


def recipes() -> dict[str, Callable[[], Any]]:
    """All of them, each by the shortest of its names that is not another's already; exported names come first."""
    seen: dict[Callable[[], Any], set[str]] = {}
    for package in map(importlib.import_module, PACKAGES):
        names = [package.__name__, *(m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}."))]
        for module in map(importlib.import_module, names):
            for name, made in sorted(vars(module).items()):
                own = str(getattr(made, "__module__", "")).startswith(PACKAGES)
                if own and callable(made) and name.endswith("_config") and not name.startswith("_"):
                    seen.setdefault(made, set()).add(name)
    named: dict[str, Callable[[], Any]] = {}
    for made, names in seen.items():
        free = sorted(names - named.keys(), key=lambda name: (len(name), name))
        named[free[0] if free else f"{made.__module__.split('.')[2]}.{min(names)}"] = made
    return dict(sorted(named.items()))


def on_text(config: Any) -> Any:
    """As the quick start does it: those that train from scratch have random tokens."""
    from megatron.bridge.training.config import GPTDatasetConfig

    if isinstance(config.dataset, GPTDatasetConfig):
        config.dataset.blend = (["/data/text"], None)
    return config


def outcomes() -> Iterator[Outcome]:
    """Of all of them, at their full size, with no network."""
    from huggingface_hub import constants

    from nemo_elastic.hosts.bridge.apply import apply_elastic

    def apply(config: Any) -> str:
        return apply_elastic(on_text(config), block_for(config), teacher=TEACHER, verbose=False).changes

    with mock.patch.object(constants, "HF_HUB_OFFLINE", True), mock.patch.object(time, "sleep"):  # between its tries
        for name, make in recipes().items():
            yield outcome(name, make, apply, ValueError)


def block_for(config: Any) -> dict[str, Any]:
    """A block for the recipe's parent."""
    from nemo_elastic.formats.megatron.shape import parent_of

    return block_of(parent_of(config.model, 131072))


def small(name: str, place: Path, out: Path) -> tuple[Any, Any, Any]:
    """A recipe whose model, sequences and batch are small: it, its parent and the block."""
    from nemo_elastic.formats.megatron.shape import parent_of
    from nemo_elastic.hosts.bridge.curriculum import plain_adam, set_sizes

    make = recipes()[name]
    config = on_text(make())
    model, train, tokenizer, vocab = config.model, config.train, config.tokenizer, config.model.vocab_size
    parent, block = in_small(parent_of(model, VOCAB))
    set_sizes(model, parent)
    model.hybrid_layer_pattern, model.num_layers = parent.pattern, model.num_layers and parent.num_layers
    model.vocab_size = vocab and VOCAB  # the teacher's, by `apply_elastic`
    model.tensor_model_parallel_size = model.pipeline_model_parallel_size = model.expert_model_parallel_size = 1
    model.sequence_parallel, model.context_parallel_size = False, 1
    config.dataset.seq_length = model.seq_length = LENGTH
    _local(config.dataset, place, out)
    train.global_batch_size, train.micro_batch_size, train.exit_interval = BATCH, 1, 1
    config.validation.eval_iters = min(1, config.validation.eval_iters)
    if tokenizer.tokenizer_type == "HuggingFaceTokenizer":
        tokenizer.tokenizer_model, tokenizer.hf_tokenizer_kwargs = str(place / "data" / "tokenizer"), {}
    plain_adam(config.optimizer)
    config.checkpoint.save = config.checkpoint.load = str(out / "checkpoints")
    config.logger.tensorboard_dir = str(out / "tensorboard")
    config.dist.distributed_backend = "gloo"
    return config, parent, block


def _local(dataset: Any, place: Path, out: Path) -> None:
    """Text, or prompts and answers as the recipe packs them, of this machine in place of a hub's."""
    from megatron.bridge.data.builders.gpt_sft import GPTSFTDatasetConfig

    if isinstance(dataset, GPTSFTDatasetConfig):
        dataset.hf_dataset, dataset.hf_validation_proportion, dataset.dataset_root = None, None, str(place / "sft")
        assert dataset.offline_packing_specs is not None and dataset.enable_offline_packing
        dataset.offline_packing_specs.packed_sequence_size = LENGTH
        return
    each = [([str(place / "data" / part)], None) for part in ("train", "val", "val")]
    dataset.blend, dataset.split, dataset.blend_per_split = None, None, each
    dataset.path_to_cache = str(out / "index")


def settings_of(name: str) -> dict[str, Any]:
    """Of a recipe at small scale, elastic."""
    from nemo_elastic.hosts.bridge.apply import apply_elastic
    from nemo_elastic.hosts.common.changes import settings

    config, _, block = small(name, Path("/place"), Path("/out"))
    return settings(apply_elastic(config, block, teacher=TEACHER, verbose=False).config)


def step(name: str, place: Path) -> dict[str, Any]:
    """One training step of a recipe, from a random parent, with a ranking, a search and a router before it."""
    from nemo_elastic.hosts.bridge.apply import apply_elastic
    from nemo_elastic.megatron.dist_checkpoint import write_megatron_checkpoint
    from tests.hosts.nemo.cutting import random_tensors

    out = place / name
    if not (place / "sft").exists():
        write_prompts(place)
    config, parent, block = small(name, place, out)
    teacher = write_megatron_checkpoint(out / "parent", parent, parent.full, random_tensors(parent))
    run = apply_elastic(config, block, teacher=str(teacher), verbose=False)
    try:
        run.pretrain()
    except SystemExit as end:  # after its step
        assert not end.code
    lines = (out / "checkpoints" / "metrics.jsonl").read_text().splitlines()
    return {"lines": [json.loads(line) for line in lines], "checkpoints": str(out / "checkpoints")}


if __name__ == "__main__":
    import nemo_elastic.hosts.bridge.apply  # noqa: F401  (once, for all)

    place, *names = sys.argv[1:]
    names = names or [one.recipe for one in outcomes() if one.verdict == ACCEPTED]
    run_steps(Path(place), step, {name: settings_of(name) for name in names})
