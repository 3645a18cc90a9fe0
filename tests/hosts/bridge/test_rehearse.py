# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A large recipe on Megatron-Bridge is rehearsed: its own jobs run as NeMo-Run starts them, and every check holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.bridge.recipes import recipe_of
from tests.rehearsal.test_rehearse import CHECKS, JOBS, WHYS, failures
from tests.workers import ROOT, environment


@pytest.fixture(params=["12b", "30b_a3b", "4b_sft"])
def rehearsal(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    from nemo_elastic.rehearsal.run import rehearsal_of

    return rehearsal_of(recipe_of(request.param), str(tmp_path))


def test_every_setting_that_differs_has_its_reason(rehearsal: Any) -> None:
    changed = rehearsal.changed
    assert {change.why for change in changed} == WHYS
    assert [job.name for job in rehearsal.job_reports()] == JOBS
    assert {change.name.split(": ")[0] for change in changed} == {"rank", "stage1", "stage2", "slice"}


def test_a_process_builds_the_job_that_was_compared(rehearsal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import fiddle

    from nemo_elastic.hosts.bridge.apply import ElasticRun
    from nemo_elastic.hosts.bridge.platform import bridge_on_this_machine
    from nemo_elastic.hosts.common.changes import settings
    from nemo_elastic.rehearsal import run
    from nemo_elastic.rehearsal.short import parent_run

    built: list[Any] = []
    monkeypatch.setattr(ElasticRun, "pretrain_to_logs", lambda job, _: built.append(job))
    monkeypatch.setattr("megatron.bridge.training.pretrain.pretrain", lambda config, _: built.append(config))
    family, scaled = rehearsal.family, rehearsal.scaled
    _, wanted = run.rehearsal_jobs(family, scaled, rehearsal.short)
    for name, job in list(rehearsal.jobs.items())[:-1]:
        fiddle.build(job.task)()
        (there,) = built
        built.clear()
        if name == "parent":
            recipe = family.parent_recipe(parent_run(scaled, rehearsal.short))
            with bridge_on_this_machine(recipe):
                assert settings(there) == settings(recipe)
        else:
            assert there.settings() == wanted[name], name
            stops = [one.stop_after for one in there.callbacks[1:]]
            assert stops == ([] if name == "rank" else [scaled.save_every + 1 if name == "stage1-killed" else None])


def test_a_budget_of_active_parameters_is_rehearsed(tmp_path: Path) -> None:
    from dataclasses import replace

    from nemo_elastic.rehearsal.run import rehearsal_of

    family = recipe_of("30b_a3b")
    block = family.config.to_dict()
    for budget, size in zip(block["budgets"][1:], (3.2e9, 2.4e9), strict=True):
        budget |= {"params": None, "ratio": None, "active_params": size}
    changed = rehearsal_of(replace(family, block=block), str(tmp_path)).changed
    whys = [one.why for one in changed if one.name.endswith("budgets[1].active_params")]
    assert whys == ["widths and vocabulary"] * 3


@pytest.mark.rehearsal
@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("name", ["9b", "30b_a3b", "4b_sft", "30b_a3b_sft"])
def test_the_command_rehearses_a_recipe(tmp_path: Path, name: str) -> None:
    # Bridge's own transformers has a nemotron_h
    env = environment(NEMORUN_HOME=str(tmp_path / "home"))
    env.pop("NEMO_ELASTIC_HF_PYTHON", None)
    out = tmp_path / "out"
    command = ["-m", "tests.support.bridge", "-m", "nemo_elastic", "rehearse", f"bridge/nemotron_elastic_{name}"]
    command += ["--out", str(out), "--ranks", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=5400
    )
    report = json.loads((out / "rehearsal.json").read_text()) if (out / "rehearsal.json").exists() else {}
    assert done.returncode == 0, failures(report) if report else done.stderr[-3000:]
    assert report["recipe"] == f"nemotron_elastic_{name}_bridge" and set(report["checks"]) == CHECKS
    assert all(check["ok"] is True for check in report["checks"].values()), failures(report)
    figures = report["checks"]["resumed"]
    assert 0 < figures["went_on_from"] <= figures["killed_after"] < figures["reached"] == 18


@pytest.mark.rehearsal
@pytest.mark.slow
@pytest.mark.dist
def test_members_keep_the_mtp_layer_of_a_parent_that_no_job_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's recipe with the block of the 30B; then the layer of its smallest member is trained."""
    from nemo_elastic.cli import drafting
    from nemo_elastic.core.prediction import is_mtp
    from nemo_elastic.formats.folders import open_source
    from nemo_elastic.slicing.verification import verify
    from tests.slicing.helpers import run

    env, out = environment(NEMORUN_HOME=str(tmp_path / "home")), tmp_path / "out"
    env.pop("NEMO_ELASTIC_HF_PYTHON", None)
    command = ["-W", "ignore", "-m", "tests.support.bridge", "-m", "tests.hosts.bridge.predicting", str(out)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=5400)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((out / "rehearsal.json").read_text())
    assert report["ok"], failures(report)
    members = {folder.name: folder for folder in (out / "members").glob("[!.]*")}
    family = open_source(out / "family")
    assert len(members) == 3 and family.mtp and family.config["num_nextn_predict_layers"] == 2
    for folder in members.values():
        assert len(open_source(folder).mtp) > 8 and verify(folder, parent=out / "family", forward=False).ok
    small = members[family.family.members[-1].name]
    for name, value in (("STEPS", 30), ("LENGTH", 64), ("MEASURED", 16)):
        monkeypatch.setattr(drafting, name, value)
    code, said, err = run("specialize", small, "--mtp", "--data", out / "data", "--out", tmp_path / "small", "--json")
    assert code == 0, err
    figures = json.loads(said)
    assert figures["after"]["acceptance"] > figures["before"]["acceptance"] + 0.1, figures
    assert any(map(is_mtp, open_source(tmp_path / "small").tensors))
