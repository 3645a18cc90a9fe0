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


def job(id: str, nodes: int | None = 2, time: str = "04:00:00", recompute: str | None = "full") -> Any:
    """As much of NeMo-Run's job as is shown; without nodes one that trains nothing."""
    strategy = SimpleNamespace(tensor_model_parallel_size=4, pipeline_model_parallel_size=2, sequence_parallel=True)
    task = SimpleNamespace(
        trainer=SimpleNamespace(num_nodes=nodes, devices=8, strategy=strategy),
        model=SimpleNamespace(config=SimpleNamespace(recompute_granularity=recompute)),
    )
    executor = SimpleNamespace(time=time) if nodes else SimpleNamespace()
    return SimpleNamespace(id=id, task=SimpleNamespace(task=task if nodes else object()), executor=executor)


def shown(capsys: pytest.CaptureFixture[str], jobs: list[Any], titles: list[str], estimates: Any) -> list[list[str]]:
    """Cells of each row."""
    from nemo_elastic.hosts.nemo.recipe.preview import show

    show(jobs, titles, estimates, Path("dry"))
    out = capsys.readouterr().out
    assert out.startswith(f"{len(jobs)} jobs; nothing is submitted. Files: dry")
    return [[cell for cell in line.strip().split("  ") if cell] for line in out.splitlines()]


def cells(row: list[str]) -> list[str]:
    return [cell.strip() for cell in row]


def test_a_job_is_shown_with_its_gpus_layout_estimate_and_limit(capsys: Any) -> None:
    from nemo_elastic.hosts.nemo.recipe.preview import Estimate

    rows = shown(capsys, [job("stage1")], ["stage1"], {"stage1": Estimate(61.2e9, 3.14159)})
    assert cells(rows[-2]) == ["stage1", "2", "16", "TP4 PP2 DP2 SP recompute", "61.2", "3.14", "04:00:00", "-"]
    assert "planner's estimates" in rows[-1][0]


def test_later_turns_of_a_job_go_on_after_the_one_before(capsys: Any) -> None:
    from nemo_elastic.hosts.nemo.recipe.preview import Estimate

    jobs, estimate = [job("stage1"), job("stage1_2", recompute=None)], {"stage1": Estimate(1e9, 3.0)}
    first, second = map(cells, shown(capsys, jobs, ["stage1", "stage1"], estimate)[-3:-1])
    assert (first[5], first[7]) == ("3", "-") and (second[5], second[7]) == ("goes on", "stage1")
    assert second[3] == "TP4 PP2 DP2 SP"


def test_what_nothing_estimates_has_a_dash_and_the_least_memory_is_told_as_such(capsys: Any) -> None:
    from nemo_elastic.hosts.nemo.recipe.preview import Estimate

    rows = shown(capsys, [job("rank"), job("slice", None)], ["rank", "slice"], {"rank": Estimate(24e9, least=True)})
    assert cells(rows[-2])[4:6] == ["from 24.0", "-"]
    assert cells(rows[-1]) == ["slice", "1", "0", "one process", "-", "-", "-", "rank"]


def test_a_dry_run_leaves_commands_that_a_shell_runs_as_they_are(tmp_path: Path) -> None:
    import nemo_run as run

    from nemo_elastic.hosts.nemo.recipe.preview import write

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
    told = subprocess.run(["sh", "-c", f'{exports}printf %s "$SAID"'], capture_output=True, text=True, check=True)
    assert told.stdout == "it's $HOME"
