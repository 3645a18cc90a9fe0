# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Print docs/tables/recipes.md: what the recipes do by default, read from them.

`.venv/bin/python tools/recipe_table.py > docs/tables/recipes.md`; a test compares.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_elastic.hosts.planned import PlannedFamily

RECIPES = Path(__file__).parents[1] / "recipes"
NAMES = ("nemotron_elastic_12b", "nemotron_elastic_9b", "nemotron_elastic_8b")
#: on Megatron-Bridge alone, without which its file cannot be imported: name -> parent and block, as that file has them
BRIDGE = {"bridge/nemotron_elastic_30b_a3b": ("nemotron-3-nano-30b-a3b", "elastic_30b_a3b.yaml")}
HEAD = ("Recipe", "Stage", "Sequence", "Batch", "Steps", "Tokens", "Drawn", "Layout", "GB of a GPU")


def table() -> str:
    """The hyper-parameters of both stages of every large recipe, and the layouts on their default machines."""
    from nemo_elastic.hosts.nemo.curriculum.jobs import PAPER
    from nemo_elastic.hosts.nemo.curriculum.large import NODES

    lines = [_row(HEAD), "|---|" + "---:|" * 5 + "---|" * 2 + "---:|"]
    for name, family in _families():
        for number in (1, 2):
            stage = PAPER.stage(number)
            layout = family.layout(number, PAPER, NODES * 8, "h100")
            config = stage.block(family.config)
            drawn = zip(config.budgets, config.weights(), strict=True)
            lines.append(_row((
                f"`{name}`", number, stage.seq_length, stage.global_batch_size, stage.max_steps,
                f"{stage.tokens / 1e9:.1f}B", ", ".join(f"{budget.name} {weight:.2g}" for budget, weight in drawn),
                layout, f"{layout.memory.total / 1e9:.1f}",
            )))  # fmt: skip
    return "\n".join(lines) + "\n\n" + _same(PAPER, importlib.import_module(NAMES[0]).FAMILY.config)


def _families() -> Iterator[tuple[str, PlannedFamily]]:
    for name in NAMES:
        yield name, importlib.import_module(name).FAMILY
    for name, (shape, block) in BRIDGE.items():
        yield name, PlannedFamily(name, dict, shape, RECIPES.parent / "conf" / block)  # nothing is built


def _same(curriculum: Any, config: Any) -> str:
    router, steps = config.router, curriculum.stage1.max_steps
    rows = (
        (
            "learning rate of the weights",
            f"{curriculum.lr:g}, cosine over both stages to {curriculum.min_ratio:g} of it",
        ),
        ("warm-up", f"{curriculum.warmup_steps} steps, once"),
        ("learning rate of the router", f"{router.lr:g}"),
        ("temperature τ", f"{router.tau[0]:g} to {router.tau[1]:g}, linear until shapes are frozen"),
        ("scale of the logits", f"{router.scale[0]:g} to {router.scale[1]:g}, linear until shapes are frozen"),
        ("shapes are frozen at", f"step {router.freeze_step(steps):,}, {router.freeze_at:g} of stage 1"),
        ("width of the router, init", f"{router.hidden}, standard deviation {router.init_std:g}"),
        ("weight of the budget loss", f"{router.loss_weight:g}"),
        ("sequences ranked", f"{config.importance.samples}"),
        ("candidates of the search", f"{config.search.candidates}, on {config.search.tokens} tokens each"),
        ("loss", f"forward KL from the {config.distill.teacher} parent at temperature {config.distill.temperature:g}"),
        ("precision", "bf16, gradients summed in fp32"),
    )
    return "\n".join([_row(("In all of them", "set to")), "|---|---|", *(_row(row) for row in rows)]) + "\n"


def _row(cells: Any) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """NeMo talks while it is imported."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


if __name__ == "__main__":
    sys.path.insert(0, str(RECIPES))
    with _stdout_to_stderr():
        told = table()
    print(told, end="")
