# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The checks, each run in a process of its own with a limit of time. The standard library is all that this needs.

python -m tests.gpu_checks.run_checks MODULE:FUNCTION DEVICE FILE: one of them, in this process.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_elastic.doctor import Facts

__all__ = ["CHECKS", "KernelCheck", "Result", "lacking", "perform"]


@dataclass(frozen=True)
class KernelCheck:
    """One check.

    Attributes:
        name: of the test.
        function: `module:function`, which gets the device and an empty folder, and gives the fields of a result.
        needs: distributions.
    """

    name: str
    function: str
    needs: tuple[str, ...] = ("torch",)


KERNELS = ("torch", "mamba-ssm", "causal-conv1d")
_OURS = "tests.gpu_checks.kernel_checks"
CHECKS = (
    # mamba_ssm against torch on whole, sliced and gated layers: outputs and all gradients, float32 and bf16
    KernelCheck("mamba kernels", f"{_OURS}:parity", KERNELS),
    # causal attention over 49152 tokens: which kernel, its memory, no matrix of length x length
    KernelCheck("attention", f"{_OURS}:long_context"),
    # forward and backward of a 12B's Mamba layer, slices against the whole
    KernelCheck("mamba speed", f"{_OURS}:speed", KERNELS),
)


@dataclass(frozen=True)
class Result:
    """What a check gives: `ok` is None where it did not run, `message` says in a line what or why."""

    name: str
    ok: bool | None
    message: str
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def lacking(check: KernelCheck, facts: Facts) -> str | None:
    """Why a check cannot run on a machine with a GPU; None where it can."""
    missing = [name for name in check.needs if not facts.has(name)]
    return f"not run: {', '.join(missing)} not installed" if missing else None


def perform(check: KernelCheck, device: str, limit: float) -> Result:
    """One check in a process of its own, which is ended with all that it started when its time is over."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "result.json")
        command = [sys.executable, "-W", "ignore", "-m", __name__, check.function, device, str(file)]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            stderr = process.communicate(timeout=limit)[1]
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return Result(check.name, False, f"not done in {limit:.0f} s", seconds=time.monotonic() - start)
        seconds = time.monotonic() - start
        if process.returncode or not file.exists():
            lines = [line for line in stderr.splitlines() if line.strip()]
            reason = lines[-1].strip() if lines else f"exit code {process.returncode}"
            return Result(check.name, False, f"failed: {reason}", seconds=seconds)
        result = json.loads(file.read_text(encoding="utf-8"))
        return Result(check.name, result["ok"], result["told"], result["figures"], seconds)


def main(function: str, device: str, file: Path) -> None:
    """Run a check in this process, and write its result."""
    module, _, name = function.partition(":")
    place = file.parent / "place"
    place.mkdir()
    result = getattr(importlib.import_module(module), name)(device, place)
    file.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
