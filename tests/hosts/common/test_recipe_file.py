# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which file a recipe is, and whose."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.hosts.common.recipe_file import find_recipe, host_of, load_recipe


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipes" / "bridge").mkdir(parents=True)
    for name in ("nemotron_elastic_9b", "nemotron_elastic_12b", "run_slurm", "bridge/nemotron_elastic_8b"):
        (tmp_path / "recipes" / f"{name}.py").touch()
    (tmp_path / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_is_that_of_a_file_in_recipes() -> None:
    assert find_recipe("nemotron_elastic_12b") == Path("recipes/nemotron_elastic_12b.py")


def test_a_name_with_a_folder_is_that_of_another_hosts() -> None:
    assert find_recipe("bridge/nemotron_elastic_8b") == Path("recipes/bridge/nemotron_elastic_8b.py")


def test_a_path_is_taken_as_it_is(here: Path) -> None:
    own = here / "own.py"
    own.touch()
    assert find_recipe(str(own)) == own and find_recipe("own.py") == Path("own.py")


@pytest.mark.parametrize("name", ["nemotron_elastic_1b", "gone.py", "folder.py", "recipes", "../own"])
def test_a_name_that_is_wrong_is_reported_with_the_recipes_that_are_there(name: str) -> None:
    known = "nemotron_elastic_12b, nemotron_elastic_9b, bridge/nemotron_elastic_8b"
    with pytest.raises(
        ElasticError, match=rf"^RECIPE: .*{name}.* is not allowed; a recipe's file, or one of {known}$"
    ):
        find_recipe(name)


def test_where_there_are_no_recipes_it_says_where_they_would_be(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(ElasticError, match=r"one of recipes/ in this folder$"):
        find_recipe("nemotron_elastic_12b")


@pytest.mark.parametrize("name", ["12b", "9b", "8b"])
def test_the_host_is_what_a_recipe_imports(name: str) -> None:
    recipes = Path(__file__).parents[3] / "recipes"
    assert host_of(recipes / f"nemotron_elastic_{name}.py") == "nemo"
    assert host_of(recipes / "bridge" / f"nemotron_elastic_{name}.py") == "bridge"


def test_what_is_no_recipe_is_reported(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemo_elastic.hosts.common.recipe_file.require", lambda package: None)
    file = here / "own.py"
    file.write_text("import json as\n")
    with pytest.raises(ElasticError, match=r"^RECIPE: .*own\.py.*; a Python file \(invalid syntax, line 1"):
        load_recipe(file)
    file.write_text("FAMILY = 3\n")
    with pytest.raises(ElasticError, match=r"is not allowed; a file with FAMILY, the family whose jobs it describes$"):
        load_recipe(file)


def test_a_recipe_asks_for_its_own_host(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, asked = here / "own.py", []
    monkeypatch.setattr("nemo_elastic.hosts.common.recipe_file.require", asked.append)
    for line in ("from megatron.bridge.recipes import x", "import nemo"):
        file.write_text(f"if False:\n    {line}\nFAMILY = None\n")
        with pytest.raises(ElasticError, match="a file with FAMILY"):
            load_recipe(file)
    assert asked == ["megatron.bridge", "nemo"]
