# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the study of the router's schedule is about is what recipes and blocks of large parents have."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.study.schedule import BEFORE, NOW
from benchmarks.study.simulate import LARGE, Optimizer
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.config.sections import RouterConfig

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("size", ["12b", "9b", "8b"])
def test_the_large_blocks_differ_from_the_papers_router_where_the_study_says(size: str) -> None:
    paper = RouterConfig()
    assert RouterConfig(**BEFORE) == paper
    assert ElasticConfig.load(CONF / f"elastic_{size}.yaml").router == replace(paper, **NOW)


@pytest.mark.nemo
@pytest.mark.parametrize("size", ["12b", "9b", "8b"])
def test_it_simulates_the_optimizer_of_the_recipes(size: str) -> None:
    import fiddle

    module = importlib.import_module(f"nemotron_elastic_{size}")
    recipe = module.stage1_recipe("/parent", ["/data/text"], "/runs/family")
    built = Optimizer.of(recipe, fiddle.build(recipe.optim))
    assert replace(built, micro_batches=LARGE.micro_batches) == LARGE
    assert built.micro_batches == LARGE.micro_batches * (2 if size == "12b" else 1)
