# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A recipe by its name in the table, or by its file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.hosts.common.recipe_file import find_recipe
from recipes.families import FAMILIES
from tests.workers import ROOT


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_a_name_that_is_wrong_is_reported_with_the_recipes_that_are_there() -> None:
    for name in ("nemotron_elastic_1b", "gone.py", "recipes"):
        with pytest.raises(ElasticError, match=rf"^RECIPE: .*{name}.* nemotron_elastic_12b, .*, {[*FAMILIES][-1]}$"):
            find_recipe(name)


def test_a_recipe_is_found_from_any_folder_which_may_have_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe("nemotron_elastic_12b")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "families.py").write_text("FAMILIES = {}")
    with pytest.raises(ElasticError, match=r"^RECIPE: "):
        find_recipe("nemotron_elastic_12b")


def test_a_name_imports_no_host_and_only_nemos_families_need_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("nemo", "megatron"):  # neither can be imported
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError) as missing:
        find_recipe("nemotron_elastic_9b")()
    assert missing.value.name == "nemo"
    family = find_recipe("bridge/nemotron_elastic_9b")()
    with pytest.raises(ModuleNotFoundError) as missing:
        family.stock()
    assert missing.value.name == "megatron.bridge"


def test_a_file_of_ones_own_has_a_family(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    for text in ("import json as\n", "FAMILY = 3\n"):
        file.write_text(text)
        with pytest.raises(ElasticError, match=r"^RECIPE: .*own\.py"):
            find_recipe(str(file))()
    file.write_text("import megatron.bridge_that_is_not_there\nFAMILY = None\n")
    with pytest.raises(ModuleNotFoundError):
        find_recipe(str(file))()


@pytest.mark.nemo
def test_a_family_of_ones_own_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("from recipes.families import family\n\nFAMILY = family('nemotron_elastic_9b')\n")
    assert find_recipe(str(file))().name == "nemotron_elastic_9b"
