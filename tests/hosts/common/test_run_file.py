# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A run's file and overrides, taken apart without NeMo; what they make of a recipe is in `test_entry_points.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nemo_elastic.errors import ElasticError
from nemo_elastic.hosts.common.run_file import RunFile, read_mapping
from tests.hosts.nemo.blocks import NANO_12B, command_line
from tests.hosts.nemo.checkpoints import store
from tests.hosts.nemo.cutting import PARENT, random_tensors

FACTORY = "nemotron_nano_12b_v2(num_nodes=2,max_steps=100)"
BLOCK = {"budgets": [{"name": "full"}, {"name": "half", "ratio": 0.5}], "axes": {"depth": [4, 2]}}


def load(folder: Path, data: Any) -> RunFile:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(data))
    return RunFile.load(str(path))


def test_what_is_the_recipes_and_what_is_ours_is_kept_apart(tmp_path: Path) -> None:
    data = {"elastic": BLOCK, "teacher": "/t", "stage": 2, "trainer": {"max_steps": 5}, "optim": {"lr": 1}}
    actual = load(tmp_path, data)
    assert actual.recipe == {"trainer": {"max_steps": 5}, "optim": {"lr": 1}}
    assert actual.settings == {"elastic": BLOCK, "teacher": "/t", "stage": 2} and actual.overrides == []


@pytest.mark.parametrize("name", ["teacher", "previous", "out"])
def test_a_path_of_a_run_is_text(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, {"elastic": BLOCK, name: None}).settings[name] is None
    with pytest.raises(ElasticError, match=rf"^{name}: 3 is not allowed; a path$"):
        load(tmp_path, {"elastic": BLOCK, name: 3})


def test_what_a_file_says_to_nemo_run_is_a_mapping(tmp_path: Path) -> None:
    assert load(tmp_path, {"elastic": BLOCK, "run": {"factory": "a"}}).recipe == {"run": {"factory": "a"}}
    with pytest.raises(ElasticError, match=r"^run: 'x' is not allowed; a mapping"):
        load(tmp_path, {"elastic": BLOCK, "run": "x"})


def test_a_block_alone_is_a_run_with_that_block(tmp_path: Path) -> None:
    assert load(tmp_path, BLOCK) == RunFile(settings={"elastic": BLOCK})
    assert load(tmp_path, BLOCK | {"trainer": {}}).settings == {}


@pytest.mark.parametrize(
    ("override", "at", "value"),
    [
        ("elastic.router.lr=3e-3", ("elastic", "router", "lr"), 0.003),
        ("elastic.budgets[1].ratio=0.4", ("elastic", "budgets", 1, "ratio"), 0.4),
        ("elastic.axes={hidden: [8, 4]}", ("elastic", "axes"), {"hidden": [8, 4]}),
        ("elastic.router=None", ("elastic", "router"), None),
        ("stage=2", ("stage",), 2),
        ("teacher=12", ("teacher",), "12"),
        ("teacher=/a=b", ("teacher",), "/a=b"),
        ("out=", ("out",), None),
    ],
)
def test_an_override_of_ours_is_put_in_its_place(override: str, at: tuple[Any, ...], value: Any) -> None:
    given = RunFile(settings={"elastic": BLOCK, "teacher": "/t"})
    actual: Any = given.override([override]).settings
    for key in at:
        actual = actual[key]
    assert actual == value and type(actual) is type(value)
    assert given == RunFile(settings={"elastic": BLOCK, "teacher": "/t"}), "the file stays as it was"


def test_other_overrides_are_kept_as_they_were_written() -> None:
    given = RunFile({"trainer": {}}, {"elastic": BLOCK}, ["a=1"])
    actual = given.override(["trainer.max_steps=5", "stage=2", "optim*=double", "elasticity=1", "trainer.plugins+=x"])
    assert actual.overrides == ["a=1", "trainer.max_steps=5", "optim*=double", "elasticity=1", "trainer.plugins+=x"]
    assert actual.recipe == {"trainer": {}} and actual.settings == {"elastic": BLOCK, "stage": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("elastic", r"^override: 'elastic' "),
        ("elastic.router.lr+=1", r"^elastic\.router\.lr: '\+=' "),
        ("elastic.budgets[7].ratio=1", r"^elastic\.budgets\[7\]\.ratio: "),
        ("elastic.axes={a: [", r"^elastic\.axes: "),
        ("elastic=@gone.yaml", r"^elastic: 'gone\.yaml' "),
    ],
)
def test_an_override_that_cannot_be_is_reported_in_one_line(override: str, message: str) -> None:
    with pytest.raises(ElasticError, match=message) as error:
        RunFile(settings={"elastic": BLOCK}).override([override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["- 1", "a: ${oc.env:HOME}"])
def test_a_file_that_is_no_mapping_is_reported_by_its_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(ElasticError, match=r"^--yaml: .*run\.yaml"):
        read_mapping("--yaml", str(tmp_path / "run.yaml"))


def test_a_recipe_without_a_block_is_not_applied() -> None:
    with pytest.raises(ElasticError, match=r"^elastic: missing"):
        RunFile(settings={"teacher": "/t"}).apply(None, print)


@pytest.mark.nemo
def test_a_toml_file_is_read_like_the_others(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('teacher = "/t"\n[elastic.router]\nlr = 3e-3\n[trainer]\nmax_steps = 5\n')
    actual = RunFile.load(str(tmp_path / "run.toml"))
    assert actual.recipe == {"trainer": {"max_steps": 5}}
    assert actual.settings == {"teacher": "/t", "elastic": {"router": {"lr": 0.003}}}


def of_class(name: str, **more: Any) -> dict[str, Any]:
    return {"data": {"_target_": f"nemo.collections.llm.{name}", "paths": ["/other"]} | more}


@pytest.mark.nemo
@pytest.mark.parametrize(
    ("own", "args", "fields"),
    [
        ({}, ["data.paths=[0.7, /code, 0.3, /web]"], {"paths": [0.7, "/code", 0.3, "/web"]}),
        ({"data": {"paths": {"train": ["/a"], "validation": ["/b"]}}}, [],
         {"paths": {"train": ["/a"], "validation": ["/b"]}}),
        (of_class("PreTrainingDataModule", seq_length=4096), ["data.paths=/data/text", "data.split='9,1,0'"],
         {"paths": "/data/text", "seq_length": 4096, "split": "9,1,0"}),
    ],
)  # fmt: skip
def test_text_is_given_in_the_file_or_as_an_override(
    tmp_path: Path, own: dict[str, Any], args: list[str], fields: dict[str, Any]
) -> None:
    """What the run does not say of its data is as the stock recipe has it: length, batch and tokenizer."""
    from nemo.collections import llm

    stock = llm.nemotron_nano_12b_v2.pretrain_recipe(num_nodes=2, max_steps=100).data.__arguments__
    path, whole = tmp_path / "run.yaml", tmp_path / "whole.yaml"
    path.write_text(yaml.safe_dump({"elastic": NANO_12B, "teacher": "/checkpoints/12b"} | own))
    data = command_line(args, FACTORY, path).data
    assert data.__fn_or_cls__.__name__ == "PreTrainingDataModule"
    assert data.__arguments__ == stock | fields
    command_line(args, FACTORY, path, to_yaml=str(whole))
    assert command_line([], None, whole).data == data
    assert command_line(["data.paths=[/last]"], None, whole).data.paths == ["/last"]


@pytest.mark.nemo
@pytest.mark.parametrize(
    ("own", "message"),
    [
        (of_class("SquadDataModule"), "data.paths: "),
        (of_class("NoDataModule"), "_target_: nemo.collections.llm.NoDataModule: "),
        ({}, "recipe.data: 'MockDataModule' "),
    ],
)
def test_data_that_are_no_text_are_refused_by_their_own_name(
    tmp_path: Path, own: dict[str, Any], message: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"elastic": NANO_12B, "teacher": "/checkpoints/12b"} | own))
    with pytest.raises(ElasticError) as caught:
        command_line([], FACTORY, path)
    assert message in str(caught.value)
    if not own:
        assert command_line(["mock_data=true"], FACTORY, path).data.__fn_or_cls__.__name__ == "MockDataModule"


def test_a_run_that_starts_here_has_a_teacher_that_fits_its_block(tmp_path: Path) -> None:
    teacher = str(store(tmp_path / "nemo", PARENT, PARENT.full, random_tensors(PARENT)))
    block = {"budgets": [{"name": "full"}, {"name": "half", "ratio": 0.6}], "axes": {"hidden": [64, 32]}}
    given = RunFile(settings={"teacher": teacher, "elastic": block | {"axes": {"hidden": [128, 64]}}})
    with pytest.raises(ElasticError, match=r"^elastic\.axes\.hidden: "):
        given.check_here()
    given.settings["elastic"] = block
    given.check_here()
    with pytest.raises(ElasticError, match=r"^teacher: .* a NeMo checkpoint folder"):
        RunFile(settings=given.settings | {"teacher": str(tmp_path)}).check_here()
    folder = RunFile({"data": {"dataset_root": str(tmp_path)}}, given.settings, ["data.paths=[0.5, /none/text]"])
    with pytest.raises(ElasticError, match=r"^data\.paths: '/none/text' "):
        folder.check_here()
