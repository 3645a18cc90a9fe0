# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The scripts that run recipes: what Slurm would be given, what torchrun, and what is refused. Nothing is started."""

from __future__ import annotations

import importlib
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from recipes.families import family
from tests.texts import FEW, library_text
from tests.workers import environment

pytestmark = pytest.mark.nemo
ROOT = Path(__file__).parents[2]
RECIPE = ["--recipe", "nemotron_elastic_12b", "--parent", "/checkpoints/12b", "--dir", "/runs/12b"]
DATA = ["--data", "0.7", "/data/code", "0.3", "/data/web"]
IMAGE = "/images/nemo-elastic-25.11.sqsh"
SLURM = ["--account", "research", "--partition", "batch", "--image", IMAGE, "--time", "40:00:00",
         "--job-dir", "/home/me/jobs", "--mount", "/checkpoints", "/lustre/data:/data"]  # fmt: skip
SSH = ["--host", "login.example.com", "--user", "me"]


@dataclass(frozen=True)
class Dry:
    """What a dry run printed; the file of every job; and its table, job -> other columns."""

    said: str
    files: dict[str, str]
    table: dict[str, list[str]]


def read(said: str, folder: Path, ending: str = "_sbatch.sh") -> Dry:
    """The table of what a script printed, and the files of the jobs in it."""
    rows = said.partition(" hours\n")[2].partition("all stages")[0]
    cells = [re.split(r"  +", line.strip()) for line in rows.splitlines()]
    files = {path.name.removesuffix(ending): path.read_text(encoding="utf-8") for path in folder.glob(f"*{ending}")}
    return Dry(said, files, {name: rest for name, *rest in cells})


def script(name: str, args: list[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the script's main does, in another folder."""
    monkeypatch.setattr("nemo_run.config._NEMORUN_HOME", str(home))  # read from the environment on import
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # its shell commands look for one
    monkeypatch.chdir(home)
    importlib.import_module(name).main(args)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Dry:
    """What the script prints and writes, run as a user runs it, on a narrow screen."""
    home = tmp_path_factory.mktemp("slurm")
    env = environment(NEMORUN_HOME=str(home / "home"), COLUMNS="80")
    command = [sys.executable, ROOT / "recipes" / "run.py", "--slurm", *RECIPE, *DATA, *SLURM, *SSH]
    command += ["--jobs", "2", "--dryrun", "dry"]
    done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in home.iterdir()) == ["dry"], "nothing else is written"
    assert f"6 jobs; nothing is submitted. Files: {home / 'dry'}" in done.stdout
    return read(done.stdout, home / "dry")


def planned(recipe: Any) -> dict[str, list[str]]:
    """The table of a 12B's jobs on the machines of `SLURM`, each stage in two turns."""
    from nemo_elastic.plan import PAPER

    layouts = {number: recipe.layout(number, PAPER, 128, "h100") for number in (1, 2)}
    limit, stages = "40:00:00", {}
    for number, layout in layouts.items():
        hours = [
            f"{each * PAPER.stage(number).max_steps / 3600:.1f}" for each in (layout.seconds, layout.seconds_high)
        ]
        stages[f"stage{number}"] = ["2", "16", "128", str(layout), limit, "-".join(hours)]
    return {
        "rank": ["1", "1", "8", "TP1 PP1 DP8", limit, "-"],
        **stages,
        "slice": ["1", "1", "0", "one process", limit, "-"],
    }


def flags(file: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.+))?$", file, re.MULTILINE))


def test_every_job_asks_for_the_machines_that_its_layout_takes(slurm: Dry) -> None:
    assert slurm.table == planned(family("nemotron_elastic_12b"))
    assert slurm.said.partition("6 jobs;")[0].count("apply_elastic changes the recipe:") == 2
    assert "all stages by plan: 6,960 steps in " in slurm.said
    assert set(slurm.files) == {"rank", "stage1", "stage1_2", "stage2", "stage2_4", "slice"}
    for job, file in slurm.files.items():
        given, stage = flags(file), job.startswith("stage")
        assert given["job-name"] == f"nemotron_elastic_12b.{job}"
        assert (given["account"], given["time"], given["partition"]) == ("research", "40:00:00", "batch")
        assert given["nodes"] == ("16" if stage else "1")
        assert given.get("signal") == ("15@900" if stage else None), "stopped in time for the next"
        if job == "slice":
            assert (given["ntasks-per-node"], given["mem"]) == ("1", "32G")
            assert "exclusive" not in given and "gpu" not in file.partition("set -evx")[0]
        else:
            assert given["ntasks-per-node"] == given["gpus-per-node"] == "8"
            assert "exclusive" in given and given["mem"] == "0"


def test_jobs_run_in_the_container_with_its_mounts_in_lines_that_no_screen_breaks(slurm: Dry) -> None:
    for file in slurm.files.values():
        assert f"--container-image {IMAGE}" in file
        assert "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in file
        mounts = re.search(r"^srun .*--container-mounts (\S+)", file, re.MULTILINE)
        assert mounts is not None
        assert {"/checkpoints:/checkpoints", "/lustre/data:/data"} <= set(mounts[1].split(","))
        assert "/home/me/jobs/nemotron_elastic_12b" in file
        head = file.partition("set -evx")[0].splitlines()
        assert max(map(len, head)) > 120 and all(line.startswith("#") for line in head if line)


#: stands in for Slurm: gives job numbers, and writes down what it was asked for
SBATCH = """#!/bin/sh
number=$(( 101 + $(cat "$SUBMITTED" 2> /dev/null | wc -l) ))
for argument in "$@"; do file=$argument; done
echo "$number $(grep -o 'fdl_runner -n [^ ]*' "$file" | cut -d ' ' -f 3) $*" >> "$SUBMITTED"
echo $number
"""


def test_each_job_waits_for_the_success_of_the_one_before_it_and_only_the_last_of_a_row_can_end_unfinished(
    tmp_path: Path,
) -> None:
    from nemo_run.core.serialization.zlib_json import ZlibJSONSerializer

    from nemo_elastic.hosts.nemo.checkpoint.resume import STOPPED, StopInTime

    # on a login node, where nothing but sbatch is called
    sbatch, submitted = tmp_path / "bin" / "sbatch", tmp_path / "submitted"
    sbatch.parent.mkdir()
    sbatch.write_text(SBATCH)
    sbatch.chmod(0o755)
    path = f"{sbatch.parent}:{os.environ['PATH']}"
    env = environment(NEMORUN_HOME=str(tmp_path / "home"), SUBMITTED=str(submitted), PATH=path)
    command = [sys.executable, ROOT / "recipes" / "run.py", "--slurm", *RECIPE, *DATA, *SLURM]
    command += ["--job-dir", tmp_path / "jobs", "--jobs", "3"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split() for line in submitted.read_text().splitlines()]
    names = ["rank", "stage1", "stage1_2", "stage1_3", "stage2", "stage2_5", "stage2_6", "slice"]
    assert [name for _, name, *_ in rows] == names
    waits = [[word for word in row if word.startswith("--dependency")] for row in rows]
    assert waits == [[], *([f"--dependency=afterok:{number}"] for number, *_ in rows[:-1])]
    codes = {}
    for path in tmp_path.rglob("*_fn_or_script"):
        task = ZlibJSONSerializer().deserialize(path.read_text()).task
        callbacks = getattr(getattr(task, "trainer", None), "callbacks", [])
        stops = [c.code for c in callbacks if c.__fn_or_cls__ is StopInTime]
        codes[path.name.removesuffix("_fn_or_script")] = stops
    assert codes == {"rank": [], "slice": []} | {
        name: [STOPPED if name in ("stage1_3", "stage2_6") else 0] for name in names if name.startswith("stage")
    }


def test_on_a_login_node_no_host_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nemo_elastic.plan import PAPER, duration

    place = ["--job-dir", str(tmp_path / "jobs"), "--cpu-partition", "cpu"]
    args = ["--slurm", *RECIPE, *DATA, *SLURM, *place, "--nodes", "8", "--gpu", "h200", "--time", "03:00:00",
            "--dryrun", "dry"]  # fmt: skip
    script("run", args, tmp_path, monkeypatch)
    dry = read(capsys.readouterr().out, tmp_path / "dry")
    jobs, recipe = dry.files, family("nemotron_elastic_12b")
    assert list(dry.table) == ["rank", "stage1", "stage2", "slice"]
    for number in (1, 2):
        layout, steps = recipe.layout(number, PAPER, 64, "h200"), PAPER.stage(number).max_steps
        turns = int(dry.table[f"stage{number}"][0])  # of 3 hours, a quarter less in which it is stopped
        assert turns > 10 and turns - 1 < duration(layout, steps).hours_high / 2.75 <= turns
        assert turns == sum(name.startswith(f"stage{number}") for name in jobs)
    stages = [flags(file) for name, file in jobs.items() if name.startswith("stage")]
    assert {(each["nodes"], each["signal"]) for each in stages} == {("8", "15@900")}
    assert {flags(file)["partition"] for file in jobs.values()} == {"batch", "cpu"}
    assert f"{tmp_path}/jobs/experiments/nemotron_elastic_12b" in jobs["rank"]
    assert not (tmp_path / "jobs").exists()


def test_jobs_on_bridge_are_written_where_bridge_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = ["--recipe", "bridge/nemotron_elastic_30b_a3b", *RECIPE[2:]]
    script("run", ["--slurm", *recipe, *DATA, *SLURM, *SSH, "--dryrun", "dry"], tmp_path, monkeypatch)
    said = capsys.readouterr().out
    assert "Megatron-Bridge cannot be imported here" in said
    dry = read(said, tmp_path / "dry")
    stages = [dry.table[f"stage{number}"][3] for number in (1, 2)]
    assert [*dry.table] == ["rank", "stage1", "stage2", "slice"] and all(" EP8" in layout for layout in stages)
    assert {name.partition("_")[0] for name in dry.files} == set(dry.table)


@pytest.mark.parametrize(
    ("given", "offline"),
    [
        (("--tokenizer", "nvidia/NVIDIA-Nemotron-Nano-12B-v2"), False),
        (("--tokenizer", "/checkpoints/tokenizer"), True),
        (("--offline",), True),
    ],
)
def test_jobs_are_offline_only_where_nothing_comes_from_a_hub(given: tuple[str, ...], offline: bool) -> None:
    from run import get_parser, slurm_executor

    args = get_parser("slurm").parse_args(["--slurm", *RECIPE, *DATA, *SLURM, *given])
    for devices in (8, 0):
        assert ("TRANSFORMERS_OFFLINE" in slurm_executor(1, devices, args=args).env_vars) == offline


def test_the_tiny_one_shows_what_it_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nemo_elastic.data.build import build_data

    build_data(tmp_path / "data", [library_text(tmp_path / "text", FEW)], vocab=512, held_out_problems=4)
    args = ["--dir", "tiny", "--data", str(tmp_path / "data"), "--parent", "/checkpoints/tiny", "--dryrun", "dry"]
    for _ in range(2):  # a second one replaces the first
        script("tiny", args, tmp_path, monkeypatch)
        dry = read(capsys.readouterr().out, tmp_path / "dry", ".sh")
        ranks = {name: re.findall(r"--nproc-per-node[ =](\d+)", file) for name, file in dry.files.items()}
        assert [ranks[name] for name in dry.table] == [[n] for n in "2221"]
        layouts = [row[3] for row in dry.table.values()]
        assert layouts == ["TP1 PP1 DP2", "TP2 PP1 DP1 SP", "TP2 PP1 DP1 SP recompute", "one process"]


LOCAL, CLUSTER = ["--local", *RECIPE, *DATA], ["--slurm", *RECIPE, *DATA, *SLURM]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([*LOCAL, "--devices", "1"], "error: no layout"),
        ([*CLUSTER, "--dir", "runs"], "error: dir: 'runs' "),
        ([*CLUSTER, "--rehearse", "6"], "error: ranks: 6 "),
        ([*CLUSTER, "--jobs", "0"], "error: --jobs: 0 "),
        ([*CLUSTER, "--time", "04:00:00", "--jobs", "2"], "error: --jobs: 2 "),
        ([*CLUSTER, "--time", "4h"], "error: time: '4h' "),
        ([*CLUSTER, "--time", "00:15:00"], "error: time: '00:15:00' "),
        ([*CLUSTER, "--host", "login"], "error: --host needs --user"),
        (["--job", "rank", *RECIPE, *DATA], "error: --recipe: 'nemotron_elastic_12b' "),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(
    args: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        script("run", args, tmp_path, monkeypatch)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
