# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic plan`: JSON, table, exit codes, and parents by name and by folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.cli import main
from nemo_elastic.export.hf_config import to_hf_config
from nemo_elastic.plan import preset

CONF = Path(__file__).parents[2] / "conf"
CONFIG = ("--config", str(CONF / "elastic_12b.yaml"))
STAGES = {
    "8k": ("--seq-length", "8192", "--global-batch-size", "1536"),
    "48k": ("--seq-length", "49152", "--global-batch-size", "512", "--stage", "2"),
}


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as done:
        main(["plan", *argv])
    out, err = capsys.readouterr()
    return done.value.code, out, err


@pytest.mark.parametrize("stage", STAGES)
def test_the_12b_has_a_layout_for_80_gb_gpus(capsys: pytest.CaptureFixture[str], stage: str) -> None:
    code, out, _ = run(capsys, *CONFIG, "--parent", "nemotron-nano-12b-v2", *STAGES[stage], "--json")
    told = json.loads(out)
    assert code == 0 and told["parameters"] == 12_310_001_152
    assert told["best"]["fits"] and told["best"]["memory"]["total"] <= told["run"]["usable_bytes"] < 80e9
    assert told["best"] in told["layouts"]
    assert told["best"]["context_parallel_size"] == 1


def test_the_table_shows_every_layout_and_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *CONFIG, "--parent", "nemotron-nano-12b-v2", *STAGES["48k"])
    rows = [line.split() for line in out.splitlines() if line.split()[-1:] in (["yes"], ["no"], ["best"])]
    assert code == 0 and len(rows) == 14
    assert sum(row[-1] == "best" for row in rows) == 1
    assert "12,310,001,152 parameters" in out and "best: TP4 PP1 DP32 SP recompute" in out
    assert "…" not in out  # nothing is cut


def test_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--gpus", "1", "--global-batch-size", "8")
    code, out, _ = run(capsys, *CONFIG, "--parent", "nemotron-nano-12b-v2", *few)
    assert code == 1 and "nothing fits; the smallest, TP1 PP1 DP1 recompute, needs" in out
    code, out, _ = run(capsys, *CONFIG, "--parent", "nemotron-nano-12b-v2", *few, "--json")
    assert code == 1 and json.loads(out)["best"] is None


def test_a_parent_folder_counts_as_its_preset(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    parent = preset("nemotron-nano-12b-v2")
    (tmp_path / "config.json").write_text(json.dumps(to_hf_config(parent, parent.full)))
    told = [
        json.loads(run(capsys, *CONFIG, "--parent", name, *STAGES["8k"], "--json")[1])["layouts"]
        for name in ("nemotron-nano-12b-v2", str(tmp_path))
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--parent", "nowhere/"), "--parent: 'nowhere/' is not allowed; a folder, or one of nemotron-nano-12b-v2"),
        (("--gpu", "b200"), "--gpu: 'b200' is not allowed; one of h100, h200"),
        (("--stage", "3"), "--stage: 3 is not allowed; a whole number from 1 to 2"),
        (("--gpus", "0"), "--gpus: 0 is not allowed; a whole number from 1 to 1000000"),
        (("--gpus", "7"), "no layout is possible on 7 GPUs"),
        (("--parent", "nemotron-h-8b"), "elastic.axes.hidden"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str) -> None:
    code, out, err = run(capsys, *CONFIG, "--parent", "nemotron-nano-12b-v2", *argv)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
