# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Three entry points for a recipe, one configuration: the command line, apply_elastic, and ElasticPlugin."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from tests.hosts.nemo.blocks import NANO_12B as BLOCK
from tests.hosts.nemo.blocks import command_line, with_text
from tests.texts import library_text
from tests.workers import WARM, environment

pytestmark = pytest.mark.nemo
TINY: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "half", "ratio": 0.6}],
    "axes": {
        "hidden": [128, 96, 64],
        "ffn": {"choices": [512, 256, 128], "stripes": 4},
        "mamba_heads": [16, 8],
    },
    "importance": {"samples": 8, "depth_samples": 2},
    "search": {"candidates": 6, "tokens": 256},
    "halving": {"cuts": [0.5], "tokens": 256},
}
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


@pytest.mark.parametrize("kind", ["pretrain_recipe", "finetune_recipe"])
def test_an_elastic_recipe_is_what_executors_send_to_other_machines(kind: str) -> None:
    from nemo.collections import llm
    from nemo_run.core.serialization.zlib_json import ZlibJSONSerializer

    from nemo_elastic import apply_elastic

    recipe = with_text(getattr(llm.nemotron_nano_12b_v2, kind)())
    config = recipe.model.config
    apply_elastic(recipe, BLOCK, teacher="parent", verbose=False)
    assert recipe.__fn_or_cls__ is getattr(llm, kind.partition("_")[0])
    assert recipe.model.config is config
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
    "done_steps=700",
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
        recipe, block, teacher="/other", stage=2, previous="/runs/one=a", done_steps=700, total_steps=1000,
        out="/runs/shapes", verbose=False,
    )  # fmt: skip
    assert command_line(OVERRIDES, FACTORY, run_yaml) == by_hand


def test_a_block_is_replaced_or_read_from_another_file(run_yaml: Path, tmp_path: Path) -> None:
    from nemo_elastic import apply_elastic

    other = BLOCK | {"budgets": [{"name": "big"}, {"name": "small", "ratio": 0.7}]}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"elastic": other}))
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(other))
    by_hand = apply_elastic(stock(), other, teacher="/checkpoints/12b", verbose=False)
    assert command_line([f"elastic=@{tmp_path / 'other.yaml'}"], FACTORY, run_yaml) == by_hand
    written = "elastic.budgets=[{name: big}, {name: small, ratio: 0.7}]"
    assert command_line([written], FACTORY, run_yaml) == by_hand
    own = ["trainer.max_steps=1000", "data.global_batch_size=64", "model.config.num_layers=62",
           "data.paths=[/data/text]"]  # fmt: skip
    alone = command_line([*own, "teacher=/checkpoints/12b"], FACTORY, tmp_path / "alone.yaml")
    assert alone == by_hand


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_an_exported_run_is_read_back_and_can_be_changed(run_yaml: Path, tmp_path: Path, kind: str) -> None:
    whole = tmp_path / f"run.{kind}"
    command_line(["elastic.search.keep=3"], FACTORY, run_yaml, **{f"to_{kind}": str(whole)})
    assert command_line([], None, whole) == command_line(["elastic.search.keep=3"], FACTORY, run_yaml)
    changed = ["elastic.search.keep=2", "trainer.max_steps=500", "elastic.budgets[2].ratio=1.5"]
    with pytest.raises(ElasticError, match=r"ratio: 1.5 is not allowed"):
        command_line(changed, None, whole)
    again = command_line(changed[:2], None, whole)
    assert again == command_line(changed[:2], FACTORY, run_yaml)
    with pytest.raises(ElasticError, match=r"--factory: .* has a whole recipe"):
        command_line([], FACTORY, whole)


@pytest.mark.parametrize(
    ("args", "factory", "message"),
    [
        ([], "nemotron_nano_12b", "--factory: 'nemotron_nano_12b' "),
        (["model.confg.num_layers=2"], FACTORY, "recipe: model.confg.num_layers: unknown field 'confg'; did you mean"),
        (["data.paths=[/data/text]", "data=llm.SquadDataModule"], FACTORY, "recipe: data: 'llm.SquadDataModule' is"),
        ([], "nemotron_nano_12b_v2(num_nods=1)", "unknown argument 'num_nods'; did you mean 'num_nodes'?"),
        (["stage=two"], FACTORY, "stage: 'two' is not allowed"),
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


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("trainer.strategy.tensor_model_parallel_size", 3, "a size that divides the 8 stripes of elastic.axes.ffn"),
        ("model.config.seq_length", 16384, "recipe.model.config.seq_length says 16384"),
    ],
)
def test_what_does_not_fit_is_refused_by_every_entry_point_in_the_same_line(
    run_yaml: Path, capfd: Any, field: str, value: Any, message: str
) -> None:
    import nemo_run as run

    from nemo_elastic import ElasticPlugin, apply_elastic

    with pytest.raises(SystemExit) as left:
        command_line([f"{field}={value}"], FACTORY, run_yaml, dryrun=True)
    assert left.value.code == 2
    seen = capfd.readouterr()
    (line,) = (x for x in seen.err.splitlines() if "rror" in x)
    assert message in line
    assert "apply_elastic changes" not in seen.out
    recipe, *path = stock(), *field.split(".")
    owner = recipe
    for name in path[:-1]:
        owner = getattr(owner, name)
    setattr(owner, path[-1], value)
    with pytest.raises(ElasticError) as by_python:
        apply_elastic(recipe, BLOCK, teacher="/checkpoints/12b")
    with pytest.raises(ElasticError) as by_plugin:
        ElasticPlugin(BLOCK, teacher="/checkpoints/12b").setup(recipe, run.LocalExecutor())
    assert line == f"error: {by_python.value}" == f"error: {by_plugin.value}"


def script(name: str) -> str:
    return str(Path(sysconfig.get_path("scripts"), name))


def installed(folder: Path) -> dict[str, str]:
    """The environment of a process that finds the installed package alone."""
    path = sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]  # LocalExecutor starts `python`
    return environment(PYTHONPATH=str(WARM), NEMORUN_HOME=str(folder / "home"), PATH=path)


#: a user's script: the parent, and its family through both entry points of Python; first what runs in processes of its
#: own, for a run in this one leaves its rendezvous in the environment
SCRIPT = """
import nemo_run as run
from nemo_elastic import ElasticConfig, ElasticPlugin, apply_elastic
from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint, nemotron_elastic_tiny
from pathlib import Path

def recipe(out):
    data, sizes = str(Path("data").resolve()), {"seq_length": 64, "micro_batch_size": 2, "global_batch_size": 4}
    return nemotron_elastic_tiny(data, str(Path(out).resolve()), steps=3, **sizes)

if __name__ == "__main__":
    run.run(recipe("parent"), run.LocalExecutor(), tail_logs=True)
    teacher = str(last_checkpoint(Path("parent").resolve()))
    run.run(recipe("plugin"), run.LocalExecutor(), plugins=[ElasticPlugin("elastic.yaml", teacher=teacher)])
    run.run(apply_elastic(recipe("python"), ElasticConfig.load("elastic.yaml"), teacher=teacher))
    print(f"teacher {teacher}")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe trained through every entry point, elsewhere, with the installed package."""
    folder = tmp_path_factory.mktemp("elsewhere")
    env = installed(folder)

    def call(*args: str) -> str:
        done = subprocess.run(args, cwd=folder, env=env, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout

    library_text(folder / "text")
    (folder / "elastic.yaml").write_text(yaml.safe_dump({"elastic": TINY}))
    call(script("nemo-elastic"), "data", "text", "--out", "data", "--json")
    (folder / "run.py").write_text(SCRIPT)
    output = call(sys.executable, str(folder / "run.py"))
    teacher = output.rpartition("teacher ")[2].strip()
    factory = (
        "nemotron_elastic_tiny(data=data,out=command,seq_length=64,micro_batch_size=2,global_batch_size=4,steps=3)"
    )
    call(script("nemo-elastic"), "train", "--factory", factory, "--yaml", "elastic.yaml", f"teacher={teacher}",
         "--to-yaml", "run.yaml")  # fmt: skip
    (folder / "command.txt").write_text(call(script("nemo"), "elastic", "train", "--yaml", "run.yaml", "--yes"))
    return folder


@pytest.mark.slow
def test_every_entry_point_trains_the_same_family(runs: Path) -> None:
    """Same seeds, same data, same configuration: the same losses, step by step, and the same members."""
    seen = {}
    for way in ("python", "plugin", "command"):
        lines = [json.loads(x) for x in (runs / way / "metrics.jsonl").read_text().splitlines()]
        steps = [{k: v for k, v in x.items() if k != "seconds"} for x in lines if x["kind"] == "step"]
        assert len(steps) == 3
        assert list((runs / way / "checkpoints").glob("*-last"))
        seen[way] = (steps, json.loads((runs / way / "elastic" / "members.json").read_text()))
    assert seen["python"] == seen["plugin"] == seen["command"]
    assert any("loss_half" in x for x in seen["python"][0])


@pytest.mark.slow
def test_what_the_command_trained_has_a_report_with_the_memory_that_inspect_tells(runs: Path) -> None:
    from nemo_elastic.formats.folders import read_shapes
    from nemo_elastic.report import load_run
    from nemo_elastic.slicing.card import served_as

    loaded = load_run(runs / "command")
    (checkpoint,) = (runs / "command" / "checkpoints").glob("*-last")
    assert loaded.notes == [] and len(loaded.phases[0].steps) == 3 and list(loaded.subnets) == ["full", "half"]
    assert loaded.serving == served_as(read_shapes(checkpoint).config) and loaded.serving.weights == "fp32"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("program", ["nemo-elastic train", "nemo elastic train"])
def test_ctrl_c_in_training_ends_a_command_with_130(runs: Path, program: str) -> None:
    out = runs / program.replace(" ", "_")  # both have a folder of their own
    (teacher,) = (runs / "parent" / "checkpoints").glob("*-last")
    factory = f"nemotron_elastic_tiny(data=data,out={out.name},steps=500,seq_length=64,micro_batch_size=2)"
    first, *rest = program.split()
    options = ["--factory", factory, "--yaml", "elastic.yaml", f"teacher={teacher}", "--yes"]
    with open(out.with_suffix(".log"), "w") as log:  # a pipe that nobody reads would stop it
        command = [script(first), *rest, *options]
        running = subprocess.Popen(command, cwd=runs, env=installed(runs), stdout=log, stderr=log)
        metrics, end = out / "metrics.jsonl", time.monotonic() + 900
        while running.poll() is None and time.monotonic() < end:
            if metrics.exists() and metrics.read_text().count('"kind": "step"') > 1:
                break
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        code = running.wait(900)
    text = out.with_suffix(".log").read_text()
    assert code == 130, text[-3000:]
    assert text.splitlines()[-1] == "interrupted" and "Traceback" not in text
