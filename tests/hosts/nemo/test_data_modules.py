# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The table of data modules: NeMo's rows are run or refused, and the page has what was seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_elastic.errors import ElasticError
from tests.hosts.data_kinds import AS_STOCK, KINDS, NEMO, TABLE, check, check_as_stock, markdown, runs_of
from tests.workers import work

pytestmark = pytest.mark.nemo


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    work("tests.hosts.nemo.data_worker", place)
    return place


@pytest.mark.slow
@pytest.mark.dist
def test_the_whole_member_loses_in_every_step_what_the_hosts_own_fine_tuning_loses(place: Path) -> None:
    check_as_stock(json.loads((place / f"{AS_STOCK}.json").read_text()))


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("name", runs_of(NEMO))
def test_it_is_ranked_on_and_trains_and_validates_both_stages(place: Path, name: str) -> None:
    check(KINDS[name], json.loads((place / f"{name}.json").read_text()))


def test_data_without_micro_batches_is_refused_before_anything_is_built() -> None:
    import nemo_run as run
    from nemo.collections.llm.gpt.data.hf_dataset import HFDatasetDataModule

    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.hosts.nemo.recipe.checks import NemoRecipe
    from tests.parallel.runs import BLOCK

    stock = run.Config(dict, data=run.Config(HFDatasetDataModule, path_or_dataset="nobody/nothing"))
    with pytest.raises(ElasticError) as error:
        NemoRecipe(stock).check_data(ElasticConfig.from_dict(BLOCK), 1)
    assert str(error.value).startswith(KINDS["hub"].line)


def test_the_page_has_the_table() -> None:
    assert TABLE.read_text(encoding="utf-8") == markdown(), "python -m tests.hosts.data_kinds > docs/tables/…"
