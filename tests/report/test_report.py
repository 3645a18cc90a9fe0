# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a fabricated run: whole, in parts, damaged, and with text that is made to harm."""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.cli.app import main
from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import active_parameters
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.ranking import Ranking
from nemo_elastic.report import PAGE, Run, build_report, load_run
from nemo_elastic.report.figures import FIGURES, draw_importance, draw_members, draw_training
from nemo_elastic.report.page import members, render
from nemo_elastic.report.style import house
from nemo_elastic.slicing.family_folder import write_family
from tests.report.fabricate import BEFORE, FROZEN, LOSSES, write_json
from tests.shapes import MOE, PARENT
from tests.slicing.helpers import random_values

NAMES = ["1.6m", "1.1m", "0.8m"]
EVERY = set(FIGURES)


@pytest.fixture
def run(demo_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(demo_run, tmp_path / "demo")
    return tmp_path / "demo"


def edit(run: Path, **changes: Any) -> Path:
    """Other values in its metrics.json."""
    path = run / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return run


def cells(run: Path, title: str) -> list[list[str]]:
    """The cells of every row of a table of the page, the row of heads first."""
    html = render(load_run(run))
    table = html[html.index(f"<h2>{title}</h2>") :].partition("</table>")[0]
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall("<tr>(.*?)</tr>", table)]


# ------------------------------------------------------------------ the page


def test_the_page_holds_the_pictures_and_fetches_nothing(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    shown = re.findall(r'<img alt="[^"]+" src="data:image/png;base64,([^"]+)">', html)
    assert [b64decode(data) for data in shown] == [(page.parent / name).read_bytes() for name in FIGURES]
    assert "://" not in html and "<script" not in html and html.count("src=") == len(EVERY) and "url(h" not in html


def test_the_command_writes_the_same_page_and_names_what_it_wrote(
    page: Path, demo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(demo_run, tmp_path / demo_run.name)
    with pytest.raises(SystemExit) as caught:
        main(["report", str(run), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert caught.value.code == 0
    assert [m["name"] for m in printed["members"]] == ["parent", *NAMES]
    assert {Path(p).name for p in printed["pictures"]} == EVERY and printed["notes"] == []
    one, other = (re.sub('base64,[^"]+', "", each.read_text()) for each in (Path(printed["page"]), page))
    assert one == other


def test_text_of_the_files_is_escaped_shortened_and_printable(run: Path) -> None:
    hostile = "<script>\x1b]0;x\x07\u202e" + "a" * 5000
    rows = json.loads((run / "metrics.json").read_text())["members"]
    rows.append({"name": hostile, "loss": 3.0, "pattern": "<b>"})
    page = build_report(edit(run, members=rows)).read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "a" * 2000 not in page
    assert not any(letter in page for letter in "\x1b\x07\u202e")
    assert "demo &lt;&amp;&gt;" in page


def test_an_earlier_report_is_replaced_and_nothing_else(run: Path) -> None:
    for name in ("parent", "stage1", "stage2", "family"):  # one picture is enough
        shutil.rmtree(run / name)
    page = build_report(run)
    page.write_text("old")
    assert build_report(run) == page and page.read_text(encoding="utf-8") != "old"
    (page.parent / "mine.txt").write_text("mine")
    with pytest.raises(ElasticError, match=r"mine\.txt"):
        build_report(run)
    with pytest.raises(ElasticError, match="is an input"):
        build_report(run, run / "metrics.json")


# ------------------------------------------------------------------ parts


@pytest.mark.parametrize(
    ("gone", "pictures"),
    [
        ("metrics.json", EVERY - {"members.png"}),
        ("stage1/elastic", {"members.png", "training.png"}),
        ("family metrics.json stage1 stage2", {"training.png"}),
    ],
)
def test_missing_parts_make_a_shorter_report(run: Path, gone: str, pictures: set[str]) -> None:
    for name in gone.split():
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = build_report(run)
    assert page == run / "report" / PAGE and {p.name for p in page.parent.glob("*.png")} == pictures


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.json", "{"),
        ("metrics.json", '{"version": 1, "members": [{"name": "a", "loss": "low"}]}'),
        ("metrics.json", '{"version": 1, "members": [{"name": "a", "answers": {"correct": 3, "total": 2}}]}'),
        ("family/elastic.json", '{"version": 1}'),
        ("stage1/elastic/members.json", '{"members": {"0.8m": {"hidden": 7, "layers": []}}}'),
        ("stage1/elastic/shapes.json", '{"members": {"0.8m": {"hidden": 7}}}'),
        ("stage1/elastic/ranking/ranking.json", "{}"),
    ],
)
def test_a_damaged_part_is_named_in_one_line(run: Path, name: str, text: str) -> None:
    (run / name).write_text(text)
    with pytest.raises(ElasticError) as caught:
        build_report(run)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    assert not (run / "report").exists()


def test_lines_that_a_killed_training_left_are_noted(run: Path) -> None:
    path = run / "stage1" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "step", "st')
    loaded = load_run(run)
    assert len(loaded.notes) == 1 and "stage1/metrics.jsonl" in loaded.notes[0]
    assert len(loaded.phases[1].steps) == 260 and "stage1/metrics.jsonl" in render(loaded)


@pytest.mark.parametrize("training", ["stage1", "stage1/checkpoints"])
def test_a_training_by_itself_is_a_run_on_either_host(run: Path, training: str) -> None:
    """NeMo writes metrics and shapes beside the checkpoints' folder, Megatron-Bridge's command in it."""
    (run / "stage1").rename(run / "moved")
    (run / training).parent.mkdir(exist_ok=True)
    (run / "moved").rename(run / training)
    loaded = load_run(run / "stage1")
    (phase,) = loaded.phases
    assert phase.label == "training" and len(phase.steps) == 260
    assert list(loaded.subnets) == NAMES and loaded.parent is not None and loaded.frozen_at == FROZEN
    assert {p.name for p in build_report(run / "stage1").parent.glob("*.png")} == EVERY - {"members.png"}


def test_the_ranking_of_a_job_of_its_own_is_the_runs(run: Path) -> None:
    (run / "rank" / "elastic").mkdir(parents=True)
    for name in ("ranking", "shapes.json"):
        (run / "stage1" / "elastic" / name).rename(run / "rank" / "elastic" / name)
    loaded = load_run(run)
    assert loaded.ranking is not None and loaded.found and loaded.frozen


# ------------------------------------------------------------------ figures in tables


def test_members_have_exact_sizes_and_their_own_losses(run: Path) -> None:
    family = json.loads((run / "family" / "elastic.json").read_text())["members"]
    assert {row[0]: row[1] for row in cells(run, "Sizes")[2:]} == {
        name: f"{m['parameters']:,}" for name, m in family.items()
    }
    quality = {row[0]: row for row in cells(run, "Quality")}
    assert quality["parent"][1] == f"{BEFORE:.3f}"
    for name, (loss, untrained, unsorted) in LOSSES.items():
        cuts = ["–", "–"] if name == "1.6m" else [f"{untrained:.3f}", f"{unsorted:.3f}"]
        assert [quality[name][1], *quality[name][3:5]] == [f"{loss:.3f}", *cuts]
    assert quality["parent"][-1] == "40 of 96 (32%–52%; guess 0)"


def test_shapes_have_widths_and_the_layers_that_stay(run: Path) -> None:
    loaded, rows = load_run(run), cells(run, "Shapes")
    assert rows[0][:3] == ["member", "hidden", "depth"] and [row[0] for row in rows[1:]] == NAMES
    small = dict(zip(rows[0], rows[3], strict=True))
    subnet = loaded.subnets["0.8m"]
    assert (small["hidden"], small["ffn"], small["mamba_heads"]) == ("96", "320", "12")
    assert [i for i, letter in enumerate(small["layers"]) if letter != "·"] == sorted(subnet.kept)


def test_a_parent_that_was_not_measured_beside_its_members_is_not_made_of_one(run: Path) -> None:
    rows = [row | {"answers": None} for row in json.loads((run / "metrics.json").read_text())["members"][1:]]
    loaded = load_run(edit(run, members=rows))
    assert loaded.results is not None and loaded.results.before is None
    assert [loaded.place(name) for name in loaded.names] == [0, 1, 2]
    with house():
        drawing = draw_members(loaded)
    assert drawing is not None and drawing.words == ""


def test_targets_say_what_was_asked_and_found(run: Path) -> None:
    assert cells(run, "Targets")[1] == ["0.8m gains by sorting", "+1.630 nats", "at least 0.005", "yes"]


def test_members_with_experts_are_counted_both_ways(tmp_path: Path) -> None:
    Ranking.trivial(MOE).save(tmp_path / "stage1" / "elastic" / "ranking")
    small = MOE.uniform(experts=4, expert_ffn=8)
    shapes = {"members": {"whole": MOE.full.to_json(), "small": small.to_json()}, "report": {"source": "uniform"}}
    write_json(tmp_path / "stage1" / "elastic" / "shapes.json", shapes)
    counted = {m["name"]: m["active_parameters"] for m in members(load_run(tmp_path))}
    assert counted == {"whole": active_parameters(MOE, MOE.full), "small": active_parameters(MOE, small)}
    column = cells(tmp_path, "Sizes")[0].index("active")
    assert [row[column] for row in cells(tmp_path, "Sizes")[1:]] == [f"{count:,}" for count in counted.values()]


def test_how_much_of_several_limits_a_member_uses_is_among_its_sizes() -> None:
    both = Budget("small", ratio=0.7, memory={"size": 2**20, "batch": 4})
    small = PARENT.uniform(hidden=8, ffn=8)
    family = Family.of(PARENT, {"full": PARENT.full, "small": small}, budgets=[Budget("full"), both])
    share = both.limits[0].share(PARENT, small)
    record = Run(Path("run"), family=family)
    assert [m.get("limits", "").split(",")[0] for m in members(record)] == ["", f"ratio {share:.1%}"]
    assert "of its limits" in render(record)
    alone = replace(record, family=Family.of(PARENT, {"small": small}, budgets=[Budget("small", ratio=0.7)]))
    assert "of its limits" not in render(alone)


def test_memory_is_that_of_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, small = tmp_path / "run", PARENT.uniform(hidden=8, ffn=8)
    write_family(run / "family", PARENT, random_values(PARENT), Family.of(PARENT, {"small": small}))
    config = run / "family" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"torch_dtype": "bfloat16"}))
    with pytest.raises(SystemExit):
        main(["inspect", str(run / "family"), "--json"])
    inspected = json.loads(capsys.readouterr().out)["members"]
    loaded = load_run(run)
    assert loaded.serving.weights == "bf16"
    for m in members(loaded):
        assert {"bytes": m["memory_bytes"], **m["memory"]} == inspected[m["name"]]["memory"]


# ------------------------------------------------------------------ pictures


def test_members_are_drawn_where_their_losses_are(demo_run: Path) -> None:
    with house():
        drawing = draw_members(load_run(demo_run))
    assert drawing is not None
    axes = drawing.figure.axes[0]
    marks = {(round(float(x.get_xdata()[0]), 2), int(x.get_ydata()[0])) for x in axes.lines if len(x.get_xdata()) == 1}  # pyright: ignore
    expected = {(BEFORE, 0)} | {(losses[0], i) for i, losses in enumerate(LOSSES.values(), 1)}
    expected |= {(x, i) for i, losses in enumerate(LOSSES.values(), 1) if i > 1 for x in losses[1:]}
    assert marks == expected
    assert [t.get_text().partition(" ")[0] for t in axes.get_yticklabels()] == ["parent", *NAMES]


@pytest.mark.parametrize("figures", [("losses",), ("losses", "kl")])
def test_a_member_that_rises_in_a_phase_is_told(run: Path, figures: tuple[str, ...]) -> None:
    points = [(step, {"1.6m": 3.0 + up, "1.1m": 3.0, "0.8m": 3.5 - up}) for step, up in ((0, 0.0), (9, 0.1))]
    lines = [{"kind": "heldout", "step": step, "tokens": step} | dict.fromkeys(figures, at) for step, at in points]
    shutil.rmtree(run / "stage1")
    (run / "stage2" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with house():
        drawing = draw_training(load_run(run))
    assert drawing is not None
    assert drawing.words.endswith("higher than at its beginning: 1.6m by 0.100.")
    assert (["1.6m", "3.1000"] in [[row[0], row[-2]] for row in cells(run, "Quality")]) == ("kl" in figures)


@pytest.mark.parametrize("loss", ["NaN", "null", "9" * 20, "9" * 400, "1e300"])
def test_a_run_that_diverged_is_drawn_as_far_as_it_has_losses(run: Path, loss: str) -> None:
    for phase in ("parent", "stage1", "stage2"):
        line = f'{{"kind": "heldout", "step": 1, "tokens": 1, "losses": {{"1.6m": {loss}, "new": {loss}}}}}\n'
        (run / phase / "metrics.jsonl").write_text(line)
    rows, drawn = json.loads((run / "metrics.json").read_text())["members"], loss == "9" * 20
    number = int(loss) if drawn else None
    for row in rows[2:]:
        row |= {"loss": number, "untrained_loss": number, "unsorted_loss": number}
    loaded = load_run(edit(run, members=rows))
    with house():
        known = draw_training(loaded), draw_members(loaded)
    assert (known[0] is not None, len(known[1].figure.axes[0].get_yticks())) == (drawn, 4 if drawn else 2)


def test_a_picture_shows_some_of_very_many_members(run: Path) -> None:
    rows = [{"name": f"m{i}", "loss": 3 + i / 1000} for i in range(900)]
    losses = json.dumps({row["name"]: row["loss"] for row in rows})
    lines = (f'{{"kind": "heldout", "step": {i}, "tokens": {i}, "losses": {losses}}}\n' for i in range(2))
    (run / "stage2" / "metrics.jsonl").write_text("".join(lines))
    shutil.rmtree(run / "stage1")
    loaded = load_run(edit(run, members=rows))
    with house():
        members, training = draw_members(loaded), draw_training(loaded)
    assert members is not None and training is not None
    assert len(members.figure.axes[0].get_yticks()) == 24 and members.figure.get_figheight() < 20
    assert len([x for x in training.figure.axes[-1].get_lines() if str(x.get_label())[0] != "_"]) == 24
    assert "24 of 900" in members.words and "24 of 90" in training.words


def test_a_parent_with_experts_is_drawn() -> None:
    scores = {name: order + 1.0 for name, order in Ranking.trivial(MOE).orders.items()}
    with house():
        assert draw_importance(Run(Path("run"), ranking=replace(Ranking.trivial(MOE), scores=scores))) is not None
