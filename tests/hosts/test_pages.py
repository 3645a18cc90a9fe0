# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The lines of a host's page train on it: its command, the script of Megatron-Bridge, and the example for a CPU."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation import blocks, named_files
from tests.hosts.here import ON_NEMO, work_here
from tests.hosts.pages import BATCH, LENGTH, STEPS, in_small, paths, prepare
from tests.support.bridge import SITE
from tests.workers import ROOT, environment, free_port

pytestmark = [pytest.mark.nemo, pytest.mark.slow(minutes=4), pytest.mark.dist, pytest.mark.long]
PAGE = ROOT / "docs" / ("train.md" if ON_NEMO else "bridge.md")
#: what makes the host's recipe narrow, in a script and before a command
NARROW = "import tests.hosts.small_stock"
#: what stands for what in the command's file
IN_COMMAND = {
    "num_nodes: 16": "num_nodes: 1",
    "max_steps: 5170": f"max_steps: {STEPS}",
    "val_check_interval: 500": "val_check_interval: 2",
    "seq_length: 8192": f"seq_length: {LENGTH}",
    "global_batch_size: 1536": f"global_batch_size: {BATCH}",
} if ON_NEMO else {
    "train_iters: 5170": f"train_iters: {STEPS}",
    "global_batch_size: 1536": f"global_batch_size: {BATCH}",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("pages"))
    work_here("tests.hosts.small_stock", folder)
    return folder


def run(place: Path, *command: str) -> str:
    """In a process that imports all itself, and so do those in which a script is imported again."""
    return ended(place, [sys.executable, "-W", "ignore", *command])


def ended(place: Path, command: list[str]) -> str:
    own = {"NEMORUN_HOME": str(place / "home"), "PYTHONPATH": str(ROOT)}
    if not ON_NEMO:  # without a launcher Bridge takes one port for all
        own |= {"PYTHONPATH": os.pathsep.join([str(SITE), str(ROOT)]), "MASTER_PORT": str(free_port())}
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=1800, env=environment(**own))
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def trained(out: Path, message: str) -> None:
    """What a run of a page has left, on Bridge members of the teacher's vocabulary, which the tokenizer has not."""
    (metrics,) = out.rglob("metrics.jsonl")
    steps = [line for line in map(json.loads, metrics.read_text().splitlines()) if line["kind"] == "step"]
    assert len(steps) == STEPS
    assert list(out.rglob("*-last" if ON_NEMO else f"iter_{STEPS:07d}/run_config.yaml")), sorted(out.rglob("*"))[:20]
    assert ("apply_elastic changes the recipe:" if ON_NEMO else "model.vocab_size: None -> 512") in message


@pytest.mark.skipif(ON_NEMO, reason="tests/hosts/nemo/cli/test_entry_points.py runs the scripts of NeMo")
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


@pytest.mark.skipif(not ON_NEMO, reason="the example is NeMo's")
def test_the_example_for_a_cpu_ends_with_a_family(tmp_path: Path) -> None:
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    (block,) = (b for b in blocks("bash", page=PAGE) if "nemotron_elastic_tiny" in b.text)
    shell = in_small(block.text, {"data=data,": f"data=data,steps={STEPS},seq_length=64,"})
    for words in block.commands():
        assert words[0] in ("nemo", "nemo-elastic")
    named = {w: shlex.quote(str(Path(sys.executable).parent / w)) for w in ("nemo-elastic", "nemo")}
    lines = [f"{named[first]} {rest}" for first, _, rest in (line.partition(" ") for line in shell.splitlines())]
    ended(tmp_path, ["/bin/bash", "-ec", "\n".join(lines)])
    assert (tmp_path / "family" / "elastic.json").is_file()
