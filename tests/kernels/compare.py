# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The interpreted kernels of one mamba_ssm against torch, case by case; runs in a process of its own.

Usage: python -m tests.kernels.compare SOURCES FILE. Writes a list in the order of `CASES`: what `kernel_cases.compare`
finds, and `padded`, what the fused call alone would do with rows that it does not take: right, misaligned, or the
first line of its refusal.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from nemo_elastic.kernels import VECTOR, MambaWidths
from nemo_elastic.nn.mixer import Kernels
from tests.gpu_checks.kernel_cases import CASES, Case, compare, deviation, run
from tests.support.figures import largest

from .conv_cuda import Misaligned
from .interpreter import load


def padded(case: Case, kernels: Kernels) -> str:
    """What the fused call does with padded rows, which is all that a forward needs."""

    def fused(zxbcdt_blo: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        width = zxbcdt_blo.shape[-1]
        return kernels.fused(F.pad(zxbcdt_blo, (0, -width % VECTOR))[..., :width], *args, **kwargs)

    wanted = run(case, None)
    try:
        with mock.patch.object(MambaWidths, "fused", True):
            out, grads = run(case, replace(kernels, fused=fused, chunk_size=case.chunk))
    except Misaligned as error:
        return f"{error.tensor} misaligned"
    except RuntimeError as error:
        return f"refused: {error}".splitlines()[0]
    worst = largest([deviation(out, wanted[0]), *(deviation(grads[k], g) for k, g in wanted[1].items())])
    return "right" if worst < (0.05 if case.bf16 else 1e-4) else f"off by {worst:.1e}"


def main(sources: Path, file: Path) -> None:
    torch.set_num_threads(1)
    kernels = load(sources, CASES[0].chunk)
    report = [
        compare(case, kernels) | {"padded": None if case.widths.fused else padded(case, kernels)} for case in CASES
    ]
    file.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
