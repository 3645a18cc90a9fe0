# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The studies in plain torch: what is trained and asked, what ways spend, what chooses rates, what tables count."""

from __future__ import annotations

import sysconfig
from argparse import Namespace
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from benchmarks.study import drafts, nesting, quantize, shapes, top_k
from benchmarks.study.grounds import PROBLEM_AXES, Ground, fresh, ground_of
from benchmarks.study.nesting import ALONE, SIZES, TRIED, WAYS, Family, Run, Study, Way
from benchmarks.study.problems import LR, batches, problems
from benchmarks.study.results import REPORTED, TUNED
from nemo_elastic.core.precision import SCHEMES
from nemo_elastic.data.build import build_data
from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation import predictor_of
from nemo_elastic.formats.folders import open_source

GROUND = Ground(fresh(0), PROBLEM_AXES, batches, LR, "answers")


@pytest.fixture(scope="module")
def family() -> Family:
    return Family(GROUND, 0)


def test_shapes_are_nested_and_every_way_spends_what_it_may(family: Family) -> None:
    assert family.cost("full") > family.cost("large") > family.cost("medium") > family.cost("small")
    most = 6 * 128 * family.cost("full")
    for name, way in WAYS.items():
        run = Run(family, way, 1e-4)
        run.train(most)
        last = run.spent / run.steps
        assert most <= run.spent < most + 4 * last, name
        assert all(torch.isfinite(torch.tensor(list(run.apart(REPORTED).values()))))
    run = Run(family, replace(Way(), tokens=1.0), 1e-4)
    run.train(most, 2 * run._rows().__next__().tokens_bs.numel())
    assert run.steps == 2


def test_rates_are_chosen_on_problems_that_are_not_reported(tmp_path: Path) -> None:
    texts = {part: {p.text for p in islice(problems(0, part), 200)} for part in (TUNED, REPORTED, False)}
    assert not texts[TUNED] & texts[REPORTED] and not texts[False] & (texts[TUNED] | texts[REPORTED])
    study = Study(GROUND, tmp_path / "kept", 1)
    by_lr = dict(zip(TRIED["small"], (1.0, 0.1, 2.0, 3.0), strict=True))  # the best by what is reported is the first
    study.kept.results = [
        nesting.Result(ALONE, size, 0, lr, 1, 1, 1.0, {size: lr}, {size: by_lr.get(lr, 4.0)})
        for size in SIZES
        for lr in TRIED[size]
    ]
    assert study.best_alone(0)["small"] == TRIED["small"][1]


def test_ways_go_on_from_one_family_and_rounding_costs(tmp_path: Path) -> None:
    results = quantize.made(replace(GROUND, held_out=1), 0, 1, 1, tmp_path)
    assert [(r.scheme, r.member) for r in results] == [(s, m) for s in SCHEMES for m in quantize.BUDGETS]
    by = {(r.scheme, r.member): r for r in results}
    for member in quantize.BUDGETS:
        nvfp4, fp8 = (by[scheme, member] for scheme in ("nvfp4", "fp8"))
        assert (nvfp4.full, nvfp4.control_full) == (fp8.full, fp8.control_full)
        assert nvfp4.family != nvfp4.full and nvfp4.control != nvfp4.control_full
        assert nvfp4.distilled not in (nvfp4.control, fp8.distilled)


def test_members_of_a_seed_are_one_value() -> None:
    """Three members that agree within each of three seeds: as much is known as of three values, not of nine."""
    won = {0: 0.10, 1: 0.02, 2: 0.06}
    results = [
        quantize.Result("fp8", member, seed, 10, 0.1, 0.3, 0.1, 0.2, 0.2 - won[seed])
        for seed in won
        for member in quantize.BUDGETS
    ]
    # mean 0.06, standard error 0.04 / sqrt(3), Student's 4.3027 of two degrees of freedom; the cost is 0.1
    assert quantize.verdict(results).endswith("distilling wins back 60% (95% over seeds: -39% to 159%)")
    assert quantize.verdict(results[:3]) == "rounding costs 0.1000 nats"


def result(way: str, steps: int, reported: float, tuned: float | None = None) -> shapes.Result:
    return shapes.Result("demo", 0, "50", way, steps, 5e-4, tuned or reported, reported, (96, 9, 0.5))


def test_what_untrained_losses_choose_is_reported_on_other_text() -> None:
    untrained = [result(f"{shapes.SHAPE}{i}", 0, loss) for i, loss in enumerate((0.3, 0.2, 0.4, 0.5))]
    ends = [(0.04, 0.03), (0.05, 0.02), (0.06, 0.01), (0.07, 0.09)]
    trained = [result(f"{shapes.SHAPE}{i}", 40, *each) for i, each in enumerate(ends)]
    runs = shapes.Runs([*untrained, *trained, result(shapes.HALVING, 40, 0.08)])
    (line,) = shapes.judged_table(runs).splitlines()[2:]
    cells = [cell.strip() for cell in line.split("|")][1:-1]
    assert cells == ["50 %", "40", "0.40", "0.0400", "0.0500", "0.0600", "0.0800"]


@pytest.mark.parametrize("ground", ["demo", "5m"])
def test_a_study_of_the_demo_names_the_command_that_makes_one(tmp_path: Path, ground: str) -> None:
    args = Namespace(ground=ground, demo=tmp_path, runs=tmp_path, parent_steps=1)
    with pytest.raises(ElasticError, match=r"^--demo: .* a folder of `make demo`"):
        ground_of(args)


def test_drafts_are_measured_before_and_after_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(sysconfig.get_paths()["stdlib"]) / "json"
    data = build_data(tmp_path / "data", [source], vocab=400, held_out_problems=8)
    monkeypatch.setattr(drafts, "PARENT", replace(drafts.PARENT, vocab=400))
    monkeypatch.setattr(drafts, "BUDGETS", {"100": None, "50": 0.5})
    monkeypatch.setattr(drafts, "REPORTED", 4)
    study = drafts.Study(data, 0, steps=6, parent_steps=2, scales=[1.0], runs=tmp_path)
    study.all()
    by = {(r.way, r.budget, r.steps): r for r in study.kept.results}
    assert len(by) == 2 + 2 * 3 and {r.total for r in by.values()} == {4 * 127}
    chosen, rotated = (predictor_of(open_source(tmp_path / f"{way}_0"), drafts.PARENT.full) for way in drafts.WAYS)
    name = "mtp.layers.0.eh_proj.weight"
    assert chosen is not None and rotated is not None and not torch.equal(chosen.state[name], rotated.state[name])
    assert drafts.table(study.kept.results).count("\n") == 2 + 5


def test_members_with_and_without_top_k_meet_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(sysconfig.get_paths()["stdlib"]) / "json"
    data = build_data(tmp_path / "data", [source], vocab=400, held_out_problems=8)
    monkeypatch.setattr(top_k, "PARENT", replace(top_k.PARENT, pattern="ME*E", vocab=400))
    monkeypatch.setattr(top_k, "AXES", {"expert_ffn": [128, 96, 64]})
    monkeypatch.setattr(top_k, "BUDGETS", {"85": 2.5e-4})
    monkeypatch.setattr(top_k, "HELD_OUT", 1)
    study = top_k.Study(data, 0, [2], parent_steps=2, runs=tmp_path)
    biases = [value for name, value in study.parent.items() if name.endswith("e_score_correction_bias")]
    assert len(biases) == 2 and all(bias.unique().numel() > 1 for bias in biases)
    study.all()
    by = {(r.way, r.steps): r for r in study.kept.results}
    assert by.keys() == {(way, steps) for way in top_k.WAYS for steps in (0, 2)}
    assert all(0.7 < r.active <= 0.85 and r.apart > 0 for r in by.values())
    assert by["kept", 0].shape[-1] == 4 and by["kept", 0].apart != by["kept", 2].apart
    assert top_k.table(study.kept.results).count("\n") == 2 + 3
