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
    capsys: pytest.CaptureFixture[str], sent: list[Any], titles: list[str], jobs: dict[str, Any]
) -> list[list[str]]:
    """Cells of each row."""
    from nemo_elastic.hosts.common.preview import show

    show(sent, titles, jobs, Path("dry"))
    out = capsys.readouterr().out
    assert out.startswith(f"{len(sent)} jobs; nothing is submitted. Files: dry")
    return [[cell for cell in line.strip().split("  ") if cell] for line in out.splitlines()]


def cells(row: list[str]) -> list[str]:
    return [cell.strip() for cell in row]


def test_a_job_is_shown_with_its_gpus_layout_limit_and_what_it_waits_for(capsys: Any) -> None:
    sent = [job("stage1"), job("stage1_2"), job("slice", None)]
    jobs = {"stage1": trained(" recompute"), "slice": process()}
    rows = [cells(row) for row in shown(capsys, sent, ["stage1", "stage1", "slice"], jobs)[-3:]]
    assert rows[0] == ["stage1", "2", "16", "TP4 PP2 DP2 SP recompute", "04:00:00", "-"]
    assert rows[1][3:] == ["TP4 PP2 DP2 SP recompute", "04:00:00", "stage1"]
    assert rows[2] == ["slice", "1", "0", "one process", "-", "stage1_2"]


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
