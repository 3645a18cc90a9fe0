# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Run benchmarks one after the other, keep their tables, and put them into the pages that show them.

    python -m benchmarks [NAME …] [more arguments of each]

Without a name those run that need no other environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from tools import tables

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "docs" / "tables"
BRIDGE = os.environ.get("NEMO_ELASTIC_BRIDGE_PYTHON") or ROOT / ".venv-bridge" / "bin" / "python"
VLLM = ROOT / ".venv-vllm" / "bin" / "python"


@dataclass(frozen=True)
class Benchmark:
    """A module with its arguments, the python that runs it, and whether `make bench` without a name runs it."""

    module: str
    words: tuple[str, ...] = ()
    python: str | Path = sys.executable
    usual: bool = True


#: name of a table -> what makes it, in the order of the page
BENCHMARKS = {
    "bench_step": Benchmark("bench_step"),
    "bench_memory": Benchmark("bench_memory"),
    "bench_runtime": Benchmark("bench_runtime"),
    "bench_slice": Benchmark("bench_slice"),
    "slice_12b": Benchmark("bench_slice", ("--layers", "62"), usual=False),
    "bench_plan_memory": Benchmark("bench_plan_memory", python=BRIDGE, usual=False),
    "bench_serve": Benchmark("serving", ("--vllm", str(VLLM)), usual=False),
}


def run(name: str, more: list[str]) -> tuple[float, int]:
    """Run one benchmark in a new process; returns its seconds and its exit code, which is 1 for a missed target."""
    made = BENCHMARKS[name]
    command = [str(made.python), "-W", "ignore", "-m", f"benchmarks.{made.module}", *made.words]
    # threads of two processes that spin while they wait slow each other down
    env = os.environ | ({} if made.usual else {"OMP_WAIT_POLICY": "passive"})
    began = time.monotonic()
    done = subprocess.run([*command, "--markdown", str(TABLES / f"{name}.md"), *more], cwd=ROOT, env=env, check=False)
    return time.monotonic() - began, done.returncode


def main() -> None:
    words = sys.argv[1:]
    names = list(takewhile(lambda word: not word.startswith("-"), words))
    more, unknown = words[len(names) :], [name for name in names if name not in BENCHMARKS]
    if unknown or (more and not names):
        told = f"NAME: {unknown[0]} is not allowed; " if unknown else ""
        print(f"{__doc__}\n{told}NAME is one of {', '.join(BENCHMARKS)}", file=sys.stderr)
        raise SystemExit(0 if more[:1] in (["-h"], ["--help"]) else 2)
    usual = [name for name, made in BENCHMARKS.items() if made.usual]
    seconds = {}
    for name in names or usual:
        print(f"== {name}", flush=True)
        seconds[name] = run(name, more)
    tables.fill()
    for name, (took, code) in seconds.items():
        print(f"{name:22} {took:6.0f} s{'  missed or failed, see above' if code else ''}")
    if any(code for _, code in seconds.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
