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
from pathlib import Path

import pytest

pytestmark = pytest.mark.nemo
ROOT = Path(__file__).parents[2]
RECIPE = ["--recipe", "nemotron_elastic_12b", "--parent", "/checkpoints/12b", "--dir", "/runs/12b"]
DATA = ["--data", "0.7", "/data/code", "0.3", "/data/web"]
SLURM = ["--account", "research", "--partition", "batch", "--image", "nemo-elastic:25.11", "--time", "03:00:00",
         "--job-dir", "/home/me/jobs", "--mount", "/checkpoints", "/lustre/data:/data"]  # fmt: skip
WIDE = "3000"
SSH = ["--host", "login.example.com", "--user", "me"]


def script(name: str, args: list[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the script's main does, in another folder, with a screen so wide that NeMo-Run cuts no line."""
    monkeypatch.setattr("nemo_run.config._NEMORUN_HOME", str(home))  # read from the environment on import
    monkeypatch.setenv("COLUMNS", WIDE)
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # its shell commands look for one
    monkeypatch.chdir(home)
    importlib.import_module(name).main(args)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the script prints, run as a user runs it."""
    home = tmp_path_factory.mktemp("slurm")
    env = os.environ | {"NEMORUN_HOME": str(home), "COLUMNS": WIDE, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        ROOT / "recipes" / "run_slurm.py",
        *RECIPE,
        *DATA,
        *SLURM,
        *SSH,
        "--jobs",
        "2",
        "--dryrun",
    ]
    done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def jobs_of(text: str) -> dict[str, str]:
    """The sbatch file of every job: name -> text."""
    files = re.split(r"#-+\s+# SBATCH_SCRIPT\s+#-+", text)[1:]
    return {re.search(r"fdl_runner -n (\S+)", f)[1]: f for f in files}  # pyright: ignore[reportOptionalSubscript]


def flags(file: str) -> dict[str, str]:
    return dict(re.findall(r"#SBATCH --([a-z-]+)=(\S+)", file))


def test_slurm_gets_every_job_in_order(slurm: str) -> None:
    assert list(jobs_of(slurm)) == ["rank", "stage1", "stage1_2", "stage2", "stage2_4", "slice"]


def test_the_stages_get_all_nodes_and_the_others_one(slurm: str) -> None:
    for job, file in jobs_of(slurm).items():
        given = flags(file)
        assert given["job-name"] == f"nemotron_elastic_12b.{job}"
        assert given["account"] == "research"
        assert given["partition"] == "batch"
        assert given["time"] == "03:00:00"
        assert given["nodes"] == ("16" if job.startswith("stage") else "1")
        tasks = "1" if job == "slice" else "8"
        assert given["ntasks-per-node"] == given["gpus-per-node"] == tasks


def test_jobs_run_in_the_container_with_its_mounts(slurm: str) -> None:
    for file in jobs_of(slurm).values():
        assert "--container-image nemo-elastic:25.11" in file
        mounts = re.search(r"--container-mounts (\S+)", file)
        assert mounts is not None
        assert {"/checkpoints:/checkpoints", "/lustre/data:/data"} <= set(mounts[1].split(","))
        assert "/home/me/jobs/nemotron_elastic_12b" in file
        assert "nemo_run.core.runners.fdl_runner" in file


def test_training_is_stopped_in_time_where_it_is_repeated(slurm: str) -> None:
    for job, file in jobs_of(slurm).items():
        assert flags(file).get("signal") == ("15@900" if job.startswith("stage") else None)


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

    from nemo_elastic.nemo.ending import STOPPED, StopInTime

    # on a login node, where nothing but sbatch is called
    sbatch, submitted = tmp_path / "bin" / "sbatch", tmp_path / "submitted"
    sbatch.parent.mkdir()
    sbatch.write_text(SBATCH)
    sbatch.chmod(0o755)
    env = os.environ | {
        "NEMORUN_HOME": str(tmp_path / "home"), "SUBMITTED": str(submitted),
        "PATH": f"{sbatch.parent}:{os.environ['PATH']}",
    }  # fmt: skip
    script = ROOT / "recipes" / "run_slurm.py"
    command = [sys.executable, script, *RECIPE, *DATA, *SLURM, "--job-dir", tmp_path / "jobs", "--jobs", "3"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900)
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
        codes[path.name.removesuffix("_fn_or_script")] = [
            c.code for c in callbacks if c.__fn_or_cls__ is StopInTime
        ]  # fmt: skip
    assert codes == {"rank": [], "slice": []} | {
        name: [STOPPED if name in ("stage1_3", "stage2_6") else 0] for name in names if name.startswith("stage")
    }


def test_changes_of_the_stock_recipe_are_printed_before_anything_starts(slurm: str) -> None:
    head = slurm.partition("SBATCH_SCRIPT")[0]
    assert head.count("apply_elastic changes the recipe:") == 2
    assert "steps 5170 to 6960 of 6960" in head


def test_on_a_login_node_no_host_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--job-dir", str(tmp_path / "jobs")]
    args = [*RECIPE, *DATA, *SLURM, *place, "--nodes", "8", "--gpu", "h200", "--dryrun"]
    script("run_slurm", args, tmp_path, monkeypatch)
    jobs = jobs_of(capsys.readouterr().out)
    assert list(jobs) == ["rank", "stage1", "stage2", "slice"]
    assert flags(jobs["stage2"])["nodes"] == "8"
    assert "signal" not in flags(jobs["stage1"])


def test_local_runs_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*RECIPE, *DATA, "--recipe", "nemotron_elastic_8b", "--devices", "8", "--gpu", "h200", "--dryrun"]
    script("run_local", args, tmp_path, monkeypatch)
    text = capsys.readouterr().out
    assert re.findall(r"Task (\w+)", text) == ["rank", "stage1", "stage2", "slice"]
    unbroken = re.sub(r"\s", "", text)  # NeMo-Run's console breaks its lines anywhere
    assert re.findall(r"--nproc-per-node(?:','|=)?(\d+)", unbroken) == [*"8881"]


def test_the_tiny_one_shows_what_it_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nemo_elastic.data.build import build_data

    text = tmp_path / "text"
    text.mkdir()
    (text / "words.py").write_text(Path(os.__file__).read_text() * 4)
    build_data(tmp_path / "data", [text], vocab=512, held_out_problems=4)
    args = ["--dir", "tiny", "--data", str(tmp_path / "data"), "--parent", "/checkpoints/tiny", "--dryrun"]
    script("nemotron_elastic_tiny", args, tmp_path, monkeypatch)
    assert re.findall(r"Task (\w+)", capsys.readouterr().out) == ["rank", "stage1", "stage2", "slice"]


@pytest.mark.parametrize(
    ("name", "args", "told"),
    [
        ("run_local", [*RECIPE, *DATA, "--devices", "1"], "error: no layout"),
        ("run_local", [*RECIPE, *DATA, "--gpu", "a100"], "error: --gpu: 'a100' is not allowed; one of h100, h200"),
        ("run_slurm", [*RECIPE[:-1], "runs", *DATA, *SLURM], "error: dir: 'runs' is not allowed; an absolute path"),
        ("run_slurm", [*RECIPE, *DATA, *SLURM, "--jobs", "0"], "error: repeat: 0 is not allowed; at least 1"),
        ("run_slurm", [*RECIPE, *DATA, *SLURM, "--host", "login"], "error: --host needs --user"),
        ("run_slurm", ["--recipe", "nemotron_elastic_7b", *RECIPE[2:], *DATA, *SLURM], "invalid choice"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(
    name: str,
    args: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        script(name, args, tmp_path, monkeypatch)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]
