# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The ranking as a NeMo job: killed in the middle it goes on, and it measures no drop that the block cannot use."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_elastic.ranking import Ranking
from tests.workers import environment

from .rank_worker import BLOCK

pytestmark = [pytest.mark.nemo, pytest.mark.slow, pytest.mark.long]


def run(folder: Path, name: str, *save: str) -> tuple[int, str]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.hosts.nemo.rank_worker",
        str(folder),
        str(folder / name),
        *save,
    ]
    done = subprocess.run(command, env=environment(), cwd=folder, capture_output=True, text=True, timeout=1800)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rank")
    code, said = run(folder, "whole")
    assert code == 0, said[-5000:]
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_only_the_drops_of_the_smallest_depth_are_measured(folder: Path) -> None:
    ranking = Ranking.load(folder / "whole" / "elastic" / "ranking")
    assert ranking.options.depth_exact == 12 - min(BLOCK["axes"]["depth"]) == 3
    assert ranking.options.head_channels == min(BLOCK["axes"]["mamba_head_dim"]) < 16
    assert sorted(ranking.depth) == list(range(12)) and None not in ranking.depth_scores
    assert ranking.provenance == {"samples": 8, "tokens": 8 * 64, "sequences": 8, "length": 64}


def test_a_killed_job_goes_on_to_the_same_bytes(folder: Path) -> None:
    code, said = run(folder, "killed", "6")  # after four batches and a layer
    assert code == -signal.SIGKILL, said[-5000:]
    elastic = folder / "killed" / "elastic"
    unfinished = elastic / "ranking.unfinished-tp1-dp1-0.safetensors"
    assert unfinished.exists() and not (elastic / "ranking").exists()
    code, said = run(folder, "killed")
    assert code == 0, said[-5000:]
    assert f"{unfinished}: going on after 4 batches and 1 dropped layers" in said
    assert "ranking: widths" not in said and "ranking: depth 3/3" in said
    assert files(elastic / "ranking") == files(folder / "whole" / "elastic" / "ranking")
    assert sorted(p.name for p in elastic.iterdir()) == ["ranking", "shapes.json"]
    assert (folder / "killed" / "ranked").exists()
