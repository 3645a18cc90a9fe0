# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where jobs run, when that is this machine."""

from __future__ import annotations

import gc
import logging
import os
import sys
from pathlib import Path

import pytest

from nemo_elastic.errors import ElasticError

pytestmark = pytest.mark.nemo


@pytest.mark.parametrize(("devices", "processes"), [(0, 1), (4, 4)])
def test_every_gpu_has_a_process_and_a_job_without_gpus_one(devices: int, processes: int) -> None:
    from nemo_elastic.hosts.common.experiment import local_executor

    executor = local_executor(1, devices)
    assert (executor.ntasks_per_node, executor.launcher) == (processes, "torchrun")


def test_torchrun_is_found_beside_python_before_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_elastic.hosts.common.experiment import local_executor

    monkeypatch.setenv("PATH", "/usr/bin")
    path = local_executor(1, 1).env_vars["PATH"].split(os.pathsep)
    assert path == [str(Path(sys.executable).parent), "/usr/bin"]


def test_more_than_this_machine_is_refused() -> None:
    from nemo_elastic.hosts.common.experiment import local_executor

    with pytest.raises(ElasticError, match=r"^num_nodes: 2 "):
        local_executor(2, 8)


def test_what_is_logged_afterwards_goes_where_it_went_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment of NeMo-Run's sends the root logger to stdout, where `--json` prints."""
    import nemo_run as run

    from nemo_elastic.hosts.common.curriculum_run import Job
    from nemo_elastic.hosts.common.experiment import local_executor, run_jobs

    monkeypatch.setattr("nemo_run.config._NEMORUN_HOME", str(tmp_path))
    root, own = logging.getLogger(), logging.NullHandler()
    monkeypatch.setattr(root, "handlers", [own])
    run_jobs("name", {"job": Job(run.Partial(dict))}, local_executor, dryrun=str(tmp_path / "dry"))
    gc.collect()
    assert root.handlers == [own] and root.level == logging.WARNING
