# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Three entry points for a recipe, one configuration: the command line, apply_elastic, and ElasticPlugin."""

from __future__ import annotations

import logging
import os
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from tests.documentation import blocks
from tests.hosts.nemo.blocks import NANO_12B as BLOCK
from tests.hosts.nemo.blocks import command_line, with_text
from tests.texts import library_text
from tests.workers import ROOT, WARM, environment

pytestmark = pytest.mark.nemo
FACTORY = "nemotron_nano_12b_v2(num_nodes=2,max_steps=100)"


@pytest.fixture
def run_yaml(tmp_path: Path) -> Path:
    """`elastic:` beside the recipe's own fields."""
    path = tmp_path / "elastic.yaml"
    data = {"global_batch_size": 64, "paths": ["/data/text"]}
    own = {"trainer": {"max_steps": 1000}, "data": data, "model": {"config": {"num_layers": 62}}}
    path.write_text(yaml.safe_dump({"elastic": BLOCK, "teacher": "/checkpoints/12b"} | own))
    return path


def stock() -> Any:
    """What the factory and the file's fields make, by hand."""
    from nemo.collections import llm

    recipe = with_text(llm.nemotron_nano_12b_v2.pretrain_recipe(num_nodes=2, max_steps=1000, gbs=64))
    recipe.model.config.num_layers = 62
    return recipe


def test_three_entry_points_give_one_configuration(run_yaml: Path, capsys: Any) -> None:
    from nemo_elastic import ElasticPlugin, apply_elastic

    by_command = command_line([], FACTORY, run_yaml)
    printed = [capsys.readouterr().out]
    by_python = apply_elastic(stock(), ElasticConfig.load(run_yaml), teacher="/checkpoints/12b")
    printed.append(capsys.readouterr().out)
    by_plugin = stock()
    ElasticPlugin(BLOCK, teacher="/checkpoints/12b").setup(by_plugin, None)
    printed.append(capsys.readouterr().out)
    assert by_command == by_python == by_plugin
    assert printed[0] == printed[1] == printed[2]
    assert by_python.trainer.max_steps == 1000
    assert by_python.data.global_batch_size == 64


def test_an_elastic_recipe_is_what_executors_send_to_other_machines() -> None:
    from nemo.collections import llm
    from nemo_run.core.serialization.zlib_json import ZlibJSONSerializer

    from nemo_elastic import apply_elastic

    recipe = with_text(llm.nemotron_nano_12b_v2.finetune_recipe())
    apply_elastic(recipe, BLOCK, teacher="parent", verbose=False)
    assert recipe.__fn_or_cls__ is llm.finetune
    serializer = ZlibJSONSerializer()
    assert serializer.deserialize(serializer.serialize(recipe)) == recipe


@pytest.fixture
def root_log() -> Iterator[None]:
    """An experiment of NeMo-Run turns the root logger to stdout, and back when Python collects it."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


@pytest.mark.usefixtures("root_log")
def test_the_plugin_leaves_the_recipe_itself_alone(tmp_path: Path, monkeypatch: Any) -> None:
    import nemo_run as run

    from nemo_elastic import ElasticPlugin
    from nemo_elastic.hosts.nemo.model import ElasticMambaModel

    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path))
    recipe = stock()
    with run.Experiment("entry", executor=run.LocalExecutor(), base_dir=str(tmp_path)) as experiment:
        experiment.add(recipe, plugins=[ElasticPlugin(BLOCK, teacher="parent", verbose=False)], name="train")
        assert experiment.jobs[0].task.model.__fn_or_cls__ is ElasticMambaModel
    assert recipe == stock()
    with pytest.raises(ElasticError, match=r"task: 'Script' is not allowed"):
        ElasticPlugin(BLOCK).setup(run.Script("train.sh"), None)


OVERRIDES = (
    "elastic.shapes=router",
    "elastic.router.lr=3e-3",
    "elastic.router.tau=[2.0, 0.1]",
    "elastic.budgets[1].params=9e9",
    "elastic.search.candidates=8",
    "elastic.distill.terms={kl: 1, ce: 0.5}",
    "trainer.max_steps=300",
    "stage=2",
    "previous=/runs/one=a",
    "total_steps=1000",
    "teacher=/other",
    "out=/runs/shapes",
)


def test_overrides_reach_the_block_the_stage_and_the_recipe(run_yaml: Path) -> None:
    from nemo_elastic import apply_elastic

    block = BLOCK | {
        "shapes": "router",
        "router": {"lr": 3e-3, "tau": [2.0, 0.1]},
        "search": {"candidates": 8},
        "distill": {"terms": {"kl": 1, "ce": 0.5}},
        "budgets": [{"name": "12b"}, {"name": "9b", "params": 9e9}, {"name": "6b", "params": 6e9}],
    }
    recipe = stock()
    recipe.trainer.max_steps = 300
    by_hand = apply_elastic(
        recipe, block, teacher="/other", stage=2, previous="/runs/one=a", total_steps=1000, out="/runs/shapes",
        verbose=False,
    )  # fmt: skip
    assert command_line(OVERRIDES, FACTORY, run_yaml) == by_hand


def test_a_file_with_a_block_alone_and_the_rest_as_overrides_is_the_same_run(tmp_path: Path) -> None:
    from nemo_elastic import apply_elastic

    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(BLOCK))
    own = ["trainer.max_steps=1000", "data.global_batch_size=64", "model.config.num_layers=62",
           "data.paths=[/data/text]", "teacher=/checkpoints/12b"]  # fmt: skip
    by_hand = apply_elastic(stock(), BLOCK, teacher="/checkpoints/12b", verbose=False)
    assert command_line(own, FACTORY, tmp_path / "alone.yaml") == by_hand


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_an_exported_run_is_read_back_and_can_be_changed(run_yaml: Path, tmp_path: Path, kind: str) -> None:
    whole = tmp_path / f"run.{kind}"
    command_line(["elastic.search.tokens=4096"], FACTORY, run_yaml, **{f"to_{kind}": str(whole)})
    assert command_line([], None, whole) == command_line(["elastic.search.tokens=4096"], FACTORY, run_yaml)
    changed = ["elastic.search.tokens=8192", "trainer.max_steps=500"]
    assert command_line(changed, None, whole) == command_line(changed, FACTORY, run_yaml)


@pytest.mark.parametrize(
    ("args", "factory", "message"),
    [
        (["model.confg.num_layers=2"], FACTORY, "recipe: model.confg.num_layers: '2' is not allowed"),
        (["data.paths=[/data/text]", "data=llm.SquadDataModule"], FACTORY, "recipe: data: 'llm.SquadDataModule' is"),
        ([], "nemotron_nano_12b_v2(num_nods=1)", "unknown argument 'num_nods'; did you mean 'num_nodes'?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    run_yaml: Path, capfd: Any, args: list[str], factory: str, message: str
) -> None:
    with pytest.raises(SystemExit) as left:
        command_line(args, factory, run_yaml, dryrun=True)
    assert left.value.code == 2
    lines = [x for x in capfd.readouterr().err.splitlines() if "rror" in x]
    assert len(lines) == 1
    assert message in lines[0]


CALL = "subprocess.getoutput(cmd='touch ran')"


@pytest.mark.parametrize(
    ("beside", "field"),
    [
        ({"log": CALL}, "log"),
        ({"trainer": {"callbacks": [CALL]}}, "trainer.callbacks"),
        ({"optim": {"config": {"lr": f"[{CALL}]"}}}, "optim.config.lr"),
        ({"model": "mine.recipe"}, "model"),
        ({"trainer": {"plugins": "lambda: 1"}}, "trainer.plugins"),
        ({"log": {"_target_": "mine.Logger"}}, "log._target_"),
        ({f"log={CALL}#": 1}, f"log={CALL}#"),
        ({"_factory_": CALL}, "_factory_"),
        ({"run": {"factory": CALL}}, "run.factory"),
        ({"data": {"_target_": "mine.Data"}}, "data._target_"),
        ({"data": {"_target_": "nemo.collections.llm.hf_dataset.load_dataset"}}, "_target_"),
    ],
)
def test_a_file_that_is_no_whole_recipe_runs_nothing(
    run_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, beside: dict[str, Any], field: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("open('ran', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    given = tmp_path / "given.yaml"
    given.write_text(yaml.safe_dump(yaml.safe_load(run_yaml.read_text()) | beside))
    named = "_factory_" in beside or "run" in beside
    with pytest.raises(SystemExit) as left:
        command_line([], None if named else FACTORY, given, dryrun=True)
    assert left.value.code == 2 and not (tmp_path / "ran").exists()
    assert any(line.startswith(f"error: {field}: ") for line in capfd.readouterr().err.splitlines())


def test_what_does_not_fit_is_refused_by_every_entry_point_in_the_same_line(run_yaml: Path, capfd: Any) -> None:
    import nemo_run as run

    from nemo_elastic import ElasticPlugin, apply_elastic

    with pytest.raises(SystemExit) as left:
        command_line(["trainer.strategy.tensor_model_parallel_size=3"], FACTORY, run_yaml, dryrun=True)
    assert left.value.code == 2
    (line,) = (x for x in capfd.readouterr().err.splitlines() if "rror" in x)
    recipe = stock()
    recipe.trainer.strategy.tensor_model_parallel_size = 3
    with pytest.raises(ElasticError) as by_python:
        apply_elastic(recipe, BLOCK, teacher="/checkpoints/12b")
    with pytest.raises(ElasticError) as by_plugin:
        ElasticPlugin(BLOCK, teacher="/checkpoints/12b").setup(recipe, run.LocalExecutor())
    assert line == f"error: {by_python.value}" == f"error: {by_plugin.value}"


@pytest.mark.slow
@pytest.mark.dist
def test_the_example_of_the_page_for_a_cpu_ends_with_a_family_and_a_report(tmp_path: Path) -> None:
    """Every command of it but the demo, with the installed package alone."""
    from nemo_elastic.data.build import build_data
    from nemo_elastic.formats.folders import read_shapes
    from nemo_elastic.report import load_run
    from nemo_elastic.slicing.card import served_as

    few = {"importance": {"samples": 8, "depth_samples": 2}, "search": {"candidates": 6, "tokens": 256}}
    given = yaml.safe_load((ROOT / "conf" / "elastic_tiny.yaml").read_text())["elastic"] | few
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "elastic_tiny.yaml").write_text(yaml.safe_dump({"elastic": given}))
    build_data(tmp_path / "demo" / "data", [library_text(tmp_path / "text")])  # what the demo would leave
    (block,) = (b for b in blocks("bash", page=ROOT / "docs" / "train.md") if "nemotron_elastic_tiny" in b.text)
    sizes = "data=demo/data,steps=3,seq_length=64,micro_batch_size=2,global_batch_size=4,"
    shell = block.text.replace("nemo-elastic demo --short --out demo", "").replace("data=demo/data,", sizes)
    assert sizes in shell and "demo --short" not in shell
    assert {words[0] for words in block.commands()} == {"nemo", "nemo-elastic"}
    path = sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]
    env = environment(PYTHONPATH=str(WARM), NEMORUN_HOME=str(tmp_path / "home"), PATH=path)
    command = ["/bin/bash", "-ec", shell]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    family = read_shapes(tmp_path / "family").family
    assert family is not None
    loaded = load_run(tmp_path / "runs" / "tiny")
    (checkpoint,) = (tmp_path / "runs" / "tiny" / "checkpoints").glob("*-last")
    assert loaded.notes == [] and len(loaded.phases[0].steps) == 3
    assert list(loaded.subnets) == [member.name for member in family]
    assert loaded.serving == served_as(read_shapes(checkpoint).config) and loaded.serving.weights == "fp32"
