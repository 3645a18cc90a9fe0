# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The large recipes are rehearsed: their own jobs run, one is killed and goes on, and every check holds.

`make test-long` rehearses the smallest; `make rehearse` the others too, one of them by the command.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipes.families import family
from tests.workers import environment, work

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.hf, pytest.mark.slow(minutes=5)]
ROOT = Path(__file__).parents[2]
CHECKS = {
    "ranked_loaded", "shapes_found", "members_validated", "resumed", "optimizer_loaded", "members_cut",
    "in_transformers",
}  # fmt: skip
WHYS = {
    "a CPU's kernels", "number of ranks", "widths and vocabulary", "lengths", "batch", "steps", "samples", "intervals",
    "paths", "the rehearsal reads its records",
}  # fmt: skip
JOBS = ["parent", "rank", "stage1-killed", "stage1", "stage2", "slice"]


def failures(report: dict[str, Any]) -> str:
    checks = {name: check["told"] for name, check in report["checks"].items() if not check["ok"]}
    return f"{report['failed']} {checks}"


def hf_python() -> str:
    python = Path(os.environ.get("NEMO_ELASTIC_HF_PYTHON", ".venv-hf/bin/python"))
    return str(python if python.is_absolute() else ROOT / python)


@pytest.mark.rehearsal
def test_the_command_rehearses_the_9b_recipe(tmp_path: Path) -> None:
    """As the README's reader does: torchrun; two processes, not four."""
    out, env = tmp_path / "out", environment(NEMORUN_HOME=str(tmp_path / "home"), NEMO_ELASTIC_HF_PYTHON=hf_python())
    arguments = ["rehearse", "nemotron_elastic_9b", "--out", str(out), "--ranks", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "nemo_elastic", *arguments], cwd=ROOT, env=env, capture_output=True, text=True,
        timeout=1800,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (0, True), failures(report)
    assert report["recipe"] == "nemotron_elastic_9b" and report["failed"] is None
    assert set(report["checks"]) == CHECKS and all(check["ok"] is True for check in report["checks"].values())
    assert [job["name"] for job in report["jobs"]] == JOBS
    layouts = {job["name"]: job["layout"] for job in report["jobs"]}
    assert layouts["stage1"].startswith("TP1 PP1 DP2"), "the recipe's TP2, on two ranks"
    assert layouts["stage2"].startswith("TP1 CP2 PP1"), "a change of layout stays one"
    figures = report["checks"]["resumed"]
    assert 0 < figures["went_on_from"] <= figures["killed_after"] < figures["reached"] == 18
    assert json.loads((out / "rehearsal.json").read_text()) == report
    assert re.search(r"stage1: step \d+/18", (out / "rehearsal.log").read_text())


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    done: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in done:
            folder = tmp_path_factory.mktemp(name) / "out"
            folder.mkdir()
            work("tests.rehearsal.in_forks", name, folder)
            done[name] = folder
        return done[name]

    return of


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        *(
            pytest.param(f"nemotron_elastic_{name}", marks=pytest.mark.rehearsal)
            for name in ("12b", "12b@elastic_12b_paper", "12b_sft", "12b+fp8")
        ),
        "nemotron_elastic_8b",
    ],
)
def test_the_others_are_rehearsed(forked: Callable[[str], Path], name: str) -> None:
    report = json.loads((forked(name) / "rehearsal.json").read_text())
    assert report["ok"], failures(report)
    assert {check["ok"] for check in report["checks"].values()} == {True}
    third = "stage3" in [job["name"] for job in report["jobs"]]
    assert third == ("+" in name) == ("fp8" in report["checks"]["members_cut"]["told"])


@pytest.fixture
def copy(forked: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Any]:
    """A rehearsal that can be spoilt, and what its checks look at."""
    folder = tmp_path / "copy"
    shutil.copytree(forked("nemotron_elastic_8b"), folder, copy_function=os.link)
    return folder, place(folder)


def place(folder: Path) -> Any:
    from nemo_elastic.rehearsal.findings import Place
    from nemo_elastic.rehearsal.run import left_by
    from nemo_elastic.rehearsal.short import Short, rehearsed
    from tests.rehearsal.in_forks import RANKS, STEPS

    recipe = family("nemotron_elastic_8b")
    run = recipe.run_of("/parent", ["/data"], "/run")
    own = [*rehearsed(recipe, run, Short(ranks=RANKS, steps=STEPS), str(folder)).values()][-1]
    return Place(folder, own.block, own.curriculum, left_by(recipe, own))


def put(source: Path, target: Path) -> None:
    shutil.rmtree(target)
    shutil.copytree(source, target)


@pytest.mark.long
def test_shapes_that_are_not_handed_on_are_seen(copy: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_elastic.rehearsal import findings

    _, where = copy
    assert findings.shapes_found(where).ok
    read = findings.model_of

    def others_at_the_end(folder: Path, prefix: str) -> dict[str, Any]:
        return {name: value + (folder == where.end(1)) for name, value in read(folder, prefix).items()}

    monkeypatch.setattr(findings, "model_of", others_at_the_end)
    found = findings.shapes_found(where)
    assert found.ok is False and "stage 2 has others" in found.message


def test_a_few_weights_that_move_are_no_router_that_learns() -> None:
    import torch

    from nemo_elastic.rehearsal.findings import movement

    begun = {"up": torch.zeros(64), "prior": torch.zeros(3), "codes": torch.zeros(2, dtype=torch.int64)}
    held_up = torch.full((64,), 1e-6)
    held_up[:4] = 1e-2
    assert movement(begun, begun | {"up": held_up}) == pytest.approx(1e-6)
    assert movement(begun, begun | {"up": torch.full((64,), 1e-2)}) == pytest.approx(1e-2)
    assert movement(begun, begun) == 0.0


@pytest.mark.long
def test_another_optimizer_is_seen(copy: tuple[Path, Any]) -> None:
    from nemo_elastic.rehearsal.findings import optimizer_loaded

    _, where = copy
    assert optimizer_loaded(where).ok
    put(where.start(1, 1) / "start" / "weights", where.start(2, 0) / "start" / "weights")
    check = optimizer_loaded(where)
    assert check.ok is False and "differ from those that stage 1 left" in check.message


@pytest.mark.long
def test_a_start_from_elsewhere_is_seen(copy: tuple[Path, Any]) -> None:
    from nemo_elastic.rehearsal.findings import ranked_loaded, resumed

    _, where = copy
    assert resumed(where).ok and ranked_loaded(where).ok
    put(where.start(2, 0) / "start" / "weights", where.start(1, 1) / "start" / "weights")
    assert resumed(where).ok is False
    put(where.start(2, 0) / "start" / "weights", where.start(1, 0) / "start" / "weights")
    assert ranked_loaded(where).ok is False


@pytest.mark.parametrize(
    ("losses", "ok"),
    [
        (((0, 0.0022), (0.0042, 0.0104), (0.1038, 0.0464)), True),  # all share what the whole model went away
        (((0.0006, 0.0019), (0.0015, 0.002)), True),  # all started next to their teacher
        (((0, 0.02), (0.0011, 0.02), (0.0153, 0.03)), False),
        (((0, 0.02), (0.0011, 0.0011), (0.0153, 0.01)), False),  # the whole model went too far
        (((0, 0.0), (0.01, 0.01)), False),  # nothing was learned
        (((0, 0.0), (0.01, float("nan"))), False),
    ],
)
def test_the_farthest_member_comes_closer(losses: Any, ok: bool) -> None:
    from nemo_elastic.rehearsal.findings import came_closer

    assert came_closer(*losses) is ok


@pytest.mark.long
def test_a_loss_that_rose_or_is_missing_is_seen(copy: tuple[Path, Any]) -> None:
    from nemo_elastic.rehearsal.findings import members_validated

    folder, where = copy
    assert members_validated(where).ok
    file = folder / "stage1" / "metrics.jsonl"
    lines = file.read_text().splitlines()
    held_out = [i for i, line in enumerate(lines) if '"heldout"' in line]
    last = json.loads(lines[held_out[-1]])
    drift, kept = 0.5 * max(json.loads(lines[held_out[0]])["kl"].values()), last["kl"]
    whole, *others = kept
    file.unlink()  # it is a link
    for went, rose, ok in ((1.0, 1.0, False), (drift, drift, True), (0.0, 1.0, False)):
        last["kl"] = {whole: kept[whole] + went, **{name: kept[name] + rose for name in others}}
        file.write_text("\n".join([*lines[: held_out[-1]], json.dumps(last)]) + "\n")
        assert members_validated(where).ok is ok
    del last["losses"]["4b"]
    file.write_text("\n".join([*lines[: held_out[-1]], json.dumps(last)]) + "\n")
    assert members_validated(where).message == "no held-out loss of 4b"


@pytest.mark.long
def test_a_cut_that_computes_something_else_is_seen(copy: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_elastic.rehearsal.findings import in_transformers, members_cut

    monkeypatch.setenv("NEMO_ELASTIC_HF_PYTHON", hf_python())
    folder, where = copy
    assert members_cut(where).ok
    put(folder / "members" / "8b", folder / "members" / "4b")
    facts = where.start(2, 0) / "facts.json"
    spoilt = json.loads(facts.read_text())
    spoilt["losses"]["4b"] += 0.1
    facts.unlink()
    facts.write_text(json.dumps(spoilt))
    assert members_cut(where).ok is False
    assert in_transformers(where).ok is False


@pytest.mark.parametrize("losses", [{"8b": 1.0, "4b": float("nan")}, {"8b": float("nan"), "4b": 1.0}])
def test_a_cut_that_loses_no_number_is_seen(monkeypatch: pytest.MonkeyPatch, losses: dict[str, float]) -> None:
    from nemo_elastic.rehearsal import findings

    config = SimpleNamespace(distill=SimpleNamespace(quantize=None))
    where: Any = SimpleNamespace(dir=Path(), config=config, text=lambda: (None, None, {"8b": 1.0, "4b": 1.0}))
    monkeypatch.setattr(findings, "cut_losses", lambda *_: losses)
    monkeypatch.setattr(findings, "lose_in_transformers", lambda *_: (losses, ""))
    assert findings.members_cut(where).ok is False and findings.in_transformers(where).ok is False


def test_what_is_missing_is_reported(tmp_path: Path) -> None:
    from nemo_elastic.rehearsal.findings import checks

    actual = checks(place(tmp_path))
    assert set(actual) == CHECKS
    assert all(check.ok is False and check.message.startswith("nothing to check: ") for check in actual.values())
