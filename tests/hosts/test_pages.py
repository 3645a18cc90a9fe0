# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The lines of Megatron-Bridge's page train on it: its command and its script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation import blocks, named_files
from tests.hosts.here import ON_NEMO, work_here
from tests.hosts.pages import BATCH, STEPS, in_small, paths, prepare
from tests.support.bridge import SITE
from tests.workers import ROOT, environment, free_port

pytestmark = [
    pytest.mark.nemo, pytest.mark.slow(minutes=4), pytest.mark.dist, pytest.mark.long,
    pytest.mark.skipif(ON_NEMO, reason="of NeMo's page the example for a CPU trains: nemo/cli/test_entry_points.py"),
]  # fmt: skip
PAGE = ROOT / "docs" / "bridge.md"
#: what makes the recipe narrow, in a script and before a command
NARROW = "import tests.hosts.small_stock"
#: what stands for what in the command's file
IN_COMMAND = {
    "train_iters: 5170": f"train_iters: {STEPS}",
    "global_batch_size: 1536": f"global_batch_size: {BATCH}",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("pages"))
    work_here("tests.hosts.small_stock", folder)
    return folder


def run(place: Path, *command: str) -> str:
    """In a process that imports all itself, and so do those in which a script is imported again."""
    own = {"NEMORUN_HOME": str(place / "home"), "PYTHONPATH": os.pathsep.join([str(SITE), str(ROOT)])}
    own["MASTER_PORT"] = str(free_port())  # without a launcher Bridge takes one port for all
    command = (sys.executable, "-W", "ignore", *command)
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=1800, env=environment(**own))
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def trained(out: Path, message: str) -> None:
    """What a run of Bridge's page has left: members of the teacher's vocabulary, which the tokenizer has not."""
    (metrics,) = out.rglob("metrics.jsonl")
    steps = [line for line in map(json.loads, metrics.read_text().splitlines()) if line["kind"] == "step"]
    assert len(steps) == STEPS
    assert list(out.rglob(f"iter_{STEPS:07d}/run_config.yaml")), sorted(out.rglob("*"))[:20]
    assert "model.vocab_size: None -> 512" in message


def test_the_script_of_the_page_trains(place: Path) -> None:
    (lines,) = blocks("python", page=PAGE)
    small = in_small(lines.text, paths(place) | {"5170, 1536": f"{STEPS}, {BATCH}"})
    (place / "train.py").write_text(f"{NARROW}\n{small}")
    trained(place / "runs", run(place, "train.py"))


def test_the_command_of_the_page_trains(place: Path) -> None:
    (words,) = (w for b in blocks("bash", page=PAGE) for w in b.commands() if w[:2] == ["nemo-elastic", "train"])
    text = named_files(PAGE)["run.yaml"]
    shown, *has_block = text.split("elastic:\n")
    small = in_small(shown, paths(place) | IN_COMMAND)
    block = (place / "conf" / "elastic_12b.yaml").read_text() if has_block else ""
    (place / "run.yaml").write_text(small.replace(f"{place}/runs", f"{place}/command") + block)
    program = f"{NARROW}; from nemo_elastic.cli import main; main({words[1:]!r})"
    trained(place / "command", run(place, "-c", program))
