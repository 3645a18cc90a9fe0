# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A run that was killed and started again is the run that was not; and the rules of `checkpoint.resume`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.resume import ONE, STEPS, STOP
from tests.parallel.table import LOSS, WEIGHT
from tests.workers import part, parts, work

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("resume")
    work("tests.parallel.resume", folder, *parts(request))
    return json.loads((folder / "resume.json").read_text())


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
        pytest.param("seed", "elastic.seed: 15 -> 4; take the old values, or", marks=part("seed", long=True)),
        pytest.param(
            "axes", "elastic.axes.hidden.choices: [32, 28, 24, 20] -> [32, 28, 24]; take", marks=part("axes")
        ),
    ],
)
def test_another_block_is_refused_with_the_difference(results: dict[str, Any], change: str, message: str) -> None:
    run = results["blocks"][change]
    (line,) = run["said"].splitlines()
    assert run["code"] == 2
    assert line.startswith("error: resume: ")
    assert message in line


@pytest.mark.long
@pytest.mark.part("sampling")
def test_what_only_steers_the_rest_of_a_run_is_taken_over_and_reported(results: dict[str, Any]) -> None:
    run = results["blocks"]["sampling"]
    assert run["code"] == 0
    assert "  resume: elastic.sampling.small: None -> 2, from here on" in run["said"].splitlines()


# ------------------------------------------------------------------------------------------------------- without runs


def block(**changes: Any) -> dict[str, Any]:
    from nemo_elastic.config.block import ElasticConfig
    from tests.parallel.runs import BLOCK

    return ElasticConfig.from_dict(BLOCK | changes).to_dict()


def test_a_block_that_came_through_yaml_is_the_same() -> None:
    import yaml

    from nemo_elastic.hosts.common.same_family import differences

    own = block(shapes="router", router={"hidden": 8})
    assert list(differences(yaml.safe_load(yaml.safe_dump(own)), own)) == []
    assert [name for name, _ in differences(own, block(shapes="router", router={"hidden": 9}))] == ["router.hidden"]
    assert [name for name, _ in differences(own, block())] == ["shapes", "router"]


def checkpoint(folder: Path, name: str) -> Path:
    import torch

    from tests.hosts.nemo.checkpoints import store
    from tests.hosts.nemo.cutting import PARENT, random_tensors

    made = store(folder / name, PARENT, PARENT.full, random_tensors(PARENT))
    torch.save({}, made / "weights" / "common.pt")
    return made


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    from nemo_elastic.hosts.nemo.checkpoint.saved import NEMO, remove_unfinished

    assert NEMO.whole(tmp_path / "none") == []
    assert NEMO.newest(tmp_path) == "there is no whole checkpoint yet"
    first, second = (checkpoint(tmp_path, f"step={i}-last") for i in (3, 7))
    (tmp_path / "step=7-last-unfinished").touch()
    (tmp_path / "step=9-last").mkdir()
    assert NEMO.whole(tmp_path) == [first]
    remove_unfinished(second)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step=3-last", "step=9-last"]
    assert NEMO.newest(tmp_path) == f"the next start goes on from {first}"
