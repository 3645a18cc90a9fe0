# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The table of a dry run; what NeMo-Run writes for real recipes is in `tests/recipes/test_executors.py`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.nemo


def job(id: str, time: str | None = "04:00:00") -> Any:
    """As much of NeMo-Run's job as is shown."""
    return SimpleNamespace(id=id, executor=SimpleNamespace(time=time) if time else SimpleNamespace())


def trained(recompute: str = "") -> Any:
    from nemo_elastic.hosts.common.curriculum_run import Job

    return Job(None, nodes=2, devices=8, layout=f"TP4 PP2 DP2 SP{recompute}")  # pyright: ignore[reportArgumentType]


def process() -> Any:
    from nemo_elastic.hosts.common.curriculum_run import Job

    return Job(None)  # pyright: ignore[reportArgumentType]


def shown(
    capsys: pytest.CaptureFixture[str], sent: list[Any], titles: list[str], jobs: dict[str, Any], estimates: Any
) -> list[list[str]]:
    """Cells of each row."""
    from nemo_elastic.hosts.common.preview import show

    show(sent, titles, jobs, estimates, Path("dry"))
    out = capsys.readouterr().out
    assert out.startswith(f"{len(sent)} jobs; nothing is submitted. Files: dry")
    return [[cell for cell in line.strip().split("  ") if cell] for line in out.splitlines()]


def cells(row: list[str]) -> list[str]:
    return [cell.strip() for cell in row]


def test_a_job_is_shown_with_its_gpus_layout_estimate_and_limit(capsys: Any) -> None:
    from nemo_elastic.hosts.common.curriculum_run import Estimate

    rows = shown(
        capsys, [job("stage1")], ["stage1"], {"stage1": trained(" recompute")}, {"stage1": Estimate(61.2e9, 3.14159)}
    )
    assert cells(rows[-2]) == ["stage1", "2", "16", "TP4 PP2 DP2 SP recompute", "61.2", "3.14", "04:00:00", "-"]
    assert "planner's estimates" in rows[-1][0]


def test_later_turns_of_a_job_go_on_after_the_one_before(capsys: Any) -> None:
    from nemo_elastic.hosts.common.curriculum_run import Estimate

    sent, estimate = [job("stage1"), job("stage1_2")], {"stage1": Estimate(1e9, 3.0)}
    rows = shown(capsys, sent, ["stage1", "stage1"], {"stage1": trained()}, estimate)
    first, second = map(cells, rows[-3:-1])
    assert (first[5], first[7]) == ("3", "-") and (second[5], second[7]) == ("goes on", "stage1")
    assert second[3] == "TP4 PP2 DP2 SP"


def test_what_nothing_estimates_has_a_dash_and_the_least_memory_is_reported_as_such(capsys: Any) -> None:
    from nemo_elastic.hosts.common.curriculum_run import Estimate

    jobs = {"rank": trained(), "slice": process()}
    rows = shown(
        capsys, [job("rank"), job("slice", None)], ["rank", "slice"], jobs, {"rank": Estimate(24e9, least=True)}
    )
    assert cells(rows[-2])[4:6] == ["from 24.0", "-"]
    assert cells(rows[-1]) == ["slice", "1", "0", "one process", "-", "-", "-", "rank"]


def test_a_dry_run_leaves_commands_that_a_shell_runs_as_they_are(tmp_path: Path) -> None:
    import nemo_run as run

    from nemo_elastic.hosts.common.preview import write

    folder, final = tmp_path / "made", tmp_path / "final"
    folder.mkdir()
    executor = run.LocalExecutor(env_vars={"SAID": "it's $HOME"})
    with run.Experiment("dry", executor=executor, base_dir=str(folder / "base")) as experiment:
        experiment.add(run.Script(inline="echo"), name="one")
        write(experiment, folder, final)
    assert not (folder / "base").exists(), "nothing is left of NeMo-Run's own folder"
    (script,) = folder.glob("*.sh")
    text = script.read_text()
    assert text.startswith("#!/bin/sh\nexport ") and str(folder / "base") not in text
    exports = "".join(line + "\n" for line in text.splitlines() if line.startswith("export SAID"))
    output = subprocess.run(["sh", "-c", f'{exports}printf %s "$SAID"'], capture_output=True, text=True, check=True)
    assert output.stdout == "it's $HOME"
