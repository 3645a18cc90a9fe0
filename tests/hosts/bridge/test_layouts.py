# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family on Megatron-Bridge: every way to lay out two ranks against one, a kill, a second stage, a family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nemo_elastic.formats.megatron.context import read_context
from nemo_elastic.formats.megatron.stored import Stored
from nemo_elastic.formats.registry import open_source
from tests.hosts.bridge.layouts import PAIRS, lines, losses, ranks, same, train_all
from tests.hosts.bridge.runs import Job
from tests.parallel.runs import PEAK
from tests.workers import work

pytestmark = [pytest.mark.slow, pytest.mark.dist]
pytest.importorskip("megatron.core.models.hybrid", reason="Megatron-Bridge has an environment of its own")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bridge")
    train_all(place)
    return place


@pytest.mark.parametrize("name", PAIRS)
def test_two_ranks_train_what_one_does(place: Path, name: str) -> None:
    same(place / name, place / f"{name}-alone")


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(place: Path) -> None:
    told = (place / "again.log").read_text()
    assert "at iteration 3" in told
    assert losses(place / "killed") == losses(place / "whole")
    assert [line["step"] for line in lines(place / "killed")] == [1, 2, 3, 4]
    found, wanted = (Stored(place / name / "checkpoints").held() for name in ("killed", "whole"))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())


def test_a_second_stage_goes_on_in_another_layout(place: Path) -> None:
    same(place / "second-dp2", place / "second")
    first, *_, last = lines(place / "second")
    assert (first["step"], last["step"]) == (1, 2)
    assert first["lr"] < PEAK and last["lr"] < first["lr"]  # the schedule goes on, too


def test_every_member_is_validated_each_time_on_the_same_data(place: Path) -> None:
    first, again = lines(place / "whole", "heldout")  # at the last step, and at the end of the run
    assert list(first["losses"]) == ["full", "large", "small"] and first["kl"].keys() == first["losses"].keys()
    assert first["losses"] == again["losses"]
    assert len(set(first["losses"].values())) == 3


def test_a_checkpoint_is_a_family_with_its_block(place: Path) -> None:
    source = open_source(place / "whole" / "checkpoints")
    assert source.family is not None and [m.name for m in source.family] == ["full", "large", "small"]
    block = read_context(place / "whole" / "checkpoints").elastic
    assert block is not None and block["budgets"][2] == {"name": "small", "ratio": 0.65} | {
        k: v for k, v in block["budgets"][2].items() if k not in ("name", "ratio")
    }


def test_a_stock_run_starts_from_what_convert_writes(place: Path) -> None:
    work(
        "nemo_elastic", "convert", place / "whole" / "checkpoints", "--format", "megatron", "--out", place / "release"
    )
    job = Job(str(place / "started"), kind="parent", steps=1, ranked=str(place / "release"))
    assert ranks(place, "started", [job]) == [0]
    assert f"successfully loaded checkpoint from {place / 'release'}" in (place / "started.log").read_text()
