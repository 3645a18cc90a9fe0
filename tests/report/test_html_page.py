# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a fabricated run: whole, in parts, damaged."""

from __future__ import annotations

import json
import re
import shutil
import struct
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_elastic.cli.app import main
from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import active_parameters
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.io.read import read_json
from nemo_elastic.ranking import Ranking
from nemo_elastic.report import build_report, load_run
from nemo_elastic.report.drawing import millions
from nemo_elastic.report.fig_shapes import kept_share, rows
from nemo_elastic.report.html_page import FIGURES, PAGE, render
from nemo_elastic.report.page_tables import members, seconds, sizes_table
from nemo_elastic.report.run_record import RunRecord
from tests.report.fabricate import write_json
from tests.shapes import MOE, PARENT

NAMES = ["1.6m", "1.1m", "0.8m"]
#: of a run without a limit in milliseconds and without a router
EVERY = set(FIGURES) - {"latency.png", "router.png"}


@pytest.fixture
def run(demo_run, tmp_path):
    shutil.copytree(demo_run, tmp_path / "demo")
    return tmp_path / "demo"


@pytest.fixture
def page(pages):
    return pages["small"]


def png_size(data: bytes):
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])


def test_every_picture_is_there_and_large_enough(page):
    for name in EVERY:
        width, height = png_size((page.parent / name).read_bytes())
        assert width >= 1600 and height >= 600, name


def test_the_page_holds_the_pictures_and_fetches_nothing(page):
    html = page.read_text(encoding="utf-8")
    shown = re.findall(r'<img class="plot" alt="[^"]+" src="data:image/png;base64,([^"]+)">', html)
    assert {b64decode(data) for data in shown} == {(page.parent / name).read_bytes() for name in EVERY}
    assert "://" not in html and "<script" not in html and html.count("src=") == len(EVERY) and "url(h" not in html
    assert not any(b"://" in (page.parent / name).read_bytes()[:2000] for name in EVERY)


def test_the_page_names_members_with_exact_figures(page, demo_run):
    html = page.read_text(encoding="utf-8")
    for name, data in read_json(demo_run / "family" / "elastic.json")["members"].items():
        assert f"<td>{name}</td>" in html
        assert html.count(f">{data['parameters']:,}<") == 1
    assert "Not in this report" not in html


def test_text_of_the_files_is_escaped(page):
    html = page.read_text(encoding="utf-8")
    assert "letter &lt;b&gt;" in html and "letter <b>" not in html
    assert "demo &lt;&amp;&gt;" in html


def test_the_same_run_gives_the_same_bytes_by_the_command_too(page, demo_run, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["report", str(demo_run), "--out", str(tmp_path / "again"), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert caught.value.code == 0
    assert [m["name"] for m in printed["members"]] == ["parent", *NAMES]
    assert len(printed["pictures"]) == 5 and printed["notes"] == []
    assert {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()} == {
        p.name: p.read_bytes() for p in page.parent.iterdir()
    }


def shorter(gone, pictures, long=False):
    """A case that `make test` leaves out if it is long."""
    return pytest.param(gone, pictures, marks=[pytest.mark.long] if long else [], id="+".join(gone))


@pytest.mark.parametrize(
    ("gone", "pictures"),
    [
        shorter(["metrics.json"], {"loss.png", "shapes.png", "importance.png", "candidates.png"}, long=True),
        shorter(["family"], EVERY, long=True),
        shorter(["stage1/elastic"], {"family.png", "loss.png", "shapes.png"}, long=True),
        shorter(["parent", "stage1", "stage2"], {"family.png", "shapes.png"}),
        shorter(["data", "family", "metrics.json", "stage1", "stage2"], {"loss.png"}),
        shorter(["parent", "stage2", "family", "metrics.json"], EVERY - {"family.png"}, long=True),
        shorter(["parent", "stage1", "stage2", "family", "data"], {"family.png"}),
    ],
)
def test_missing_parts_make_a_shorter_report(run, gone, pictures):
    for name in gone:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = build_report(run)
    assert page == run / "report" / PAGE
    assert {p.name for p in page.parent.glob("*.png")} == pictures
    assert "Not in this report" not in page.read_text(encoding="utf-8")


def test_shapes_without_a_parent_are_noted(run):
    shutil.rmtree(run / "family")
    shutil.rmtree(run / "stage1" / "elastic" / "ranking")
    assert "parent's shape is unknown" in " ".join(load_run(run).notes)


@pytest.mark.parametrize("what", ["missing", "file", "empty"])
def test_a_folder_without_a_run_is_refused(tmp_path, what):
    path = tmp_path / "x"
    if what == "file":
        path.write_text("x")
    elif what == "empty":
        path.mkdir()
    with pytest.raises(ElasticError, match="run") as caught:
        build_report(path)
    assert "\n" not in caught.value.message
    assert not (path / "report").exists()


def test_lines_that_no_run_writes_are_left_out_and_named(run):
    path = run / "stage1" / "metrics.jsonl"
    good = path.read_text().splitlines()
    bad = [
        '{"kind": "step", "st',
        "[1]",
        '{"kind": "step", "tokens": 1}',
        '{"kind": "heldout", "step": 1, "tokens": 1}',
    ]
    nan = '{"kind": "step", "step": 261, "tokens": 534528, "cost_1.1m": NaN, "entropy_ffn": "x", "seconds": null}'
    path.write_text("\n".join([*good[:5], *bad, "", *good[5:], nan, "\x00\udcff".encode("utf-8", "replace").decode()]))
    loaded = load_run(run)
    assert loaded.notes == ["left out: 5 lines of stage1/metrics.jsonl that no run writes (lines 6, 7, 8, 9, 281)"]
    assert len(loaded.phases[1].steps) == 261
    assert "5 lines of stage1/metrics.jsonl" in render(loaded, {})


def test_a_phase_that_was_started_again_counts_once(run):
    path = run / "stage2" / "metrics.jsonl"
    path.write_text(path.read_text() + path.read_text())
    phase = load_run(run).phases[2]
    assert len(phase.steps) == 130 and [line["step"] for line in phase.heldout] == sorted(
        line["step"] for line in phase.heldout
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.json", "{"),
        ("metrics.json", '{"version": 9}'),
        ("metrics.json", '{"version": 1, "members": [{"name": "a", "loss": "low"}]}'),
        ("metrics.json", '{"version": 1, "members": {}, "seconds": 3}'),
        ("family/elastic.json", '{"version": 1}'),
        ("stage1/elastic/members.json", '{"members": {"0.8m": {"hidden": 7, "layers": []}}}'),
        ("stage1/elastic/shapes.json", "[]"),
        ("stage1/elastic/shapes.json", '{"members": {}, "report": {"candidates": {"0.8m": [{"hidden": 7}]}}}'),
        ("stage1/elastic/ranking/ranking.json", "{}"),
        ("data/data.json", "[]"),
    ],
)
def test_damaged_parts_are_left_out_and_named(run, name, text):
    (run / name).write_text(text)
    html = render(load_run(run), {})
    assert "Not in this report" in html and name.rpartition("/")[2] in html


def test_an_earlier_report_is_replaced_and_nothing_else(run):
    for name in ("parent", "stage1", "stage2", "family"):  # one picture is enough
        shutil.rmtree(run / name)
    page = build_report(run)
    old = "<p>old\n<footer>Made by nemo-elastic 0.1.0 from the files of the run alone.</footer>\n"
    page.write_text(old)
    assert build_report(run) == page and page.read_text(encoding="utf-8") != old
    (page.parent / "mine.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(ElasticError, match=r"holds mine\.txt, which is no part of a report"):
            build_report(run, force=force)
    (page.parent / "mine.txt").unlink()
    page.write_text("another program's")
    for force in (False, True):
        with pytest.raises(ElasticError, match="is not a report that nemo-elastic wrote"):
            build_report(run, force=force)
    assert page.read_text() == "another program's"
    page.unlink()
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []


def test_tokens_go_on_from_phase_to_phase(demo_run):
    loaded = load_run(demo_run)
    assert [p.start for p in loaded.phases] == [0, 900 * 2048, 1160 * 2048]
    assert loaded.phases[1].series("loss_1.1m")[0] == list(range(1, 261, 3))


@pytest.mark.parametrize("training", ["stage1", "stage1/checkpoints"])
def test_a_training_by_itself_is_a_run_on_either_host(run, training):
    """NeMo writes metrics and shapes beside the checkpoints' folder, Megatron-Bridge's command in it."""
    (run / "stage1").rename(run / "moved")
    (run / training).parent.mkdir(exist_ok=True)
    (run / "moved").rename(run / training)
    loaded = load_run(run / "stage1")
    (phase,) = loaded.phases
    assert phase.label == "training" and len(phase.steps) == 260 and loaded.shaping is phase
    assert list(loaded.subnets) == NAMES and loaded.parent is not None
    assert set(build_report(run / "stage1").parent.glob("*.png")) >= {
        run / "stage1" / "report" / f"{name}.png" for name in ("candidates", "importance", "loss", "shapes")
    }


def test_the_ranking_of_a_job_of_its_own_is_the_runs(run):
    (run / "rank" / "elastic").mkdir(parents=True)
    for name in ("ranking", "shapes.json"):
        (run / "stage1" / "elastic" / name).rename(run / "rank" / "elastic" / name)
    loaded = load_run(run)
    assert loaded.ranking is not None and loaded.shapes.first and loaded.shapes.frozen


def test_shapes_have_a_row_for_every_step_of_finding_them(demo_run):
    loaded = load_run(demo_run)
    assert [(n, [stage for stage, _ in s]) for n, s in rows(loaded)] == [
        ("1.6m", ["parent"]),
        ("1.1m", ["trained"]),
        ("0.8m", ["search", "trained"]),
    ]
    half = loaded.parent.layer(0, mamba_heads=8, mamba_head_dim=12)
    assert kept_share(loaded.parent, half) == 0.5 * 0.75


def test_a_large_parent_is_drawn(pages):
    page = pages["large"]
    assert {p.name for p in page.parent.glob("*.png")} == {"family.png", "shapes.png", "importance.png"}
    assert "12,310,001,152" in page.read_text(encoding="utf-8")


def test_counts_are_written_for_people():
    assert [millions(n) for n in (12, 1234, 1_553_408, 123_456_789, 8.89e9)] == [
        "12",
        "1.23k",
        "1.55M",
        "123M",
        "8.89B",
    ]


def test_times_are_written_for_people():
    assert [seconds(s) for s in (0.04, 59.4, 61, 3599, 3600, 86_399)] == [
        "0.0 s", "59.4 s", "1 min 01 s", "59 min 59 s", "1 h 00 min", "24 h 00 min"
    ]  # fmt: skip


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["report", str(tmp_path)])
    err = capsys.readouterr().err
    assert caught.value.code == 2 and err.startswith("error: run: ") and err.count("\n") == 1


def test_members_with_experts_are_counted_both_ways(tmp_path):
    """Only there: a dense run has no such column."""
    ranking = Ranking.trivial(MOE)
    ranking.save(tmp_path / "stage1" / "elastic" / "ranking")
    small = MOE.uniform(experts=4, expert_ffn=8)
    shapes = {"members": {"whole": MOE.full.to_json(), "small": small.to_json()}, "report": {"source": "uniform"}}
    write_json(tmp_path / "stage1" / "elastic" / "shapes.json", shapes)
    record = load_run(tmp_path)
    report = {m["name"]: m["active_parameters"] for m in members(record)}
    assert report == {"whole": active_parameters(MOE, MOE.full), "small": active_parameters(MOE, small)}
    shown = sizes_table(record)
    column = list(shown.heads).index("active")
    assert [row[column] for row in shown.rows] == [f"{count:,}" for count in report.values()]


def test_members_without_experts_have_one_count(demo_run):
    record = load_run(demo_run)
    assert not any("active_parameters" in m for m in members(record)) and "active" not in sizes_table(record).heads


def test_how_much_of_several_limits_a_member_uses_is_in_the_tables():
    both = Budget("small", ratio=0.7, memory={"size": 2**20, "batch": 4})
    small = PARENT.uniform(hidden=8, ffn=8)
    family = Family.of(PARENT, {"full": PARENT.full, "small": small}, budgets=[Budget("full"), both])
    share = both.limits[0].share(PARENT, small)
    record = RunRecord(Path("run"), family=family)
    assert [m.get("limits", "").split(",")[0] for m in members(record)] == ["", f"ratio {share:.1%}"]
    table = sizes_table(record)
    assert table is not None and "of its limits" in table.heads
    alone = replace(record, family=Family.of(PARENT, {"small": small}, budgets=[Budget("small", ratio=0.7)]))
    table = sizes_table(alone)
    assert table is not None and "of its limits" not in table.heads
