# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every Nemotron-H recipe of NeMo's own through `apply_elastic`: what it says. Rehearsals train the large ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.hosts.nemo.blocks import with_text
from tests.hosts.stock import TEACHER, Outcome, block_of, outcome

NAMES = (
    "nemotronh_4b", "nemotronh_8b", "nemotronh_47b", "nemotronh_56b", "nemotron_nano_9b_v2", "nemotron_nano_12b_v2",
)  # fmt: skip
#: settings that every recipe changes
CHANGED = {"log.ckpt", "model", "model.elastic", "model.teacher", "optim", "optim.lr_scheduler", "resume",
           "trainer.callbacks", "trainer.strategy.ckpt_optim_fully_reshardable"}  # fmt: skip
KINDS = ("pretrain_recipe", "finetune_recipe")


def recipes() -> dict[str, Callable[[], Any]]:
    """All of them, on text, by their names in `nemo.collections.llm`."""
    from nemo.collections import llm

    made = {f"llm.{name}.{kind}": getattr(getattr(llm, name), kind) for name in NAMES for kind in KINDS}
    return {name: lambda make=make: with_text(make()) for name, make in made.items()}


def outcomes() -> Iterator[Outcome]:
    """Of all of them, at their full size."""
    from nemo_elastic.formats.megatron.shape import parent_of
    from nemo_elastic.hosts.nemo.recipe.apply import StageOptions, change

    def apply(recipe: Any) -> str:
        block = block_of(parent_of(recipe.model.config, 131072))
        return change(recipe, block, StageOptions(teacher=TEACHER)).text(recipe)

    for name, make in recipes().items():
        yield outcome(name, make, apply, OSError)
