# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every Nemotron-H recipe of NeMo's own through `apply_elastic`: what it says, and steps of each at small scale.

    python -m tests.hosts.nemo.stock --markdown docs/tables/stock_nemo.md
    python -m tests.hosts.nemo.stock --steps PLACE

The second gives PLACE/steps.json: of each accepted recipe what its steps left. Each runs in a fork of this process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hosts.stock import (
    BATCH,
    LENGTH,
    TEACHER,
    VOCAB,
    Outcome,
    block_of,
    in_small,
    main,
    outcome,
)
from tests.parallel import forks

NAMES = (
    "nemotronh_4b", "nemotronh_8b", "nemotronh_47b", "nemotronh_56b", "nemotron_nano_9b_v2", "nemotron_nano_12b_v2",
)  # fmt: skip
KINDS = ("pretrain_recipe", "finetune_recipe")
#: optimizer steps: the first has no rate yet
STEPS = 2


def recipes() -> dict[str, Callable[[], Any]]:
    """All of them, on text, by their names in `nemo.collections.llm`."""
    from nemo.collections import llm

    return {f"llm.{name}.{kind}": _with_text(getattr(getattr(llm, name), kind)) for name in NAMES for kind in KINDS}


def _with_text(make: Callable[[], Any]) -> Callable[[], Any]:
    """As the quick start does it, for all of them have random tokens."""

    def made() -> Any:
        import nemo_run as run
        from nemo.collections import llm

        recipe = make()
        sizes = {name: getattr(recipe.data, name) for name in ("seq_length", "global_batch_size", "micro_batch_size")}
        recipe.data = run.Config(
            llm.PreTrainingDataModule, paths=["/data/text"], tokenizer=recipe.data.tokenizer, **sizes
        )
        return recipe

    return made


def outcomes() -> Iterator[Outcome]:
    """Of all of them, at their full size."""
    from nemo_elastic.formats.megatron.shape import parent_of
    from nemo_elastic.hosts.nemo.recipe.apply import StageOptions, change

    def apply(recipe: Any) -> str:
        block = block_of(parent_of(recipe.model.config, 131072))
        return change(recipe, block, StageOptions(teacher=TEACHER)).text(recipe)

    for name, make in recipes().items():
        yield outcome(name, make, apply, OSError)


def small(name: str, place: Path, out: Path) -> tuple[Any, Any, Any]:
    """A recipe whose model, sequences and batch are small: it, its parent and the block."""
    import nemo_run as run
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer

    from nemo_elastic.formats.megatron.shape import parent_of
    from nemo_elastic.hosts.nemo.curriculum.large import set_sizes
    from nemo_elastic.hosts.nemo.platform.strategy import without_cuda

    make = recipes()[name]
    recipe = make()
    config, data, trainer = recipe.model.config, recipe.data, recipe.trainer
    parent, block = in_small(parent_of(config, VOCAB))
    vocab = getattr(config, "vocab_size", None)
    set_sizes(config, parent)
    config.vocab_size = vocab  # the tokenizer's, by NeMo
    strategy = trainer.strategy
    trainer.devices = trainer.num_nodes = strategy.tensor_model_parallel_size = (
        strategy.pipeline_model_parallel_size
    ) = 1
    strategy.sequence_parallel = False
    trainer.max_steps, trainer.limit_val_batches = STEPS, 1
    data.seq_length = config.seq_length = LENGTH
    data.global_batch_size, data.micro_batch_size = BATCH, 1
    data.paths, data.num_workers = [str(place / "data" / "train")], 0
    data.split = "900,50,50"
    recipe.model.tokenizer = run.Config(AutoTokenizer, pretrained_model_name=str(place / "data" / "tokenizer"))
    data.tokenizer = recipe.model.tokenizer
    recipe.log.log_dir = str(out)
    without_cuda(recipe)
    return recipe, parent, block


def settings_of(name: str) -> dict[str, Any]:
    """Of a recipe at small scale, elastic."""
    from nemo_elastic.hosts.common.changes import settings
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic

    recipe, _, block = small(name, Path("/place"), Path("/out"))
    return settings(apply_elastic(recipe, block, teacher=TEACHER, verbose=False))


def step(name: str, place: Path) -> dict[str, Any]:
    """Training steps of a recipe, from a random parent, with a ranking, a search and a router before them."""
    import fiddle

    from nemo_elastic.hosts.nemo.checkpoint.write import write_nemo_checkpoint
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic
    from tests.hosts.nemo.cutting import random_tensors

    out = place / name
    recipe, parent, block = small(name, place, out)
    teacher = out / "parent"  # another process: what it builds would change what NeMo writes down of ours

    def write() -> None:
        write_nemo_checkpoint(teacher, parent, parent.full, random_tensors(parent))

    forks.run(out / "log", 1, write)
    apply_elastic(recipe, block, teacher=str(teacher), verbose=False)
    fiddle.build(recipe)()
    (file,) = out.rglob("metrics.jsonl")
    newest = max(file.parent.glob("checkpoints/*/weights"), key=lambda path: path.stat().st_mtime)
    return {"lines": [json.loads(line) for line in file.read_text().splitlines()], "checkpoints": str(newest.parent)}


if __name__ == "__main__":
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all)

    main(sys.argv[1:], outcomes(), step, settings_of)
