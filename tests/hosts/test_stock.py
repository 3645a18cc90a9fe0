# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A host's own recipes of Nemotrons, at full size: each is accepted and changed, refused in a line, or asks a hub."""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.mlp import FFN
from nemo_elastic.core.kinds.moe import EXPERT_FFN, EXPERTS
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.errors import ElasticError
from tests.hosts.here import ON_NEMO

pytestmark = pytest.mark.nemo
NAMES = (
    "nemotronh_4b", "nemotronh_8b", "nemotronh_47b", "nemotronh_56b", "nemotron_nano_9b_v2", "nemotron_nano_12b_v2",
)  # fmt: skip
PACKAGES = ("megatron.bridge.recipes.nemotronh", "megatron.bridge.perf_recipes.nemotronh")
ACCEPTED, REFUSED, HUB = "accepted", "refused", "asks a hub"
#: verdict -> recipes that have it; the first that matches counts, and all others are accepted
VERDICTS = {
    HUB: r"super|ultra|lightning_(sft|peft)|nano_(gb200_pretrain|peft|sft)_config",
    REFUSED: r"peft|lightning|12b_v2_sft",
}
#: settings that every recipe changes
CHANGED = {
    "log.ckpt", "model", "model.elastic", "model.teacher", "optim", "optim.lr_scheduler", "resume",
    "trainer.callbacks", "trainer.strategy.ckpt_optim_fully_reshardable",
} if ON_NEMO else {
    "checkpoint.custom_manager_class", "checkpoint.dist_ckpt_optim_fully_reshardable", "model.hybrid_stack_spec",
    "optimizer_config_override_provider",
}  # fmt: skip


def of_nemo() -> list[tuple[str, Callable[[], Any]]]:
    from nemo.collections import llm

    kinds = ("pretrain_recipe", "finetune_recipe")
    return [(f"{name}.{kind}", getattr(getattr(llm, name), kind)) for name in NAMES for kind in kinds]


def of_bridge() -> list[tuple[str, Callable[[], Any]]]:
    """All functions of the packages, by their shortest names."""
    seen: dict[Callable[[], Any], set[str]] = {}
    for package in map(importlib.import_module, PACKAGES):
        names = [package.__name__, *(m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}."))]
        for module in map(importlib.import_module, names):
            for name, made in vars(module).items():
                own = str(getattr(made, "__module__", "")).startswith(PACKAGES)
                if own and callable(made) and name.endswith("_config") and not name.startswith("_"):
                    seen.setdefault(made, set()).add(name)
    exported = importlib.import_module(PACKAGES[0])
    assert {getattr(exported, name) for name in exported.__all__} <= seen.keys()
    return [(min(names, key=lambda name: (len(name), name)), made) for made, names in seen.items()]


def block_of(parent: Parent) -> dict[str, Any]:
    """Two members, and the widths of the residual stream and the FFNs."""
    axes = {HIDDEN: 64, **({EXPERTS: 8, EXPERT_FFN: 64} if parent.has(EXPERTS) else {FFN: 512})}
    shares = {
        name: [parent.size(name), *(parent.size(name) * k // 4 // unit * unit for k in (3, 2))]
        for name, unit in axes.items()
    }
    return {"budgets": [{"name": "full"}, {"name": "small", "ratio": 0.8}], "axes": shares}


def applied(recipe: Any) -> str:
    """The changes of a recipe on text, as they are printed."""
    from nemo_elastic.formats.megatron.shape import parent_of

    options = {"teacher": "/checkpoints/parent"}
    if ON_NEMO:
        from nemo_elastic.hosts.nemo.recipe.apply import StageOptions, change
        from tests.hosts.nemo.blocks import with_text

        block = block_of(parent_of(recipe.model.config, 131072))
        return change(with_text(recipe), block, StageOptions(**options)).text(recipe)
    from megatron.bridge.training.config import GPTDatasetConfig

    from nemo_elastic.hosts.bridge.apply import apply_elastic

    if isinstance(recipe.dataset, GPTDatasetConfig):
        recipe.dataset.blend = (["/data/text"], None)
    return apply_elastic(recipe, block_of(parent_of(recipe.model, 131072)), verbose=False, **options).changes


def verdict_of(make: Callable[[], Any]) -> tuple[str, str]:
    """What becomes of a recipe, and what is said."""
    try:
        recipe = make()
    except (OSError, ValueError) as error:
        return HUB, str(error)
    try:
        return ACCEPTED, applied(recipe)
    except ElasticError as error:
        return REFUSED, str(error)


def test_recipes_are_accepted_and_changed_or_refused() -> None:
    from huggingface_hub import constants

    recipes = of_nemo() if ON_NEMO else of_bridge()
    assert len(recipes) >= 2 * len(NAMES)
    for name, make in recipes:
        wanted = next((verdict for verdict, names in VERDICTS.items() if re.search(names, name)), ACCEPTED)
        with mock.patch.object(constants, "HF_HUB_OFFLINE", True), mock.patch.object(time, "sleep"):
            verdict, said = verdict_of(make)
        assert verdict == wanted, (name, said)
        if verdict == ACCEPTED:
            assert {line.strip().split(": ")[0] for line in said.splitlines() if " -> " in line} >= CHANGED, name
        else:
            assert (" is not allowed" if verdict == REFUSED else "nvidia/") in said, name
