# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""This host's kinds of data rank, train and validate, or are refused."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from tests.hosts.data_kinds import AS_STOCK, BRIDGE, KINDS, NEMO, check, check_as_stock, runs_of
from tests.hosts.here import HERE, ON_BRIDGE, ON_NEMO
from tests.parallel.forks import measured
from tests.parallel.runs import BLOCK

pytestmark = pytest.mark.nemo
HOST = NEMO if ON_NEMO else BRIDGE
data = importlib.import_module(f"tests.hosts.{HERE}.data")
place = measured(data.measure)


@pytest.mark.slow(minutes=2)
@pytest.mark.dist
def test_the_whole_member_loses_in_every_step_what_the_hosts_own_fine_tuning_loses(results: Any) -> None:
    check_as_stock(results[AS_STOCK])


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("name", runs_of(HOST))
def test_it_is_ranked_on_trained_on_and_validated_on(results: Any, name: str) -> None:
    check(KINDS[name], results[name])


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.host == HOST and kind.line])
def test_what_no_family_can_have_is_refused_before_anything_is_built(name: str) -> None:
    with pytest.raises(ElasticError) as error:
        data.refused(name).check_data(ElasticConfig.from_dict(BLOCK), 1)
    assert str(error.value).startswith(KINDS[name].line)


@pytest.mark.skipif(not ON_BRIDGE, reason="NeMo has no such loader")
def test_a_loader_of_ones_own_follows_a_ranking() -> None:
    from nemo_elastic.hosts.bridge.checks import BridgeRecipe

    recipe = data.refused("b external").made
    search = ElasticConfig.from_dict(BLOCK | {"shapes": "search"})
    BridgeRecipe(recipe, ranked="/a/ranking").check_data(search, 1)
    BridgeRecipe(recipe).check_data(search, 2)
    with pytest.raises(ElasticError, match="dataloader_type: 'external' is not allowed"):
        BridgeRecipe(recipe).check_data(search, 1)
