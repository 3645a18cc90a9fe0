# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The pages' own lines train: those of the quick start, of the first page, and the example for a CPU."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation import blocks, named_files
from tests.hosts.pages import BATCH, LENGTH, STEPS, in_small, only_smaller, paths, prepare
from tests.workers import ROOT, environment, work

pytestmark = [pytest.mark.nemo, pytest.mark.slow(minutes=4), pytest.mark.dist]
QUICK_START, FIRST = ROOT / "docs" / "quickstart.md", ROOT / "docs" / "index.md"
#: what makes NeMo's recipe narrow, in a script and before a command
NARROW = "import tests.hosts.nemo.small_stock"
#: what the pages' lines name beside what a rehearsal changes
DECLARED = (
    r"log\.log_dir", r"trainer\.callbacks\[ModelCheckpoint\]\.every_n_train_steps", r"data\.(paths|split).*",
    r"(model|data)\.tokenizer.*", r"trainer\.callbacks\[\w+\]\.(out|path)",
    r"trainer\.strategy\.sequence_parallel",  # NeMo's recipe has it, on the ranks of one tensor
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("pages"))
    work("tests.hosts.nemo.small_stock", folder)
    return folder


def script(place: Path) -> tuple[str, str]:
    """The quick start's lines as they are, and scaled down."""
    (text,) = (b.text for b in blocks("python", page=QUICK_START) if "llm.nemotron_nano_12b_v2" in b.text)
    return text, in_small(text, paths(place) | {
        "from nemo.collections import llm\n": f"from nemo.collections import llm\n{NARROW}\n",
        "num_nodes=16": "num_nodes=1",
        "max_steps=5170": f"max_steps={STEPS}",
        "val_check_interval=500": "val_check_interval=2",
        "seq_length=8192": f"seq_length={LENGTH}",
        "global_batch_size=1536": f"global_batch_size={BATCH}",
    })  # fmt: skip


def trained(place: Path, out: Path) -> None:
    """What a run of a page has left."""
    (metrics,) = out.rglob("metrics.jsonl")
    steps = [line for line in map(json.loads, metrics.read_text().splitlines()) if line["kind"] == "step"]
    assert len(steps) == STEPS
    assert [p for p in out.rglob("*-last") if p.is_dir()], sorted(out.rglob("*"))[:20]


def run(place: Path, *command: str) -> str:
    """In a process that imports all itself, and so do those in which a script is imported again."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command], cwd=place, capture_output=True, text=True, timeout=1800,
        env=environment(NEMORUN_HOME=str(place / "home"), PYTHONPATH=str(ROOT)),
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.mark.long
def test_the_lines_of_the_quick_start_train(place: Path) -> None:
    (place / "train.py").write_text(script(place)[1])
    output = run(place, "train.py")
    assert "apply_elastic changes the recipe:" in output
    trained(place, place / "runs")


def compare(place: Path) -> None:
    """Hold settings of the page's lines against those at small scale."""
    from nemo_elastic.hosts.common.changes import settings

    changed = only_smaller(
        script(place), place, "nemotron_elastic_12b", lambda names: settings(names["recipe"]), *DECLARED
    )
    assert changed >= {"model.config.hidden_size", "trainer.max_steps"}


def test_the_lines_that_train_are_the_pages_but_for_what_a_rehearsal_changes(place: Path) -> None:
    work("tests.hosts.nemo.test_pages", place)


@pytest.mark.long
def test_the_first_pages_command_trains(place: Path) -> None:
    (words,) = (w for b in blocks("bash", page=FIRST) for w in b.commands() if w[:2] == ["nemo-elastic", "train"])
    text = named_files(FIRST)["run.yaml"]
    own, block = text.index("elastic:\n"), (place / "conf" / "elastic_12b.yaml").read_text()
    small = in_small(text[:own], paths(place) | {
        "num_nodes: 16": "num_nodes: 1",
        "max_steps: 5170": f"max_steps: {STEPS}",
        "val_check_interval: 500": "val_check_interval: 2",
        "seq_length: 8192": f"seq_length: {LENGTH}",
        "global_batch_size: 1536": f"global_batch_size: {BATCH}",
        "/runs": "/first",
    })  # fmt: skip
    (place / "run.yaml").write_text(small + block)
    program = f"{NARROW}; from nemo_elastic.cli import main; main({words[1:]!r})"
    assert "apply_elastic changes the recipe:" in run(place, "-c", program)
    trained(place, place / "first")


@pytest.mark.long
def test_the_example_for_a_cpu_ends_with_a_family(tmp_path: Path) -> None:
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    (block,) = (b for b in blocks("bash", page=ROOT / "docs" / "cli.md") if "nemotron_elastic_tiny" in b.text)
    shell = in_small(block.text, {"data=data,": f"data=data,steps={STEPS},seq_length=64,"})
    for words in block.commands():
        assert words[0] in ("nemo", "nemo-elastic")
    named = {w: shlex.quote(str(Path(sys.executable).parent / w)) for w in ("nemo-elastic", "nemo")}
    lines = [f"{named[first]} {rest}" for first, _, rest in (line.partition(" ") for line in shell.splitlines())]
    done = subprocess.run(
        ["/bin/bash", "-ec", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, timeout=1800,
        env=environment(NEMORUN_HOME=str(tmp_path / "home"), PYTHONPATH=str(ROOT)),
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert (tmp_path / "family" / "elastic.json").is_file()


if __name__ == "__main__":
    compare(Path(sys.argv[1]))
