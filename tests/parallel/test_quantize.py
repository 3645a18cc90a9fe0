# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Stage 3 in low precision: rounded weights, a kill, and two ranks against one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.formats.megatron.stored import Stored
from tests.parallel.compare import WEIGHT, apart, checkpoint, identical, lines
from tests.parallel.forks import measured
from tests.parallel.runs import Job, Layout, do, host, prepare

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]
SCHEME = "nvfp4" if host().__name__.endswith("bridge") else "fp8"
#: relative, of a loss: a weight of which two ranks have another last bit may round to the next value
ROUNDED = 5e-4
#: of whole blocks
AXES = {"hidden": [32, 16], "ffn": {"choices": [64, 32], "stripes": 2}, "attention_heads": [8, 4], "depth": [8, 7, 6]}
STEPS, STOP = 3, 2
TWO = Layout(tensor=2, sequence=True, micro_batches=2, searched=True)


def job(out: str, kind: str = "stage1", layout: Layout = TWO.alone, scheme: str | None = None, **more: Any) -> Job:
    changes: dict[str, Any] = {"axes": AXES}
    if scheme is not None:
        changes["distill"] = {"quantize": scheme}
    return Job(out, kind, layout, changes=changes, save_every=1, **more)


def third(out: str, scheme: str | None = SCHEME, **more: Any) -> Job:
    return job(out, "stage3", scheme=scheme, previous=("two", 1), steps=STEPS, **more)


def measure(place: Path, parts: Collection[str]) -> None:
    prepare(place, whole=False)
    do(place, job("rank-search", "rank"), job("one", steps=1), job("two", "stage2", steps=1, previous=("one", 1)))
    do(place, third("whole"), third("tp2", layout=TWO), third("full", None), third("killed", until=STOP),
       third("killed"))  # fmt: skip


place = measured(measure)


def test_steps_are_those_of_rounded_weights(place: Path) -> None:
    """What these are is in tests/megatron/test_rounding.py."""
    seen = set[str]()
    for ours, full in zip(lines(place / "whole"), lines(place / "full"), strict=True):
        names = {name for name in ours if name.startswith("loss_") or name == "grad_norm"}
        assert all(abs(ours[name] - full[name]) > 1e-5 * full[name] for name in names)
        seen |= names
    assert seen >= {"loss_large", "loss_small", "grad_norm"}


def test_every_stage_has_the_members_of_the_ranking(place: Path) -> None:
    runs = map(Stored, map(checkpoint, (place / "rank-search", place / "one", place / "two", place / "whole")))
    first, *later = (stored.read("elastic.codes") for stored in runs)
    assert first.any() and all(torch.equal(codes, first) for codes in later)


def test_two_ranks_round_as_one_does(place: Path) -> None:
    loss, weight = apart(place / "tp2", place / "whole")
    assert loss <= ROUNDED and weight <= WEIGHT


def test_a_killed_run_goes_on_as_an_uninterrupted_one(place: Path) -> None:
    identical(place / "killed", place / "whole")
