# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Training in bf16, as on GPUs: the same losses as in float32, from logits that are never copied to float32 whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.nemo, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


def test_bf16_trains_as_float32_does(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.nemo.bf16_worker", str(tmp_path / "run")],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    facts = json.loads((tmp_path / "run" / "facts.json").read_text())
    single, half = facts["single"], facts["half"]
    assert (single["logits"], half["logits"]) == (["torch.float32"], ["torch.bfloat16"])
    assert (single["weights"], half["weights"]) == ("torch.float32", "torch.bfloat16")
    assert half["losses"] == pytest.approx(single["losses"], rel=5e-3)
    assert half["norms"] == pytest.approx(single["norms"], rel=5e-2)
