# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The checks, each run in a process of its own with a limit of time. The standard library is all that this needs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_elastic.doctor import Facts

__all__ = ["CHECKS", "LIMIT", "KernelCheck", "Result", "lacking", "perform", "perform_all"]

#: seconds of all checks together
LIMIT = 170


@dataclass(frozen=True)
class KernelCheck:
    """One check.

    Attributes:
        name: in tables.
        function: `module:function`, which gets the device and an empty folder, and gives the fields of a result.
        would: what it runs, in words.
        needs: distributions.
        gpus: how many it takes.
        alone: nothing else runs beside it, for it measures time or memory.
        limit: seconds.
    """

    name: str
    function: str
    would: str
    needs: tuple[str, ...] = ("torch",)
    gpus: int = 1
    alone: bool = False
    limit: int = 110


KERNELS = ("torch", "mamba-ssm", "causal-conv1d")
CHECKS = (
    KernelCheck(
        "mamba kernels",
        "nemo_elastic.gpu_checks.mamba:parity",
        "mamba_ssm against torch on whole, sliced and gated layers: outputs and all gradients, float32 and bf16",
        KERNELS,
    ),
    KernelCheck(
        "save and load",
        "nemo_elastic.gpu_checks.training:save_and_load",
        "a tiny family in bf16 with the distributed optimizer: saved, loaded byte for byte, the same steps after it",
        ("torch", "nemo-toolkit"),
    ),
    KernelCheck(
        "tensor parallelism",
        "nemo_elastic.gpu_checks.training:tensor_parallel",
        "the same family on one GPU and on two over NCCL, with sequence parallelism",
        ("torch", "nemo-toolkit"),
        gpus=2,
    ),
    KernelCheck(
        "attention",
        "nemo_elastic.gpu_checks.attention:long_context",
        "causal attention over 49152 tokens: which kernel, its memory, no matrix of length x length",
        alone=True,
        limit=40,
    ),
    KernelCheck(
        "mamba speed",
        "nemo_elastic.gpu_checks.mamba:speed",
        "forward and backward of a 12B's Mamba layer, slices against the whole",
        KERNELS,
        alone=True,
        limit=60,
    ),
)


@dataclass(frozen=True)
class Result:
    """What a check found: `ok` is None where it did not run, `told` says in a line what or why."""

    name: str
    ok: bool | None
    told: str
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def lacking(check: KernelCheck, facts: Facts) -> str | None:
    """Why a check cannot run on a machine with a GPU; None where it can."""
    missing = [name for name in check.needs if not facts.has(name)]
    if missing:
        return f"not run: {', '.join(missing)} not installed"
    if len(facts.gpus) < check.gpus:
        return f"not run: it takes {check.gpus} GPUs; here is {len(facts.gpus)}"
    return None


def perform_all(
    facts: Facts,
    device: str = "cuda",
    checks: Sequence[KernelCheck] = CHECKS,
    say: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """All checks: those that may share the GPU at once, then the others one by one.

    Args:
        facts: what is installed here.
        device: where they run.
        checks: which.
        say: is told each result as it comes.
    """
    end = time.monotonic() + LIMIT

    def one(check: KernelCheck) -> Result:
        reason = lacking(check, facts)
        if reason is not None:
            found = Result(check.name, None, reason)
        else:
            found = perform(check, device, min(check.limit, max(1.0, end - time.monotonic())))
        say(found)
        return found

    together = [check for check in checks if not check.alone]
    with ThreadPoolExecutor(max_workers=max(1, len(together))) as pool:
        results = dict(zip(together, pool.map(one, together), strict=True))
    results |= {check: one(check) for check in checks if check.alone}
    return [results[check] for check in checks]


def _end(process: subprocess.Popen[str]) -> None:
    """End a check and what it started: torchrun's ranks are in groups of their own, which it ends when it is asked."""
    for word, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, word)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=patience)


def perform(check: KernelCheck, device: str, limit: float) -> Result:
    """One check in a process of its own, which is ended with all that it started when its time is over."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "result.json")
        command = [sys.executable, "-W", "ignore", "-m", "nemo_elastic.gpu_checks.worker", check.function, device]
        process = subprocess.Popen(
            [*command, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            said = process.communicate(timeout=limit)[1]
        except subprocess.TimeoutExpired:
            _end(process)
            return Result(check.name, False, f"not done in {limit:.0f} s", seconds=time.monotonic() - start)
        seconds = time.monotonic() - start
        if process.returncode or not file.exists():
            lines = [line for line in said.splitlines() if line.strip()]
            told = lines[-1].strip() if lines else f"exit code {process.returncode}"
            return Result(check.name, False, f"failed: {told}", seconds=seconds)
        found = json.loads(file.read_text(encoding="utf-8"))
        return Result(check.name, found["ok"], found["told"], found["figures"], seconds)
