# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""mamba_ssm's own kernels, called as `nn.mixer` calls them, give the outputs and gradients of torch.

They run on a CPU in Triton's interpreter, from the Python sources of several releases; causal_conv1d's CUDA extension
is emulated with its conditions (`conv_cuda`). Run

    make .venv-kernels/.stamp
    .venv-kernels/bin/python -m tests.kernels.parity .venv-kernels/sources

The exit code is 1 unless every case is within its limit. That the emulated conditions mean something is checked too:
releases before 2.3 must fail where the fused call gets rows that it does not take.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.gpu_checks.kernel_cases import CASES, Case, Limits, faults

ROOT = Path(__file__).parents[2]
#: relative deviation of the output, and of the worst gradient. In bf16 the kernels round what torch does not: some
#: gradients are a few sums of products with eight bits each
LIMITS: Limits = {False: (1e-6, 2e-5), True: (8e-3, 3e-2)}
#: before it, rows of a gradient lie as `empty_like` lays them
COPIES_ROWS = (2, 3)


def run(sources: Path, place: Path) -> list[dict[str, Any]]:
    """`compare` of one release, in a process of its own."""
    file = place / f"{sources.name}.json"
    quiet = {"OMP_NUM_THREADS": "1", "TRITON_HOME": str(place)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.kernels.compare", str(sources), str(file)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | quiet, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"mamba_ssm {sources.name} failed:\n{done.stderr[-3000:]}")
    return json.loads(file.read_text(encoding="utf-8"))


def judge(release: str, case: Case, got: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    wrong = faults(case, got, LIMITS)
    if got["padded"] == "right" and _numbers(release) < COPIES_ROWS:
        wrong.append("the fused call is right on padded rows: the emulation has lost its conditions")
    return [f"mamba_ssm {release}, {case.title}: {fault}" for fault in wrong]


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", release))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, help="folder with one folder per release of mamba_ssm")
    args = parser.parse_args()
    folders = sorted((f.parent for f in args.sources.glob("*/mamba_ssm")), key=lambda f: _numbers(f.name))
    if not folders:
        parser.error(f"no mamba_ssm in {args.sources}/*")
    report: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as place:
        for folder in folders:
            start = time.monotonic()
            report[folder.name] = run(folder.resolve(), Path(place))
            print(f"== mamba_ssm {folder.name}: {time.monotonic() - start:.0f} s", flush=True)
            for case, got in zip(CASES, report[folder.name], strict=True):
                print(f"{case.title}: {got['out']:.1e}, gradients {max(got['grads'].values()):.1e}", flush=True)
    wrong = [
        x for name, entries in report.items() for case, got in zip(CASES, entries) for x in judge(name, case, got)
    ]
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
