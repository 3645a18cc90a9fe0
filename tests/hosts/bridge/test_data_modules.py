# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The table of data modules: Megatron-Bridge's rows are run or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.errors import ElasticError
from tests.hosts.data_kinds import AS_STOCK, BRIDGE, KINDS, check, check_as_stock, runs_of
from tests.workers import work

pytest.importorskip("megatron.core.models.hybrid", reason="Megatron-Bridge has an environment of its own")
from tests.support.bridge import import_bridge

import_bridge()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    work("tests.support.bridge", "-m", "tests.hosts.bridge.data_worker", place)
    return place


@pytest.mark.slow(minutes=2)
@pytest.mark.dist
def test_the_whole_member_loses_in_every_step_what_the_hosts_own_fine_tuning_loses(place: Path) -> None:
    check_as_stock(json.loads((place / f"{AS_STOCK}.json").read_text()))


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("name", runs_of(BRIDGE))
def test_it_is_ranked_on_and_trains_and_validates_both_stages(place: Path, name: str) -> None:
    check(KINDS[name], json.loads((place / f"{name}.json").read_text()))


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.host == BRIDGE and kind.line])
def test_what_no_family_can_have_is_refused_before_anything_is_loaded(name: str) -> None:
    from megatron.bridge.data.builders.energon import EnergonDatasetConfig

    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.hosts.bridge.checks import BridgeRecipe
    from nemo_elastic.hosts.bridge.cli import find_stock
    from tests.parallel.runs import BLOCK

    recipe = find_stock("nemotron_nano_12b_v2_sft_config")()
    dataset: Any = recipe.dataset
    assert dataset.enable_offline_packing
    if name == "b in batch, stages":
        dataset.enable_offline_packing, dataset.enable_in_batch_packing = False, True
    elif name == "b packed, stages":
        dataset.dataset_kwargs = None
    elif name == "b external":
        dataset.dataloader_type = "external"
    else:
        recipe.dataset = EnergonDatasetConfig.__new__(EnergonDatasetConfig)
    recipe.model.pipeline_model_parallel_size = 2 if "stages" in name else 1
    with pytest.raises(ElasticError) as error:
        BridgeRecipe(recipe).check_data(ElasticConfig.from_dict(BLOCK), 1)
    assert str(error.value).startswith(KINDS[name].line)


def test_a_loader_of_ones_own_follows_a_ranking_where_no_candidates_are_compared() -> None:
    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.hosts.bridge.checks import BridgeRecipe
    from nemo_elastic.hosts.bridge.cli import find_stock
    from tests.parallel.runs import BLOCK

    recipe = find_stock("nemotron_nano_12b_v2_sft_config")()
    recipe.dataset.dataloader_type = "external"
    search, halving = (ElasticConfig.from_dict(BLOCK | {"shapes": shapes}) for shapes in ("search", "halving"))
    BridgeRecipe(recipe, ranked="/a/ranking").check_data(search, 1)
    BridgeRecipe(recipe).check_data(halving, 2)
    with pytest.raises(ElasticError, match="to find shapes on"):
        BridgeRecipe(recipe, ranked="/a/ranking").check_data(halving, 1)
