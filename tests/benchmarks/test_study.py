# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The studies' plans, FLOPs and tables; their training is the demo's and the baselines', tested elsewhere."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.study import __main__ as launcher
from benchmarks.study import baselines_table, experts_table, plots, results, tables, work
from benchmarks.study.evaluate import heldout
from benchmarks.study.job import PARENTS, Job
from benchmarks.study.jobs import KINDS
from benchmarks.study.minitron_baseline import PYTHON
from benchmarks.study.rates import BEST, EXPERTS_BEST, EXPERTS_TRIED, FIVE_BEST, FIVE_TRIED, TRIED, to_choose_by
from benchmarks.study.sizes import AXES, EXPERTS, EXPERTS_SIZES, FIVE
from benchmarks.study.studies import EXPERTS_BLOCK, FAMILIES, PARENT, STUDIES, block, find, five_alone
from benchmarks.study.train import Batch
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.errors import ElasticError
from nemo_elastic.search import Space, uniform_family
from nemo_elastic.train.samples import BudgetSampler

ROOT = Path(__file__).parents[2]
WHOLE = Parent("M-M*-M-M*-", 256, 1024, 1280, 16, 32, 4, 16, 4, 8, 2, 32, ffn_stripes=8)


@pytest.mark.parametrize("study", sorted(STUDIES))
def test_every_job_finds_what_it_needs_before_it(study: str) -> None:
    known = {PARENT.name}
    for job in STUDIES[study]():
        assert job.kind in KINDS
        assert job.name not in known
        assert job.after is None or job.after in known
        if job.kind not in (*PARENTS, "auto"):
            assert job.parent in known
        known.add(job.name)
        assert find(job.name) == job


def test_the_block_with_experts_fits_its_parent_and_its_budgets_can_be_met() -> None:
    config = ElasticConfig.from_dict(EXPERTS_BLOCK)
    shape = config.parent_shape(EXPERTS)
    Space(shape, config.resolve_axes(shape), range(shape.num_layers)).check_budgets(config.budgets)
    assert set(config.axes) == set(EXPERTS.axes) - {"ffn"}
    assert {b.name: b.ratio for b in config.budgets if not b.is_parent} == EXPERTS_SIZES
    tiny = ElasticConfig.load(ROOT / "conf" / "elastic_tiny_experts.yaml")
    assert [b.ratio for b in tiny.budgets] == [b.ratio for b in config.budgets]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_blocks_fit_the_parent_and_their_budgets_can_be_met(name: str) -> None:
    config = ElasticConfig.from_dict(FAMILIES[name])
    space = Space(WHOLE, config.resolve_axes(WHOLE), range(WHOLE.num_layers))
    space.check_budgets(config.budgets)


def test_the_flops_of_a_run_are_its_samples_pitfall_12() -> None:
    """By hand: micro-batches cost their member, and the teacher is the parent always."""
    batch, steps = Batch(2, 64), 40
    config = ElasticConfig.from_dict(block())
    actual = list(uniform_family(Space(WHOLE, config.resolve_axes(WHOLE), range(10)), config.budgets).values())
    sampler = BudgetSampler(config.weights(), config.seed)
    each = [work.forward(WHOLE, m, batch.length) for m in actual]
    by_hand = sum(batch.tokens * (3 * each[sampler.samples(step, 0)[0]] + each[0]) for step in range(steps))
    assert work.elastic_steps(WHOLE, config, actual, steps, batch) == pytest.approx(by_hand, rel=1e-12)
    tried = [{"cost": parameters(WHOLE, WHOLE.full)}]
    assert work.search(WHOLE, config, tried, batch.length) == 2 * 1024 * each[0]
    assert work.search(WHOLE, ElasticConfig.from_dict(block(shapes="even")), [], batch.length) == 0


def test_rates_are_chosen_on_text_that_is_not_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[torch.Tensor] = []

    def model(tokens: torch.Tensor, member: Subnet | None) -> torch.Tensor:
        read.append(tokens)
        return torch.zeros(*tokens.shape, 1000)

    stream = SimpleNamespace(tokens=lambda split: {"val": np.arange(900)}[split])
    monkeypatch.setattr(DataFolder, "open", lambda path: stream)
    result = heldout(model, tmp_path, 16, {"72": None}, tokens=256)
    assert {part: losses["72"] for part, losses in result.items()} == pytest.approx(
        {"losses": math.log(1000), "tuned": math.log(1000)}
    )
    reported, tuned = ({*t.flatten().tolist()} for t in (torch.cat(read[:2]), torch.cat(read[2:])))
    assert (len(reported), len(tuned)) == (256, 256) and not reported & tuned

    first, second = (f"rate-alone-72-{lr:g}" for lr in TRIED["alone"]["72"][:2])
    runs = {
        first: {"losses": {"72": 1.0}, "tuned": {"72": 2.0}},
        second: {"losses": {"72": 2.0}, "tuned": {"72": 1.0}},
    }
    assert [*tables.tried(runs, "alone", "72").values()] == [2.0, 1.0]


@pytest.mark.parametrize(("way", "size"), [(way, size) for way, sizes in TRIED.items() for size in sizes])
def test_every_way_runs_at_its_best_rate_which_is_no_edge_of_what_was_tried(way: str, size: str) -> None:
    losses = tables.tried(results.read_results(None), way, size)
    assert set(losses) == set(TRIED[way][size]), "make study STUDY='rates five' tries every one"
    best = min(losses, key=losses.__getitem__)
    assert best == BEST[way][size]
    assert min(losses) < best < max(losses)


@pytest.mark.parametrize(("steps", "size"), [(steps, size) for steps, sizes in FIVE_TRIED.items() for size in sizes])
def test_short_runs_of_five_sizes_take_their_best_rate_which_is_no_edge_either(steps: int, size: str) -> None:
    kept, losses = results.read_results(None), {}
    for lr in FIVE_TRIED[steps][size]:
        losses[lr] = to_choose_by(kept[five_alone(size, steps, 0, lr).name])[size]
    best = min(losses, key=losses.__getitem__)
    assert best == FIVE_BEST[steps][size]
    assert min(losses) < best < max(losses)


@pytest.mark.parametrize(("way", "size"), [(way, size) for way, sizes in EXPERTS_TRIED.items() for size in sizes])
def test_every_way_with_experts_runs_at_the_best_rate_that_was_tried(way: str, size: str) -> None:
    losses = experts_table.tried(results.read_results(None), way, size)
    assert set(losses) == set(EXPERTS_TRIED[way][size]), "make study STUDY=experts tries every one"
    assert min(losses, key=losses.__getitem__) == EXPERTS_BEST[way][size]


def test_every_run_of_the_study_of_baselines_takes_the_best_rate_of_its_way_and_size() -> None:
    checked = set()
    for job in STUDIES["baselines"]() + STUDIES["five"]():
        way = job.name.removeprefix("five-").partition("-")[0]
        if way in TRIED and not (job.name.startswith("five-alone") and job.steps in (15, *FIVE_TRIED)):
            assert job.lr == BEST[way][job.member or "all"], job.name
            checked.add((way, job.member or "all"))
    assert checked == {(way, size) for way, sizes in TRIED.items() for size in sizes}


def test_a_curve_is_read_between_its_points() -> None:
    points = [(100.0, 3.0), (400.0, 2.0), (800.0, 1.5)]
    spent, mark = baselines_table.level(points, 2.5)
    assert spent == pytest.approx(math.sqrt(100 * 400))
    assert mark == ""
    assert baselines_table.level(points, 3.5) == (100.0, "<")
    assert baselines_table.level(points, 1.0) == (800.0, ">")


def test_a_ratio_adds_up_the_baselines_sizes() -> None:
    def one(name: str, losses: dict[str, float], tokens: int) -> None:
        steps = int(name.split("-")[-2])
        seen[name] = {"seed": 0, "losses": losses, "steps": steps} | dict.fromkeys(plots.UNITS, tokens)

    seen: dict[str, dict] = {}
    one("ours-9-0", {"full": 1.0, "72": 2.0, "50": 3.0}, 300)
    one("modelopt-72-1-0", {"72": 2.5}, 100)
    one("modelopt-72-2-0", {"72": 2.0}, 200)
    one("modelopt-50-1-0", {"50": 3.0}, 400)
    one("modelopt-50-2-0", {"50": 2.9}, 800)
    assert baselines_table.ratio(seen, "ours-9-0", "modelopt", ["72", "50"], 0, "tokens") == f"<{600 / 300:.2f}"
    one("modelopt-50-0-0", {"50": 3.5}, 200)
    assert baselines_table.ratio(seen, "ours-9-0", "modelopt", ["72", "50"], 0, "tokens") == "2.00"
    text = baselines_table.baselines(seen)
    assert f"| {results.MAKERS['modelopt']} | 9 | 0 | 2.00 | 2.00 | 2.00 |" in text
    assert f"| {results.MAKERS['modelopt']} | 1 | 1 | 0k | 0.00 | 500 |  | 2.500 | 3.000 |" in text
    points = plots.curves(seen, ["72", "50"], "tokens")["modelopt"]
    assert points == {
        "72": [(500, 2.5, 2.5, 2.5), (1000, 2.0, 2.0, 2.0)],
        "50": [(500, 3.0, 3.0, 3.0), (1000, 2.9, 2.9, 2.9)],
    }


def test_a_family_stands_beside_single_sizes_of_as_many_flops() -> None:
    def one(name: str, losses: dict[str, float], flops: float, before: float = 0.0) -> None:
        seen[name] = {"seed": 0, "losses": losses, "steps": int(name.split("-")[-2]), "flops": flops,
                      "flops_before_training": before}  # fmt: skip

    seen: dict[str, dict] = {}
    one("ours-9-0", {"full": 1.0, "72": 2.2, "50": 2.9}, 600, 200)
    one("ours-90-0", {"full": 1.0, "72": 2.2, "50": 2.9}, 6000, 200)
    for steps, losses, flops in ((1, (2.4, 3.2), 50), (2, (2.0, 3.0), 350)):
        for size, loss in zip(("72", "50"), losses, strict=True):
            one(f"alone-{size}-{steps}-0", {size: loss}, flops)
    # the single runs have 300 and 900 with the search, so their losses at 600 are log 2 / log 3 of the way
    way = math.log(2) / math.log(3)
    row = f"| 9 | 0 | {1e3 * (2.2 - 2.4 + 0.4 * way):+.1f} | {1e3 * (2.9 - 3.2 + 0.2 * way):+.1f} |"
    text = baselines_table.beside_alone(seen, ["72", "50"], "")
    assert row in text and "| 90 |" not in text, "they end below that family's"


@pytest.mark.parametrize("study", ["baselines", "experts"])
def test_a_study_asks_for_the_other_hosts_environment_before_it_starts(study, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(PYTHON, str(tmp_path / "python"))
    monkeypatch.setattr("sys.argv", ["study", study, "--runs", str(tmp_path)])
    with pytest.raises(ElasticError, match=f"{PYTHON}.*make .venv-bridge"):
        launcher.main()
    assert not list(tmp_path.iterdir())


def test_the_documented_tables_are_those_of_the_kept_results() -> None:
    result = results.read_results(None)
    for study, table in tables.TABLES.items():
        text = (tables.DOCS / "tables" / f"study_{study}.md").read_text()
        assert text == table(result), "run python -m benchmarks.study.tables --docs"


def test_every_kept_result_is_of_a_job_that_a_study_has() -> None:
    jobs = {job.name for study in STUDIES.values() for job in study()} | {PARENT.name}
    assert set(results.read_results(None)) <= jobs


def test_axes_and_sizes_go_from_the_largest_to_the_smallest() -> None:
    assert set(AXES) == {"hidden", "ffn", "mamba_heads", "mamba_head_dim", "attention_heads", "depth"}
    assert list(FIVE.values()) == sorted(FIVE.values(), reverse=True)


def test_jobs_run_in_the_order_in_which_what_they_start_from_is_there(tmp_path, monkeypatch):
    ran = []

    def run(job: Job, runs: Path, threads: int) -> bool:
        ran.append(job.name)
        (runs / job.name).mkdir()
        (runs / job.name / "result.json").write_text("{}")
        return job.name != "fails"

    monkeypatch.setattr(launcher, "run", run)
    first, later = Job("first", "parent"), Job("later", "elastic", after="first", parent=None)
    assert launcher.run_all([later, first], tmp_path, 1, 1)
    assert ran == ["first", "later"]
    assert not launcher.run_all([Job("fails", "parent"), Job("next", "parent")], tmp_path, 1, 1)
    assert ran[2:] == ["fails"], "nothing starts after a failure"
    assert not launcher.run_all([Job("orphan", "elastic", after="nobody", parent=None)], tmp_path, 1, 1)
