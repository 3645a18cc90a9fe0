# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A run that was killed and started again is the run that was not; and the rules of `checkpoint.resume`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.compare import LOSS, WEIGHT, deviation, digests, lines, weights
from tests.parallel.forks import measured
from tests.parallel.nemo import saved_at_start
from tests.parallel.runs import BLOCK, HALVED, PEAK, Job, Layout, do, prepare
from tests.workers import part

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]
STEPS = 4
#: step before which a run in pipeline stages is stopped
STOP = 3
#: under the router's masks for two steps, then on slices
SOFT = Layout(soft=True, micro_batches=2)
ROUTER: dict[str, Any] = {"router": {"freeze_at": 0.5, "hidden": 16}}
#: candidates are compared after the first step and after the third
FOUR, CUTS = Layout(halved=True, micro_batches=4), (0.25, 0.75)
ONE_CANDIDATE = {"search": HALVED["search"] | {"keep": 1}}
#: layouts of runs that compare a single candidate, early or late
ONE = {
    "pipeline": Layout(pipeline=2, micro_batches=2, halved=True),
    "replicas": Layout(data=2, micro_batches=2, mode="trainable", halved=True),
}
BLOCKS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 4},
    "axes": {"axes": BLOCK["axes"] | {"hidden": [32, 28, 24]}},
    "sampling": {"sampling": {"full": 1, "large": 1, "small": 2}},
}


def job(out: str, layout: Layout, changes: Any = ROUTER, steps: int = STEPS, **more: Any) -> Job:
    return Job(out, layout=layout, changes=changes, steps=steps, save_every=1, **more)


def cut(*cuts: float) -> dict[str, Any]:
    return {"halving": {"cuts": cuts, "tokens": 256}}


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    prepare(place, whole=False)
    do(place, Job("rank-even", "rank"), Job("rank-router", "rank", SOFT, changes=ROUTER),
       Job("rank-halving", "rank", FOUR), Job("rank-one", "rank", FOUR, changes=ONE_CANDIDATE))  # fmt: skip
    actual: dict[str, Any] = {"stops": stopped_everywhere(place, parts, "stop", SOFT, ROUTER)}
    actual["blocks"] = {
        name: do(place, job(name, Layout(), {}, until=1), job(name, Layout(), change, ends=None))[1]
        for name, change in BLOCKS.items() if name in parts
    }  # fmt: skip
    if any(part.startswith("halved") for part in parts):
        actual["halved"] = stopped_everywhere(place, parts, "halved", FOUR, cut(*CUTS))
        shapes = json.loads((place / "rank-halving" / "elastic" / "shapes.json").read_text())
        actual["candidates"] = shapes["report"]["candidates"]
    actual["compared"] = {name: compared_elsewhere(place, name) for name in ONE if f"compared {name}" in parts}
    for name, run in {"resharded": resharded, "stages": in_stages}.items():
        if name in parts:
            actual[name] = run(place)
    return actual


def stopped_everywhere(
    place: Path, parts: Collection[str], name: str, layout: Layout, changes: dict[str, Any]
) -> dict[str, Any]:
    """One run without a stop, and one for every step at which it is to be killed and started again."""
    results: dict[str, Any] = {}
    for stop in (None, *(step for step in range(1, STEPS) if f"{name} {step}" in parts)):
        out = f"{name}-{stop}"
        if stop is not None:
            do(place, job(out, layout, changes, until=stop))
        at_stop = shapes_of(place / out) if layout.halved and stop is not None else {}
        (facts,) = do(place, job(out, layout, changes))[0]["facts"]
        own = [{k: line[k] for k in ("step", "candidates", "compared") if k in line} for line in lines(place / out)]
        results[str(stop)] = {**{k: facts[k] for k in ("losses", "from", "samples", "learned")},
                              "state": digests(place / out), "lines": own, "shapes": at_stop}  # fmt: skip
    return results


def shapes_of(run: Path) -> dict[str, Any]:
    """Members that a run's newest checkpoint is read as having, and the small one that is cut out of it."""
    from nemo_elastic import slice_checkpoint
    from nemo_elastic.formats.hf.reading import MEMBER_FILE
    from nemo_elastic.formats.megatron.stored import read_shapes
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    family, cut = read_shapes(last_checkpoint(run)).family, run / "cut"
    assert family is not None
    slice_checkpoint(last_checkpoint(run), cut, member="small")
    own = {member.name: member.subnet.to_json() for member in family}
    return own | {"cut": json.loads((cut / MEMBER_FILE).read_text())["subnet"]}


def compared_elsewhere(place: Path, name: str) -> list[str]:
    """Tensors by which two runs of one candidate differ that compared it early or late: what it lost then."""
    outs = [f"compared-{name}-{at}" for at in CUTS]
    do(place, *(Job(out, layout=ONE[name], steps=STEPS, ranked="rank-one", changes=ONE_CANDIDATE | cut(at))
                for out, at in zip(outs, CUTS, strict=True)))  # fmt: skip
    early, late = (digests(place / out) for out in outs)
    return sorted(tensor for tensor, value in early.items() if late[tensor] != value)


def resharded(place: Path) -> dict[str, Any]:
    """A step on one rank, two on two, one on one again; and what two ranks make of a checkpoint without a step."""
    alone, two = place / "stop-None", replace(SOFT, tensor=2)
    do(place, job("moved", SOFT, until=1), job("moved", replace(two, sequence=True), until=STOP), job("moved", SOFT))
    shutil.copytree(alone / "checkpoints", place / "copied" / "checkpoints")
    saved = place / "saved"
    do(place, job("copied", two, steps=STEPS + 1, callback=saved_at_start(saved)))
    context = next((alone / "checkpoints").glob(f"step={STEPS - 1}-last")) / "context"
    shutil.copytree(context, saved / "checkpoints" / "step=0-last" / "context")
    return {
        "weights": deviation(weights(place / "moved"), weights(alone)) / PEAK,
        "identical": digests(saved) == digests(alone),
        "tensors": len(digests(saved)),
        "members": cut_both(alone, saved, place),
    }


def in_stages(place: Path) -> dict[str, Any]:
    """A run in pipeline stages with a teacher: without a stop, stopped and gone on, and gone on with on one rank."""
    layout, held = replace(SOFT, pipeline=2), {}
    for name, end in (("whole", layout), ("stopped", layout), ("alone", SOFT)):
        out = f"stages-{name}"
        if name != "whole":
            do(place, job(out, layout, until=STOP))
        facts = do(place, job(out, end))[0]["facts"][0]
        held[name] = {"from": facts["from"], "losses": facts["losses"]}
        held[name]["weights"] = deviation(weights(place / out), weights(place / "stop-None")) / PEAK
    held["identical"] = digests(place / "stages-stopped") == digests(place / "stages-whole")
    return held


def cut_both(first: Path, second: Path, place: Path) -> bool:
    """Whether a member cut from either checkpoint has the same bytes."""
    from nemo_elastic import slice_checkpoint
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    files = []
    for i, run in enumerate((first, second)):
        out = place / f"cut-{i}"
        slice_checkpoint(last_checkpoint(run), out, member="small")
        files.append((out / "model.safetensors").read_bytes())
    return files[0] == files[1]


place = measured(measure)


@pytest.mark.parametrize(
    "stop", [pytest.param(step, marks=part(f"stop {step}", long=step != STEPS // 2)) for step in range(1, STEPS)]
)
def test_stopped_anywhere_it_ends_bit_for_bit_the_same(results: dict[str, Any], stop: int) -> None:
    whole, resumed = results["stops"]["None"], results["stops"][str(stop)]
    assert (whole["from"], resumed["from"]) == (0, stop)
    assert resumed["losses"] == whole["losses"][stop:]
    assert resumed["samples"] == [d for d in whole["samples"] if d[0] >= stop]
    assert resumed["state"] == whole["state"], "weights, router, members or optimizer"


def test_the_runs_had_soft_steps_sliced_ones_and_an_optimizer(results: dict[str, Any]) -> None:
    whole = results["stops"]["None"]
    assert "Gates" in {kind for step, _, kind, _ in whole["samples"] if step < STEPS // 2} <= {"NoneType", "Gates"}
    assert "Subnet" in {kind for step, _, kind, _ in whole["samples"] if step >= STEPS // 2}
    soft, frozen = whole["learned"][: STEPS // 2], whole["learned"][STEPS // 2 - 1 :]
    assert len(set(soft)) > 1 == len(set(frozen)), "the router learns until it is frozen"
    assert any("exp_avg_sq" in name and "router" in name for name in whole["state"])
    assert whole["losses"][-1] > 0


@pytest.mark.parametrize(
    "stop", [pytest.param(step, marks=part(f"halved {step}", long=step != 1)) for step in range(1, STEPS)]
)
def test_stopped_among_candidates_and_right_at_a_cut_it_ends_the_same(results: dict[str, Any], stop: int) -> None:
    """Candidates are compared when one step is done, and when three are."""
    whole, resumed = results["halved"]["None"], results["halved"][str(stop)]
    for name, first in (("losses", stop), ("samples", None), ("state", None), ("lines", 0)):
        wanted = [d for d in whole["samples"] if d[0] >= stop] if name == "samples" else whole[name]
        assert resumed[name] == (wanted if first is None else wanted[first:]), name
    compared = [set(line.get("compared", {})) for line in whole["lines"]]
    assert compared == [set(), {"large", "small"}, set(), {"large", "small"}]
    assert ["candidates" in line for line in whole["lines"]] == [True, True, True, False]
    before, after = (whole["lines"][i]["compared"] for i in (1, 3))
    assert max(map(len, before.values())) > 2 and all(set(after[name]) <= set(own) for name, own in before.items())
    assert [d[1:] for d in resumed["samples"] if d[3] is not None] or stop == 3


@pytest.mark.parametrize("stop", [pytest.param(step, marks=part(f"halved {step}", long=step != 1)) for step in (1, 2)])
def test_a_checkpoint_with_candidates_has_the_members_of_the_best_chain(results: dict[str, Any], stop: int) -> None:
    """Before the first comparison those of the search."""
    held, known = results["halved"][str(stop)]["shapes"], results["candidates"]
    assert held["cut"] == held["small"] != held["large"]
    left = {"large": ["0"], "small": ["0"]} if stop == 1 else results["halved"]["None"]["lines"][3]["compared"]
    assert all(str(known[name].index(held[name])) in left[name] for name in left)


@pytest.mark.long
@pytest.mark.parametrize("name", [pytest.param(name, marks=part(f"compared {name}")) for name in ONE])
def test_a_comparison_changes_nothing_of_the_training(results: dict[str, Any], name: str) -> None:
    """Runs that compare one candidate early or late end with the same bits, but for what it lost then."""
    assert results["compared"][name] == ["module.elastic.losses"]


@pytest.mark.part("resharded")
def test_one_rank_two_ranks_one_rank(results: dict[str, Any]) -> None:
    assert results["resharded"]["weights"] <= WEIGHT


@pytest.mark.part("resharded")
def test_two_ranks_write_the_bytes_that_one_rank_wrote(results: dict[str, Any]) -> None:
    assert results["resharded"]["identical"]
    assert results["resharded"]["tensors"] == len(results["stops"]["None"]["state"])
    assert results["resharded"]["members"]


@pytest.mark.long
@pytest.mark.part("stages")
def test_a_run_in_pipeline_stages_with_a_teacher_goes_on_in_stages_and_on_one_rank(results: dict[str, Any]) -> None:
    stages = results["stages"]
    assert [stages[name]["from"] for name in ("whole", "stopped", "alone")] == [0, STOP, STOP]
    assert stages["identical"], "weights, router, members or optimizer"
    assert stages["stopped"]["losses"] == stages["whole"]["losses"][STOP:]
    assert stages["alone"]["losses"] == pytest.approx(stages["whole"]["losses"][STOP:], rel=LOSS)
    assert max(stages[name]["weights"] for name in ("whole", "alone")) <= WEIGHT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param("seed", "elastic.seed: 15 -> 4; use the old values or", marks=part("seed", long=True)),
        pytest.param("axes", "elastic.axes.hidden.choices: [32, 28, 24, 20] -> [32, 28, 24]", marks=part("axes")),
    ],
)
def test_another_block_is_refused_with_the_difference(results: dict[str, Any], change: str, message: str) -> None:
    run = results["blocks"][change]
    (line,) = run["said"][0].splitlines()
    assert run["codes"] == [2]
    assert line.startswith("error: resume: ")
    assert message in line


@pytest.mark.long
@pytest.mark.part("sampling")
def test_what_only_steers_the_rest_of_a_run_is_taken_over_and_reported(results: dict[str, Any]) -> None:
    run = results["blocks"]["sampling"]
    assert run["codes"] == [0]
    assert "  resume: elastic.sampling.small: None -> 2, from now on" in run["said"][0].splitlines()
