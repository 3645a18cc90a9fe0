# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic plan`: JSON, table, exit codes, and parents by name and by folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_elastic.cli.cmd_plan import FEW
from nemo_elastic.cli.options import Gpu
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.hf.config import to_hf_config
from nemo_elastic.plan import GPUS, PAPER, RunShape, layouts, preset
from tests.slicing.helpers import run

CONF = Path(__file__).parents[2] / "conf"
CONFIG = ("--config", str(CONF / "elastic_12b.yaml"))


@pytest.mark.nemo
def test_a_recipe_has_its_block_and_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONF.parent)
    code, out, _ = run("plan", "--recipe", "nemotron_elastic_12b", "--stage", "2", "--json")
    report, by_hand = (
        json.loads(out),
        run("plan", *CONFIG, "--parent", "nemotron-nano-12b-v2", "--stage", "2", "--json"),
    )
    assert code == 0 and report.pop("parent") == "nemotron_elastic_12b: nemotron-nano-12b-v2"
    assert report == {k: v for k, v in json.loads(by_hand[1]).items() if k != "parent"}


def test_gradients_that_are_summed_in_bf16_take_half_the_memory() -> None:
    block, parent, seen = ElasticConfig.load(CONFIG[1]), preset("nemotron-nano-12b-v2"), {}
    for sums in ("fp32", "bf16"):
        run = RunShape(8192, 1536, gpus=128, gradients=sums)
        seen[sums] = {str(layout.to_json()["memory"]["weights"]): layout for layout in layouts(parent, block, run)}
    assert seen["fp32"].keys() == seen["bf16"].keys()
    for weights, layout in seen["fp32"].items():
        other = seen["bf16"][weights]
        held = [each.to_json()["memory"]["gradients"] for each in (layout, other)]
        assert held == [2 * int(weights), int(weights)]
        assert layout.data == 1 or other.seconds < layout.seconds
    with pytest.raises(ElasticError, match="gradients"):
        RunShape(8192, 1536, gradients="fp8")


def test_the_table_shows_every_layout_and_its_parts() -> None:
    argv = ("--seq-length", "49152", "--global-batch-size", "512", "--stage", "2")
    code, out, _ = run("plan", *CONFIG, "--parent", "nemotron-nano-12b-v2", *argv)
    rows = [line.split() for line in out.splitlines() if line.split()[-1:] in (["yes"], ["no"], ["best"])]
    assert code == 0 and len(rows) == 64  # with and without two pipeline stages
    assert sum(row[-1] == "best" for row in rows) == 1
    assert "12,310,001,152 parameters" in out and "best: TP4 CP2 PP2 DP8 SP" in out
    assert "…" not in out  # nothing is cut


def test_with_experts_both_counts_and_who_shares_them(tmp_path: Path) -> None:
    block = {"budgets": [{"name": "small", "active_params": 2.8e9}], "axes": {"experts": [128, 96, 64]}}
    (tmp_path / "block.json").write_text(json.dumps(block | {"axes": {"hidden": [2688, 1792], **block["axes"]}}))
    argv = ("--config", str(tmp_path / "block.json"), "--parent", "nemotron-3-nano-30b-a3b", "--gpus", "32")
    report = json.loads(run("plan", *argv, "--json")[1])
    assert (report["parameters"], report["active_parameters"]) == (31_577_940_288, 3_580_076_352)
    assert all(stage["best"]["expert_model_parallel_size"] > 1 for stage in report["stages"])
    code, out, _ = run("plan", *argv)
    assert code == 0 and out.count("best: TP") == 2 and " EP8" in out
    assert max(map(len, out.splitlines())) <= 80


def test_without_a_stage_the_best_rows_of_both_are_shown_and_their_hours_added() -> None:
    argv = (*CONFIG, "--parent", "nemotron-nano-12b-v2")
    report, out = json.loads(run("plan", *argv, "--json")[1]), run("plan", *argv)[1]
    for key, total in report["time"].items():
        assert total == sum(stage["time"][key] for stage in report["stages"])
    rows = [line for line in out.splitlines() if line.startswith("TP")]
    assert len(rows) == 2 * FEW and not any(row.endswith("no") for row in rows)
    assert f"both stages: {PAPER.steps:,} steps in " in out and out.count("MFU") == 2


def test_every_kind_of_gpu_is_an_option() -> None:
    assert [gpu.value for gpu in Gpu] == list(GPUS)


def test_hours_of_the_papers_steps() -> None:
    """Without lengths each stage has the paper's."""
    for number, stage in ((1, PAPER.stage1), (2, PAPER.stage2)):
        argv = (*CONFIG, "--parent", "nemotron-nano-12b-v2", "--stage", str(number))
        (report,) = json.loads(run("plan", *argv, "--json")[1])["stages"]
        sizes = report["run"]["seq_length"], report["run"]["global_batch"], report["time"]["steps"]
        assert sizes == (stage.seq_length, stage.global_batch_size, stage.max_steps)
        assert report["best"] in report["layouts"]
        assert 1.5 < report["time"]["gpu_hours_high"] / report["time"]["gpu_hours"] < 2.5


def test_nothing_fits() -> None:
    few = ("--gpus", "1", "--global-batch-size", "8")
    code, out, _ = run("plan", *CONFIG, "--parent", "nemotron-nano-12b-v2", *few)
    assert code == 1 and "nothing fits; the smallest layout, TP1 PP1 DP1 recompute, needs" in out


def test_a_parent_folder_counts_as_its_preset(tmp_path: Path) -> None:
    parent = preset("nemotron-nano-12b-v2")
    (tmp_path / "config.json").write_text(json.dumps(to_hf_config(parent, parent.full)))
    report = [
        json.loads(run("plan", *CONFIG, "--parent", name, "--json")[1])["stages"]
        for name in ("nemotron-nano-12b-v2", str(tmp_path))
    ]
    assert report[0] == report[1]
