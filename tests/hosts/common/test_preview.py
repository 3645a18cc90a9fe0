# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a dry run; its table, and what is written for real recipes, is in `tests/recipes/test_executors.py`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.nemo


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
