# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""apply_elastic: what it changes in a recipe, what it refuses; schedules; NeMo's own 12B recipe."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.hosts.common.stage import StageOptions
from tests.hosts.nemo.blocks import NANO_12B as BLOCK

pytestmark = pytest.mark.nemo


def test_paths_that_are_here_hold_in_any_working_directory(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic

    (tmp_path / "ranking").mkdir()
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = {"teacher": "/cluster/12b", "stage": 2, "previous": "one", "verbose": False}
    apply_elastic(recipe, BLOCK | {"ranking": "ranking"}, **settings)
    assert recipe.model.teacher == "/cluster/12b"
    assert recipe.model.elastic["ranking"] == str(tmp_path / "ranking")
    assert recipe.resume.restore_config.path == str(tmp_path / "one")


OPTIMIZER = "optim.config"
STEP, DISTRIBUTED = "overlap_param_gather_with_optimizer_step", "use_distributed_optimizer"
RESHARDABLE = "trainer.strategy.ckpt_optim_fully_reshardable"


@pytest.mark.parametrize(
    ("given", "block", "field", "becomes"),
    [
        # overlaps go wherever they are set
        ({f"{OPTIMIZER}.{STEP}": True}, {}, f"{OPTIMIZER}.{STEP}", False),
        # a router beside half-precision weights needs the distributed optimizer
        ({f"{OPTIMIZER}.{DISTRIBUTED}": False}, {"shapes": "router"}, f"{OPTIMIZER}.{DISTRIBUTED}", True),
        # its moments are saved for any layout
        ({}, {}, RESHARDABLE, True),
        ({f"{OPTIMIZER}.{DISTRIBUTED}": False}, {}, RESHARDABLE, False),
    ],
)
def test_settings_of_the_optimizer_are_those_of_a_family(
    recipe: Any, given: dict[str, Any], block: dict[str, Any], field: str, becomes: bool, capsys: Any
) -> None:
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic
    from nemo_elastic.hosts.nemo.recipe.checks import NemoRecipe

    own = NemoRecipe(recipe)
    for name, value in given.items():
        own.put(name, value)
    before = own.get(field)
    apply_elastic(recipe, BLOCK | block, teacher="parent")
    assert own.get(field) is becomes
    changed = any(line.startswith(f"  {field}: ") for line in capsys.readouterr().out.splitlines())
    assert changed is (before is not becomes)


def test_a_ranking_in_pipeline_stages_is_refused_before_anything_starts(recipe: Any) -> None:
    from nemo_elastic.hosts.nemo.curriculum.rank import rank_only

    recipe.trainer.strategy.pipeline_model_parallel_size = 2
    with pytest.raises(ElasticError) as caught:
        rank_only(recipe, ElasticConfig.from_dict(BLOCK), parent="parent", out="out", checkpoint="ranked")
    field = "recipe.trainer.strategy.pipeline_model_parallel_size"
    assert caught.value.message.startswith(f"{field}: 2 ")


@pytest.mark.parametrize("entry", ["apply_elastic", "ElasticPlugin", "train"])
def test_every_entry_point_takes_the_stages_options_with_the_same_defaults(entry: str) -> None:
    from nemo_elastic.hosts.nemo.cli import entry as module
    from nemo_elastic.hosts.nemo.recipe import apply

    taken = inspect.signature(getattr(apply, entry, module.train)).parameters
    assert {f.name: f.default for f in fields(StageOptions)} == {
        name: p.default for name, p in taken.items() if name not in ("recipe", "elastic", "verbose")
    }
