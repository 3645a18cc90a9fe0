# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo and Megatron-Bridge train the same from the same tiny parent, data and seeds, on one rank each."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from tests.parallel.bridge import STARTED_BY
from tests.parallel.compare import checkpoint, same
from tests.parallel.runs import Job, Layout, do, host, prepare
from tests.workers import ROOT, environment, work

NEMO = Path(os.environ.get("NEMO_ELASTIC_PYTHON") or ROOT / ".venv" / "bin" / "python")
pytestmark = [
    pytest.mark.slow(minutes=3),
    pytest.mark.dist,
    pytest.mark.skipif(not NEMO.exists(), reason="NeMo's environment is missing: make venv"),
]
#: two micro-batches a step, so that one step samples several budgets
JOBS = {
    "searched": Layout(micro_batches=2, searched=True),
    "soft": Layout(micro_batches=2, soft=True),
}
STEPS = 4


def measure(place: Path, parts: Collection[str]) -> None:
    """Train with this host; the first of the two makes data and parent."""
    if not (place / "parent").exists():
        prepare(place, whole=False)
    name, teacher = host().__name__.rpartition(".")[2], checkpoint(place / "parent")
    jobs = (Job(f"{name}-{what}", layout=layout, steps=STEPS, ranked=None, teacher=teacher)
            for what, layout in JOBS.items())  # fmt: skip
    do(place, *jobs)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("both")
    forks = ("tests.parallel.forks", __name__, "measure", folder)
    command = [NEMO, "-W", "ignore", "-m", *forks]
    subprocess.run([*map(str, command)], cwd=ROOT, env=environment(), check=True)
    work(*STARTED_BY, *forks)
    return folder


@pytest.mark.parametrize("what", JOBS)
def test_both_train_the_same(place: Path, what: str) -> None:
    same(place / f"bridge-{what}", place / f"nemo-{what}")


def test_a_member_cut_from_either_format_has_the_same_bytes(place: Path, tmp_path: Path) -> None:
    from nemo_elastic.formats.folders import open_source
    from nemo_elastic.megatron.dist_checkpoint import write_cut
    from nemo_elastic.slicing.slicer import slice_checkpoint

    source = open_source(checkpoint(place / "nemo-searched"))
    assert source.family is not None
    member = list(source.family)[-1].subnet
    write_cut(source, tmp_path / "megatron", force=True)
    # a stock checkpoint does not say how many stripes the FFN was sorted in
    other = replace(open_source(tmp_path / "megatron"), parent=source.parent, subnet=source.parent.full)
    for name, origin in (("a", source), ("b", other)):
        slice_checkpoint(origin, tmp_path / name, subnet=member)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert first == second
