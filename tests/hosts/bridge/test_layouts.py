# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family on Megatron-Bridge: every way to lay out two ranks against one, a kill, a second stage, a family."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.megatron.context_files import read_context
from nemo_elastic.formats.megatron.stored import Stored
from nemo_elastic.hosts.bridge.saved import BRIDGE, step_of
from nemo_elastic.hosts.common.checkpoints import LIST
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.hosts.bridge.layouts import (
    ALONE,
    CUT_SHORT,
    DAMAGED,
    HALVED,
    JOINED,
    KILLED,
    PACKED,
    PAIRS,
    REFUSED,
    do,
    lines,
    losses,
    packed_alone,
    processes,
    same,
    train_all,
    went_on,
)
from tests.hosts.bridge.runs import CONVERSATIONS, Job
from tests.parallel.runs import BATCH, LENGTH, PEAK, SHAPE, VOCAB, Layout
from tests.workers import work

pytestmark = [pytest.mark.slow(minutes=5), pytest.mark.dist]
pytest.importorskip("megatron.core.models.hybrid", reason="Megatron-Bridge has an environment of its own")


#: runs of several candidates
HALVING = [name for name, layout in (PAIRS | PACKED).items() if layout.halved] + ["whole", "stopped", "whole-half"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bridge")
    train_all(place)
    return place


@pytest.mark.parametrize("name", PAIRS)
def test_two_ranks_train_what_one_does(place: Path, name: str) -> None:
    same(place / name, place / f"{name}-alone")


@pytest.mark.parametrize("name", PACKED)
def test_two_ranks_train_on_packed_documents_what_one_does(place: Path, name: str) -> None:
    same(place / name, place / packed_alone(name))


def test_packed_documents_are_apart_unless_the_block_joins_them(place: Path) -> None:
    apart, joined = (losses(place / name)[0]["loss_large"] for name in (ALONE, JOINED))
    assert abs(apart - joined) > 1e-5, "runs of other ranks are 1e-7 apart"
    counted = [line["tokens"] for line in lines(place / ALONE)]
    assert 0 < counted[0] < counted[1] < 2 * 4 * LENGTH, "prompts do not count"


def test_a_vocabulary_is_the_teachers_in_every_layout(place: Path) -> None:
    whole = {name: Stored(place / name / "checkpoints").sizes for name in ("parent", "tp2-sp")}
    name = "embedding.word_embeddings.weight"
    assert whole["tp2-sp"][name] == whole["parent"][name] == (VOCAB, SHAPE["hidden_size"])


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_script_does_to_an_elastic_run_ends_it_in_one_line(place: Path, name: str) -> None:
    assert f"error: {REFUSED[name]}" in (place / "first.log").read_text()
    assert not list((place / name / "checkpoints").glob("iter_*"))


@pytest.mark.parametrize(("whole", "killed"), [names for *names, _ in KILLED])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(place: Path, whole: str, killed: str) -> None:
    """From where the last comparison is due, or in the middle of a router's training."""
    assert "at iteration 3" in said(place, "again", killed)
    assert [line["step"] for line in lines(place / killed)] == [1, 2, 3, 4]
    went_on(place, whole, killed)


@pytest.mark.parametrize("name", HALVING)
def test_candidates_train_in_turn_until_one_of_each_budget_is_left(place: Path, name: str) -> None:
    """Numbers and losses in lines, checkpoint and `members.json` are of the candidates that the ranking left."""
    run = place / name
    found = json.loads((place / "rank-halving" / "checkpoints" / "elastic" / "shapes.json").read_text())
    given: dict[str, list[Any]] = found["report"]["candidates"]
    steps, budgets = lines(run), {"large"} if name in PACKED else {"large", "small"}
    live, measured = {name: range(len(own)) for name, own in given.items()}, {}
    assert list(live) == ["large", "small"] and all(2 <= len(own) <= 4 for own in live.values())
    cuts = {4: [1, 3], 2: [1]}[len(steps)]
    for at, line in enumerate(steps):
        assert ("compared" in line) == (at in cuts)
        if at in cuts:
            measured = {n: {int(k): loss for k, loss in own.items()} for n, own in line["compared"].items()}
            assert all(len(own) == len(live[n]) if at == cuts[0] else 0 < len(own) <= 2 for n, own in measured.items())
            live = {n: list(own) for n, own in measured.items()}
        ran = line.get("candidates", {})
        assert ran.keys() <= budgets and (not ran or at < cuts[-1])
        assert all(set(own) <= set(live[n]) for n, own in ran.items())
    assert any("candidates" in line for line in steps)
    frozen = json.loads((run / "checkpoints" / "elastic" / "members.json").read_text())
    assert frozen["report"] == {"source": "halving", "step": cuts[-1]}
    (stored,) = Stored(run / "checkpoints").read("elastic.losses")
    for losses_, (budget, own) in zip(stored.view(torch.float64)[1:].tolist(), measured.items(), strict=True):
        (number,) = (n for n, loss in enumerate(losses_) if loss == loss)
        assert losses_[number] == own[number] and frozen["members"][budget] == given[budget][number]


def test_a_killed_run_that_wraps_its_data_goes_on_as_an_uninterrupted_one(place: Path) -> None:
    """Six steps of four rows: of fewer conversations, several to a row."""
    assert CONVERSATIONS < 6 * 4 and losses(place / "wraps-killed") == losses(place / "wraps")
    assert [line["step"] for line in lines(place / "wraps-killed")] == [1, 2, 3, 4, 5, 6]
    actual, wanted = (Stored(place / name / "checkpoints").held() for name in ("wraps-killed", "wraps"))
    assert actual.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in actual.items())


@pytest.mark.parametrize("name", ["whole", "killed", "stopped", "dp2", "pp2", "pp2-alone"])
def test_tokens_are_those_that_count_over_ranks_micro_batches_and_stops(place: Path, name: str) -> None:
    """A quarter of every sample is masked."""
    layout = PAIRS.get(name.removesuffix("-alone"), Layout())
    per_step = BATCH * LENGTH * layout.micro_batches * 3 // 4
    for kind in ("step", "heldout"):
        actual = lines(place / name, kind)
        assert actual and [line["tokens"] for line in actual] == [per_step * line["step"] for line in actual]


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_checkpoint_is_passed_over(place: Path, name: str) -> None:
    """The newest whole one is taken, with one line, and what comes of it is what comes of no damage."""
    left = place / name / "checkpoints"
    why = f"iter_0000003 is passed over: {DAMAGED[name]}; the run goes on from iter_0000002"
    assert re.fullmatch(why, passed_over(place, name))
    assert folders(left) == {"damaged_iter_0000003", *(f"iter_000000{step}" for step in (1, 2, 3, 4))}
    ends_as_the_whole_one(place, name)


@pytest.mark.parametrize("name", CUT_SHORT)
def test_a_kill_between_two_files_of_a_save_costs_that_save_alone(place: Path, name: str) -> None:
    step, line = CUT_SHORT[name]
    assert passed_over(place, name) == line
    assert folders(place / name / "checkpoints") == {
        f"damaged_iter_000000{step}", *(f"iter_000000{each}" for each in (1, 2, 3, 4)),
    }  # fmt: skip
    ends_as_the_whole_one(place, name)


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(place: Path) -> None:
    assert folders(place / "full-left") == {"iter_0000001", "iter_0000002"}, "something half-written stays"
    assert not list((place / "full-left").glob("unfinished_*"))
    (line,) = [x for x in said(place, "first", "full").splitlines() if x.startswith("error: ")]
    assert line.startswith(
        f"error: checkpoint: {place / 'full' / 'checkpoints' / 'iter_0000003'}: cannot be written ("
    )
    assert "GB are free there); the next start goes on from " in line and line.endswith("iter_0000002")
    assert "at iteration 2" in said(place, "again", "full")
    ends_as_the_whole_one(place, "full")


@pytest.mark.parametrize("name", ["whole", "dp2-soft-sharded"])
def test_a_checkpoint_has_a_list_of_its_files(place: Path, name: str) -> None:
    newest = BRIDGE.finished(place / name / "checkpoints")[-1]
    there = {str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file()}
    assert json.loads((newest / LIST).read_text())["files"].keys() == there - {LIST}


def test_as_many_are_kept_as_the_recipe_says(place: Path) -> None:
    run = place / "kept" / "checkpoints"
    assert folders(run) == {"iter_0000004"}
    assert open_source(run).family is not None


def passed_over(place: Path, name: str) -> str:
    """The one line of a start that says so."""
    (line,) = [line for line in said(place, "again", name).splitlines() if "is passed over" in line]
    return line.removeprefix("  resume: ")


def said(place: Path, when: str, name: str) -> str:
    return (place / f"{when}.ranks" / name / "rank0.log").read_text()


def folders(run: Path) -> set[str]:
    return {path.name for path in run.glob("*iter_*") if path.is_dir() and not path.is_symlink()}


def ends_as_the_whole_one(place: Path, name: str) -> None:
    assert losses(place / name) == losses(place / "whole")
    left, wanted = (Stored(place / run / "checkpoints").held() for run in (name, "whole"))
    assert left.keys() == wanted.keys() and all(torch.equal(value, wanted[n]) for n, value in left.items())


def test_what_is_wrong_with_a_checkpoint_and_which_is_taken(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "checkpoints"
    shutil.copytree(place / "killed" / "checkpoints", run)
    for listed in run.glob(f"*/{LIST}"):  # as Bridge saves alone
        listed.unlink()
    assert [step_of(p) for p in BRIDGE.finished(run)] == [1, 2, 3, 4]
    assert BRIDGE.choose(run) == (run / "iter_0000004", [])
    os.truncate(run / "iter_0000004" / "train_state.pt", 100)
    (run / "iter_0000003" / "run_config.yaml").unlink()
    (run / "iter_0000002" / ".metadata").unlink()
    chosen, passed = BRIDGE.choose(run)
    assert chosen == run / "iter_0000001"
    assert [line.partition(";")[0].partition(" is passed over: ")[::2] for line in passed][:2] == [
        ("iter_0000003", "it was not written to its end"), ("iter_0000004", "train_state.pt is cut off"),
    ]  # fmt: skip
    assert len(passed) == 3
    (run / "iter_0000001" / "train_state.pt").unlink()
    with pytest.raises(ElasticError, match=r"iter_0000001 is passed over: train_state\.pt is missing; no other"):
        BRIDGE.choose(run)


def test_a_run_that_has_ended_does_nothing(place: Path) -> None:
    """Bridge would write its last checkpoint again, over itself."""
    before = {p: p.stat().st_mtime_ns for p in (place / "whole").rglob("*")}
    parent, ranked = place / "parent" / "checkpoints", place / "rank-halving" / "checkpoints"
    job = Job(str(place / "whole"), layout=HALVED, steps=4, teacher=str(parent), ranked=str(ranked))
    do(place, "ended", [job])
    assert "holds the end of this run; nothing is left to do" in (place / "ended.log").read_text()
    assert {p: p.stat().st_mtime_ns for p in (place / "whole").rglob("*")} == before


def test_a_run_that_is_stopped_leaves_a_checkpoint_and_goes_on(place: Path) -> None:
    assert losses(place / "stopped") == losses(place / "whole")
    assert "at iteration 2" in (place / "again.log").read_text()


@pytest.mark.parametrize("world", [1, 2])
def test_autobridge_exports_a_family_in_training_as_the_slicer_does(place: Path, tmp_path: Path, world: int) -> None:
    whole, exported = tmp_path / "full", tmp_path / "exported.safetensors"
    slice_checkpoint(place / "whole" / "checkpoints", whole, member="full")
    module = ["tests.hosts.bridge.exporter", place / "whole" / "checkpoints", whole, exported]
    left = processes(tmp_path, "exporter", module, world)
    assert left == [0] * world, (tmp_path / "exporter.log").read_text()[-3000:]
    ours, theirs = load_file(whole / "model.safetensors"), load_file(exported)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (tensor.dtype, tensor.shape) == (theirs[name].dtype, theirs[name].shape), name
        assert torch.equal(tensor, theirs[name]), name


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
    do(place, "stock", [job])
    assert f"successfully loaded checkpoint from {place / 'release'}" in (place / "stock.log").read_text()
