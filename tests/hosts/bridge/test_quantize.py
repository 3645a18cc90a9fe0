# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Stage 3 in low precision on Megatron-Bridge: its steps, a kill, and two ranks against one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.formats.megatron.stored import Stored
from tests.hosts.bridge.layouts import do, lines, losses, same
from tests.hosts.bridge.runs import Job
from tests.parallel.runs import Layout

pytestmark = [pytest.mark.slow, pytest.mark.dist]
pytest.importorskip("megatron.core.models.hybrid", reason="Megatron-Bridge has an environment of its own")

#: of whole blocks
AXES = {"hidden": [32, 16], "ffn": {"choices": [64, 32], "stripes": 2}, "attention_heads": [8, 4], "depth": [8, 7, 6]}
STEPS, STOP = 3, 2
TWO = Layout(tensor=2, sequence=True, micro_batches=2, halved=True)


def job(
    place: Path, name: str, kind: str, *, scheme: str | None = None, layout: Layout = TWO.alone, **more: Any
) -> Job:
    changes: dict[str, Any] = {"axes": AXES}
    if scheme is not None:
        changes["distill"] = {"mode": "frozen", "quantize": scheme}
    teacher = None if kind == "parent" else str(place / "parent" / "checkpoints")
    return Job(str(place / name), kind=kind, layout=layout, teacher=teacher, changes=changes, **more)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("quantize")

    def third(name: str, scheme: str | None = "nvfp4", **more: Any) -> Job:
        how = {"steps": STEPS, "save_every": 1} | more
        return job(place, name, "stage3", scheme=scheme, done=2, previous=str(place / "two" / "checkpoints"), **how)

    one = str(place / "one" / "checkpoints")
    do(place, "first", [
        job(place, "parent", "parent", steps=2),
        job(place, "rank", "rank", steps=2),
        job(place, "one", "stage1", steps=1, ranked=str(place / "rank" / "checkpoints")),
        job(place, "two", "stage2", steps=1, done=1, previous=one),
        third("whole"),
        third("tp2", layout=TWO),
        third("rounded", None, steps=1, rounded="nvfp4"),
        third("full", None, steps=1),
        third("killed", until=STOP),
    ])  # fmt: skip
    do(place, "again", [third("killed")])
    return place


def test_a_first_step_is_that_of_weights_rounded_beforehand(place: Path) -> None:
    """Its losses, and its gradients, which are those of the rounded weights."""
    ours, rounded, full = (lines(place / name)[0] for name in ("whole", "rounded", "full"))
    names = [name for name in ours if "loss" in name] + ["grad_norm"]
    assert len(names) > 2 and all(ours[name] == pytest.approx(rounded[name], rel=1e-6) for name in names)
    assert all(abs(ours[name] - full[name]) > 1e-4 * full[name] for name in names if name != "loss_full")


def test_a_stage_of_one_step_ends_with_its_last_comparison(place: Path) -> None:
    frozen = json.loads((place / "one" / "checkpoints" / "elastic" / "members.json").read_text())
    assert frozen["report"] == {"source": "halving", "step": 1}
    first, *later = (Stored(place / run / "checkpoints").read("elastic.codes")[0] for run in ("one", "two", "whole"))
    assert first.any() and all(torch.equal(codes, first) for codes in later)


def test_two_ranks_round_as_one_does(place: Path) -> None:
    same(place / "tp2", place / "whole")


def test_a_killed_run_goes_on_as_an_uninterrupted_one(place: Path) -> None:
    assert losses(place / "killed") == losses(place / "whole")
    actual, wanted = (Stored(place / name / "checkpoints").held() for name in ("killed", "whole"))
    assert actual.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in actual.items())
