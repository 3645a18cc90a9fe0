# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which file a recipe is."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.rehearsal.find import find_recipe


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipes").mkdir()
    for name in ("nemotron_elastic_9b", "nemotron_elastic_12b", "run_slurm"):
        (tmp_path / "recipes" / f"{name}.py").touch()
    (tmp_path / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_is_that_of_a_file_in_recipes() -> None:
    assert find_recipe("nemotron_elastic_12b") == Path("recipes/nemotron_elastic_12b.py")


def test_a_path_is_taken_as_it_is(here: Path) -> None:
    own = here / "own.py"
    own.touch()
    assert find_recipe(str(own)) == own and find_recipe("own.py") == Path("own.py")


@pytest.mark.parametrize("name", ["nemotron_elastic_1b", "gone.py", "folder.py", "recipes", "../own"])
def test_a_name_that_is_wrong_is_told_with_the_recipes_that_are_there(name: str) -> None:
    known = "nemotron_elastic_12b, nemotron_elastic_9b"
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
