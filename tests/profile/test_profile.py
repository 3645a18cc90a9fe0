# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic profile`: a table from a folder, interrupted and gone on with, used by `slice` and `inspect`."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.cli import main
from nemo_elastic.core.latency import DECODE, PHASES, LatencyTable, Workload
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import read_shapes
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.profile.engines import Engine
from nemo_elastic.profile.measure import Stop, cells, empty_table, measure, widths_of
from tests.shapes import PARENT
from tests.slicing.helpers import write

SMALL = PARENT.uniform(hidden=PARENT.hidden // 2, ffn=PARENT.size("ffn") // 2)
QUICK = ["--prompt-tokens", "4", "--answer-tokens", "3"]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("profile") / "family", PARENT, {"small": SMALL})


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in arguments])
    return int(done.value.code or 0)


def test_a_table_of_the_runtime_serves_slice_and_inspect(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "here.json"
    assert run("profile", family, "--out", out, *QUICK) == 0
    said, lines = capsys.readouterr()
    measured = list(cells(json_widths(out)))
    assert lines.splitlines() == [f"runtime: {cell}" for cell in measured], "each where no terminal shows a bar"
    assert re.search(r"runtime on .+ threads?, batch 1, 4 \+ 3 tokens, bf16; .+ takes: prefill [\d.]+ ms", said)
    table, shapes = LatencyTable.read("table", str(out)), read_shapes(family)
    assert all(len(widths) <= 2 for grid in table.grids.values() for widths in grid.axes.values())
    assert run("inspect", family, "--json", "--latency", out) == 0
    record = json.loads(capsys.readouterr().out)
    for name, subnet in shapes.members.items():
        for phase in PHASES:
            assert record["members"][name]["latency"][phase] == table.milliseconds(shapes.parent, subnet, phase)
    small, whole = (table.milliseconds(shapes.parent, s) for s in (SMALL, PARENT.full))
    between = (small + whole) / 2
    assert run("slice", family, "--latency", f"{out}:{between}ms", "--out", tmp_path / "cut", "--json") == 0
    cut = json.loads(capsys.readouterr().out)["request"]
    assert cut["option"] == "--latency" and cut["limit"] == between and 0 <= cut["below"] < 1


def json_widths(table: Path) -> dict[str, Any]:
    return {name: grid["axes"] for name, grid in json.loads(table.read_text())["grids"].items()}


def test_weights_have_the_dtype_of_the_source(family: Path, tmp_path: Path) -> None:
    stored = Path(shutil.copytree(family, tmp_path / "family"))
    config = json.loads((stored / "config.json").read_text())
    for name, words in (("fp32", "float32"), ("bf16", "bfloat16")):
        (stored / "config.json").write_text(json.dumps(config | {"torch_dtype": words}))
        assert run("profile", stored, "--out", tmp_path / f"{name}.json", "--gpu", "h100") == 0
        assert json.loads((tmp_path / f"{name}.json").read_text())["workload"]["dtype"] == name


class Stopped(Engine):
    """An engine that is interrupted."""

    left = 3

    def load(self, parent: Any, member: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().load(parent, member)


def test_what_was_measured_before_an_interruption_is_kept(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes, out, work = read_shapes(family), tmp_path / "table.json", Workload(1, 4, 3, "bf16")
    assert shapes.family is not None
    widths = widths_of(shapes.parent, shapes.family.axes, 2)
    empty = empty_table(shapes.parent, widths, "measured", "runtime", work)
    stopped = Stopped("runtime", work, "cpu", sys.executable)
    with pytest.raises(KeyboardInterrupt):
        measure(out, empty, shapes.parent, widths, stopped, Stop(seconds=0), lambda *_: None)
    before = json.loads(out.read_text())
    first = next(iter(cells(widths))).kind
    known = [v for v in before["grids"][first][DECODE] if v is not None]
    assert len(known) == 1
    with pytest.raises(ElasticError, match="not measured yet"):
        LatencyTable.read("table", str(out))
    assert run("profile", family, "--out", out, *QUICK) == 0
    after = json.loads(out.read_text())
    assert after["grids"][first][DECODE][0] == known[0]
    capsys.readouterr()
    for key, value in (("versions", {"torch": "1.0"}), ("hardware", "another")):
        out.write_text(json.dumps(before | {key: value}))
        assert run("profile", family, "--out", out, *QUICK) == 2
        assert f"{key}: " in capsys.readouterr().err
        assert json.loads(out.read_text())["grids"] == before["grids"], "nothing is lost"
    assert run("profile", family, "--out", out, "--batch", "2", *QUICK) == 2
    assert "workload: " in capsys.readouterr().err
    grid = before["grids"][first]
    axis = next(iter(grid["axes"]))
    damaged = [{"axes": {axis: [*grid["axes"][axis][:-1], 99]}}, {DECODE: grid[DECODE][:-1]}]
    damaged += [{DECODE: value} for value in (None, 3, {}, ["x", *grid[DECODE][1:]])]
    for change in [*damaged, {"axes": None}, {"bounds": "x"}, {"more": 1}]:
        broken = before | {"grids": before["grids"] | {first: grid | change}}
        for table in (broken, before | {"grids": list(change)}, before | {"hardware": 3}, list(change)):
            out.write_text(json.dumps(table))
            assert run("profile", family, "--out", out, *QUICK) == 2
            assert capsys.readouterr().err.startswith(f"error: {out}: ") and out.read_text() == json.dumps(table)


def test_a_plain_parent_takes_the_axes_of_a_block_whose_table_is_not_there_yet(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_json = tmp_path / "paper.json"
    block = tmp_path / "block.yaml"
    full, half = PARENT.size("ffn"), PARENT.size("ffn") // 2
    block.write_text(
        f"elastic:\n  budgets: [{{name: half, latency: {{table: {main_json}, ratio: 0.95}}}}]\n"
        f"  axes: {{hidden: [{PARENT.hidden}, {PARENT.hidden // 2}], ffn: [{full}, {half}]}}\n"
    )
    parent = tmp_path / "parent"
    assert run("slice", family, "--member", "full", "--out", parent) == 0
    (parent / MEMBER_FILE).unlink()
    assert run("init", parent, "--config", block, "--out", tmp_path / "early") == 2
    assert f"{main_json}: no such file" in capsys.readouterr().err
    assert run("profile", parent, "--config", block, "--out", main_json, "--gpu", "h100", "--batch", "4") == 0
    assert "roofline on h100, batch 4" in capsys.readouterr().out
    assert run("init", parent, "--config", block, "--out", tmp_path / "made") == 0
    table, shapes = LatencyTable.read("table", str(main_json)), read_shapes(tmp_path / "made")
    member = shapes.members["half"]
    whole = table.milliseconds(shapes.parent, shapes.parent.full)
    assert 0.5 * whole < table.milliseconds(shapes.parent, member) <= 0.95 * whole
