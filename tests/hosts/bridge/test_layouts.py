# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family on Megatron-Bridge: every way to lay out two ranks against one, a kill, a second stage, a family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.megatron.stored import Stored
from nemo_elastic.hosts.common.checkpoints import BRIDGE, LIST
from tests.hosts.bridge.layouts import KILLED, PAIRS, REFUSED, WORLDS, measure
from tests.parallel.compare import identical, lines, losses, same
from tests.parallel.forks import measured
from tests.parallel.runs import BATCH, LENGTH, PEAK, SHAPE, VOCAB, Layout, left

pytestmark = [pytest.mark.slow(minutes=5), pytest.mark.dist]
place = measured(measure)


@pytest.mark.parametrize("name", PAIRS)
def test_two_ranks_train_what_one_does(place: Path, name: str) -> None:
    same(place / name, place / PAIRS[name].alone.name)


def test_a_vocabulary_is_the_teachers_in_every_layout(place: Path) -> None:
    whole = {name: Stored(place / name / "checkpoints").sizes for name in ("parent", "tp2-sp")}
    name = "embedding.word_embeddings.weight"
    assert whole["tp2-sp"][name] == whole["parent"][name] == (VOCAB, SHAPE["hidden_size"])


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_script_does_to_an_elastic_run_ends_it_in_one_line(results: dict[str, Any], name: str) -> None:
    assert f"error: {REFUSED[name]}" in said(results, "first", name)
    assert results["first"][name]["left"] == []


@pytest.mark.parametrize(("whole", "killed"), [names for *names, _ in KILLED])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    place: Path, results: dict[str, Any], whole: str, killed: str
) -> None:
    """On slices in bf16, or in the middle of a router's training."""
    assert "at iteration 3" in said(results, "again", killed)
    assert [line["step"] for line in lines(place / killed)] == [1, 2, 3, 4]
    identical(place / killed, place / whole)
    for when, name in (("first", whole), ("again", killed)):  # Bridge loads the ranking's checkpoint, or the run's own
        assert all(facts["read"] == ["teacher"] for facts in results[when][name]["facts"])


@pytest.mark.parametrize("name", ["whole", "cut-short", "stopped", "dp2", "pp2"])
def test_tokens_are_those_that_count_over_ranks_micro_batches_and_stops(place: Path, name: str) -> None:
    """A quarter of every sample is masked."""
    layout = PAIRS.get(name, Layout())
    per_step = BATCH * LENGTH * layout.micro_batches * 3 // 4
    for kind in ("step", "heldout"):
        actual = lines(place / name, kind)
        assert actual and [line["tokens"] for line in actual] == [per_step * line["step"] for line in actual]


def test_a_kill_between_two_files_of_a_save_costs_that_save_alone(place: Path, results: dict[str, Any]) -> None:
    (line,) = [line for line in said(results, "again", "cut-short").splitlines() if "is passed over" in line]
    assert "iter_0000003 is passed over: " in line and line.endswith("; the run resumes from iter_0000002")
    assert left(place / "cut-short") == ["damaged_iter_0000003", *(f"iter_000000{step}" for step in (1, 2, 3, 4))]
    identical(place / "cut-short", place / "whole")


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(place: Path, results: dict[str, Any]) -> None:
    assert results["first"]["full"]["left"] == ["iter_0000001", "iter_0000002"], "something half-written stays"
    (line,) = [x for x in said(results, "first", "full").splitlines() if x.startswith("error: ")]
    assert line.startswith(f"error: checkpoint: {place / 'full' / 'checkpoints' / 'iter_0000003'}: ")
    assert line.endswith("iter_0000002")
    assert "at iteration 2" in said(results, "again", "full")
    identical(place / "full", place / "whole")


def test_a_checkpoint_has_a_list_of_its_files(place: Path) -> None:
    newest = BRIDGE.finished(place / "dp2-soft-sharded" / "checkpoints")[-1]
    there = {str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file()}
    assert json.loads((newest / LIST).read_text())["files"].keys() == there - {LIST}


def test_as_many_are_kept_as_the_recipe_says(place: Path) -> None:
    assert left(place / "whole-soft") == ["iter_0000004"]
    assert open_source(place / "whole-soft" / "checkpoints").family is not None


def said(results: dict[str, Any], when: str, name: str) -> str:
    return results[when][name]["said"][0]


def test_a_run_that_has_ended_does_nothing(results: dict[str, Any]) -> None:
    """Bridge would write its last checkpoint again, over itself."""
    assert "has the end of this run; nothing is left to train" in results["ended"]["said"][0]
    assert not results["ended"]["changed"]


def test_a_run_that_is_stopped_leaves_a_checkpoint_and_goes_on(place: Path, results: dict[str, Any]) -> None:
    assert losses(place / "stopped") == losses(place / "whole")
    assert "at iteration 2" in said(results, "again", "stopped")


@pytest.mark.parametrize("world", WORLDS)
def test_autobridge_exports_a_family_in_training_as_the_slicer_does(place: Path, world: int) -> None:
    ours, theirs = (
        load_file(place / name) for name in ("parent-cut/model.safetensors", f"exported-{world}.safetensors")
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (tensor.dtype, tensor.shape) == (theirs[name].dtype, theirs[name].shape), name
        assert torch.equal(tensor, theirs[name]), name


def test_a_second_stage_goes_on_in_another_layout(place: Path) -> None:
    same(place / "second-dp2", place / "second")
    first, *_, last = lines(place / "second")
    assert (first["step"], last["step"]) == (1, 2)
    assert first["lr"] < PEAK and last["lr"] < first["lr"]  # the schedule goes on, too


def test_every_member_is_validated_each_time_on_the_same_data_and_once_at_the_end(place: Path) -> None:
    middle, last = lines(place / "whole", "heldout")
    (alone,) = lines(place / "cut-short", "heldout")
    assert (middle["step"], last["step"], alone["step"]) == (2, 4, 4)
    assert list(last["losses"]) == ["full", "large", "small"] and last["kl"].keys() == last["losses"].keys()
    assert last["losses"] == alone["losses"] != middle["losses"]
    assert len(set(last["losses"].values())) == 3


def test_a_stock_run_starts_from_what_convert_writes(place: Path, results: dict[str, Any]) -> None:
    assert f"successfully loaded checkpoint from {place / 'release'}" in results["stock"]["said"][0]
