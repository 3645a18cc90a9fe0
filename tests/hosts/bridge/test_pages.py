# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The pages' own lines train on this host: those of the quick start, and the command of Megatron-Bridge's page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation import blocks, named_files
from tests.hosts.pages import BATCH, STEPS, in_small, only_smaller, paths, prepare
from tests.workers import ROOT, environment, free_port

pytest.importorskip("megatron.core.models.hybrid", reason="Megatron-Bridge has an environment of its own")
from tests.support.bridge import SITE, import_bridge

import_bridge()

pytestmark = [pytest.mark.slow(minutes=3), pytest.mark.dist]
NARROW = "import tests.hosts.bridge.small_stock"
#: what the pages' lines name beside what a rehearsal changes
DECLARED = (
    r"validation\.eval_iters", r"tokenizer\..*", r"model\.should_pad_vocab", r"dataset\.(blend|split|data_path).*",
    r"checkpoint\.(load|save|pretrained_checkpoint)", r"(teacher|previous|out|metrics)",
    r"model\.sequence_parallel",  # Bridge's recipe has it, on the ranks of one tensor
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("pages"))
    run(folder, "-m", "tests.hosts.bridge.small_stock", str(folder))
    return folder


def run(place: Path, *command: str) -> str:
    path = os.pathsep.join([str(SITE), str(ROOT)])
    port = str(free_port())  # without a launcher Bridge takes one port for all
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command], cwd=place, env=environment(PYTHONPATH=path, MASTER_PORT=port),
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def script(place: Path) -> tuple[str, str]:
    """The quick start's lines as they are, and scaled down."""
    page = ROOT / "docs" / "quickstart.md"
    (text,) = (b.text for b in blocks("python", page=page) if "megatron.bridge" in b.text)
    return text, f"{NARROW}\n" + in_small(text, paths(place) | {"5170, 1536": f"{STEPS}, {BATCH}"})


def trained(out: Path, message: str) -> None:
    """What a run of a page has left: members of the teacher's vocabulary, which the recipe's tokenizer has not."""
    lines = map(json.loads, (out / "checkpoints" / "metrics.jsonl").read_text().splitlines())
    assert len([line for line in lines if line["kind"] == "step"]) == STEPS
    assert (out / "checkpoints" / f"iter_{STEPS:07d}" / "run_config.yaml").is_file()
    assert "model.vocab_size: None -> 512" in message


def test_the_lines_of_the_quick_start_train(place: Path) -> None:
    (place / "train.py").write_text(script(place)[1])
    trained(place / "runs", run(place, "train.py"))


def compare(place: Path) -> None:
    """Hold settings of the page's lines against those at small scale."""
    changed = only_smaller(
        script(place), place, "bridge/nemotron_elastic_12b", lambda names: names["run"].settings(), *DECLARED
    )
    assert changed >= {"model.hidden_size", "train.train_iters"}


def test_the_lines_that_train_are_the_pages_but_for_what_a_rehearsal_changes(place: Path) -> None:
    run(place, "-c", f"import pathlib, {__name__} as pages; pages.compare(pathlib.Path({str(place)!r}))")


def test_the_command_of_the_page_trains(place: Path) -> None:
    page = ROOT / "docs" / "bridge.md"
    (words,) = (w for b in blocks("bash", page=page) for w in b.commands() if w[:2] == ["nemo-elastic", "train"])
    text = named_files(page)["run.yaml"]
    small = in_small(text[: text.index("elastic:\n")], paths(place) | {
        "train_iters: 5170": f"train_iters: {STEPS}", "global_batch_size: 1536": f"global_batch_size: {BATCH}",
    })  # fmt: skip
    (place / "run.yaml").write_text(
        small.replace(f"{place}/runs", f"{place}/command") + (place / "conf" / "elastic_12b.yaml").read_text()
    )
    output = run(place, "-c", f"{NARROW}; from nemo_elastic.cli import main; main({words[1:]!r})")
    trained(place / "command", output)
