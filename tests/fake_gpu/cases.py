# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which jobs run on the GPU that is not there, and how a process of one is started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.workers import ROOT, environment

SOURCE = Path(__file__).with_name("device.cpp")
BRIDGE_PYTHON = os.environ.get("NEMO_ELASTIC_BRIDGE_PYTHON", "")
#: what reads a number from the GPU in a step: place -> at most how often, and why
WAITS = {
    "nemo_elastic/megatron/megatron_host.py": (1, "the guard, before the optimizer may change a weight"),
    "nemo_elastic/megatron/family_loop.py": (2, "losses and tokens of a step's line"),
    "nemo_elastic/router.py": (9, "what the router chooses, before a step of soft masks"),
    "nemo_elastic/train/metrics.py": (7, "the line of a step of soft masks"),
    "megatron/core/optimizer/": (5, "the gradient's norm"),
    "megatron/core/transformer/moe/token_dispatcher.py": (1000, "how many tokens go to which rank"),
    "megatron/core/rerun_state_machine.py": (1000, "Bridge's own look for NaN"),
    "megatron/bridge/training/": (10, "Bridge's log"),
    "nemo/lightning/": (5, "NeMo's log"),
    "nemo_elastic/hosts/nemo/callbacks.py": (3, "the line of a step"),
    "lightning/": (30, "Lightning's log"),
}
GIB = 2**30
#: seconds that a job may take on a busy machine
PATIENCE = 1800


def case(recipe: str, job: str, rank: int = 0, launches: float | None = None, **more: Any) -> dict[str, Any]:
    """A job on 128 H100s, as `tests.fake_gpu.job` takes it.

    `launches`: of a member's step, at most, of the whole model's: a slice is copied where a product needs it side by
    side, six small tensors of each Mamba layer are gathered and their gradients scattered, and each norm's weight is
    multiplied. A first step makes the optimizer's state, so that three show it; two show what a rank holds.
    """
    usual = {"gpus": 128, "gpu": "h100", "soft": False, "layout": None, "packed": False,
             "validated": False, "real": False}  # fmt: skip
    steps = 2 if launches is None else 3
    return {"recipe": recipe, "job": job, "rank": rank, "steps": steps, "launches": launches, **usual, **more}


#: not the planner's best
STAGES = "TP2 PP2 DP32 SP"
CASES = {
    "12B": case("nemotron_elastic_12b", "stage1", launches=1.19),
    "12B, a rank in the middle": case("nemotron_elastic_12b", "stage1", rank=61),
    "12B, soft masks": case("nemotron_elastic_12b", "stage1", launches=1.85, soft=True),  # gates multiply
    "12B, 49152 tokens": case("nemotron_elastic_12b", "stage2", launches=1.26),  # a first stage has no head
    "12B, last of two stages": case("nemotron_elastic_12b", "stage1", rank=127, layout=STAGES),
    "9B": case("nemotron_elastic_9b", "stage1", launches=1.14),
    "8B, validated": case("nemotron_elastic_8b", "stage1", validated=True),
    "12B on Bridge": case("bridge/nemotron_elastic_12b", "stage1", launches=1.19),
    "4B on conversations": case("bridge/nemotron_elastic_4b_sft", "stage1", launches=1.14, packed=True),
    "30B-A3B": case("bridge/nemotron_elastic_30b_a3b", "stage1", launches=1.14),
    "30B-A3B, 49152 tokens, last rank": case("bridge/nemotron_elastic_30b_a3b", "stage2", rank=127, launches=1.12),
}


#: parts of the planner's memory that stay from step to step
STAYS = ("weights", "gradients", "optimizer", "teacher")


def steps_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Phases that train; the start and a validation are others."""
    return [phase for phase in result["phases"] if phase["phase"].startswith("step")]


def python_of(job: dict[str, Any]) -> str:
    """The interpreter of a job's host; empty where its environment is not named."""
    return BRIDGE_PYTHON if job["recipe"].startswith("bridge/") else sys.executable


def compiler() -> str | None:
    return shutil.which("g++")


def build(python: str, folder: Path) -> Path:
    """The library of `device.cpp` for an interpreter's torch.

    Raises:
        CalledProcessError: this torch has other headers.
    """
    ask = "import torch, pathlib; print(pathlib.Path(torch.__file__).parent)"
    torch = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    out = folder / f"libfakegpu{len(list(folder.glob('libfakegpu*')))}.so"
    command = ["g++", "-O0", "-shared", "-fPIC", "-std=c++20", f"-I{torch}/include", str(SOURCE), "-o", str(out)]
    command += [f"-L{torch}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch}/lib"]
    subprocess.run(command, check=True)
    return out


def run(job: dict[str, Any], library: Path | None, folder: Path, python: str | None = None) -> dict[str, Any]:
    """What a job counted.

    Args:
        job: see `case`.
        library: see `build`; None on a GPU that is there.
        folder: gets the job's files.
        python: the interpreter, in place of the one that the job's host has.

    Raises:
        AssertionError: it failed; with the end of what it printed.
    """
    given, result = folder / "job.json", folder / "result.json"
    given.write_text(json.dumps(job))
    preload = {} if library is None else {"LD_PRELOAD": str(library)}
    env = environment(PYTHONPATH=str(ROOT), TORCHDYNAMO_DISABLE="1", **preload)
    command = [python or python_of(job), "-W", "ignore", "-m", "tests.fake_gpu.job", str(given), str(result)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, f"{job}: {done.stdout[-2000:]}{done.stderr[-6000:]}"
    return json.loads(result.read_text())
