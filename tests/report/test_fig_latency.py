# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of losses over milliseconds: members at the times of the family's own table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_elastic.core.latency import REQUEST, LatencyTable, Workload
from nemo_elastic.profile.measure import save, widths_of
from nemo_elastic.profile.roofline import on_paper
from nemo_elastic.report import build_report
from nemo_elastic.report.drawing import RIM, house
from nemo_elastic.report.fig_latency import draw
from nemo_elastic.report.run_record import load_run
from tests.report.fabricate import make_run
from tests.slicing.helpers import call


@pytest.fixture(autouse=True)
def in_the_house() -> Iterator[None]:
    with house():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose smallest member has a limit in milliseconds."""
    root = make_run(tmp_path_factory.mktemp("latency") / "run")
    family = load_run(root).family
    assert family is not None
    table = on_paper(family.parent, widths_of(family.parent, family.axes, 3), Workload(1, 64, 8), "h100")
    *others, last = family.members
    limited = replace(last, budget={"latency": {"table": dict(table), "ratio": 0.9, "of": REQUEST}})
    replace(family, members=(*others, limited)).save(root / "family")
    return root


def test_members_are_at_the_milliseconds_of_their_tables_and_at_their_losses(folder: Path) -> None:
    run = load_run(folder)
    drawing = draw(run)
    assert drawing is not None and run.family is not None and run.results is not None
    path, *points = drawing.figure.axes[0].get_lines()
    losses = {m.name: m.loss for m in run.results.members}
    last = run.family.members[-1]
    assert last.budget is not None
    table = LatencyTable.read("table", last.budget["latency"]["table"])
    known = [m for m in run.family if m.name in losses]
    expected = [(table.milliseconds(run.family.parent, m.subnet, REQUEST), losses[m.name]) for m in known]
    assert list(zip(path.get_xdata(), path.get_ydata(), strict=True)) == expected
    assert [(p.get_xdata()[0], p.get_ydata()[0]) for p in points] == expected
    assert "roofline on h100" in drawing.words and drawing.figure.axes[0].get_xlabel().endswith(f"({REQUEST})")


def test_members_of_equal_time_and_loss_are_all_seen(folder: Path) -> None:
    run = load_run(folder)
    assert run.family is not None and run.results is not None
    last = run.family.members[-1]
    same = replace(run.family, members=(*run.family.members, replace(last, name="same")))
    row = run.results.member(last.name)
    assert row is not None
    run.results = replace(run.results, members=(*run.results.members, replace(row, name="same")))
    drawing = draw(replace(run, family=same))
    assert drawing is not None
    *_, upper, lower = drawing.figure.axes[0].get_lines()
    assert lower.get_markersize() == upper.get_markersize() + RIM and lower.get_zorder() < upper.get_zorder()


def test_the_page_has_it_and_a_family_without_such_a_limit_has_none(folder: Path, tmp_path: Path) -> None:
    page = build_report(folder, tmp_path / "report")
    assert (tmp_path / "report" / "latency.png").is_file() and "Quality by milliseconds" in page.read_text()
    run = load_run(folder)
    assert run.family is not None
    plain = replace(run.family, members=tuple(replace(m, budget={"ratio": 0.5}) for m in run.family))
    assert draw(replace(run, family=plain)) is None


def test_a_table_that_is_given_draws_any_family_and_one_of_another_parent_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    run = load_run(folder)
    assert run.family is not None
    parent = run.family.parent
    widths = widths_of(parent, run.family.axes, 3)
    file = tmp_path / "table.json"
    save(file, on_paper(parent, widths, Workload(8, 64, 8), "h200"))
    out = tmp_path / "report"
    assert call("report", folder, "--out", out, "--latency", file) == (0, "")
    assert "roofline on h200, batch 8" in (out / "report.html").read_text()
    last = run.family.members[-1]
    plain = replace(run, family=replace(run.family, members=(*run.family.members[:-1], replace(last, budget=None))))
    table = LatencyTable.read("table", str(file))
    drawing = draw(replace(plain, latency=table))
    assert draw(plain) is None and drawing is not None
    path = drawing.figure.axes[0].get_lines()[0]
    assert list(path.get_xdata())[-1] == table.milliseconds(parent, last.subnet)
    wider = replace(parent, vocab=parent.vocab + 8)
    save(file, on_paper(wider, widths, Workload(8, 64, 8), "h200"))
    code, said = call("report", folder, "--out", tmp_path / "other", "--latency", file)
    assert code == 2 and "latency.table: 'a table of a parent with vocab" in said and not (tmp_path / "other").exists()
