# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The reference model against mlx-lm, which shares no code with transformers.

It runs where NEMO_ELASTIC_MLX_PYTHON names a python that has mlx-lm: `pip install mlx-lm 'mlx[cpu]'` in an environment
of its own, on Linux, too.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_elastic.formats.checkpoint import in_memory
from nemo_elastic.formats.hf.writing import write_checkpoints
from tests.nn.test_transformers_parity import CASES, parent_model, tokens_of

PYTHON = os.environ.get("NEMO_ELASTIC_MLX_PYTHON")
#: mlx-lm has no layers that differ in width
UNIFORM = {name: case for name, case in CASES.items() if case[1].is_uniform}

pytestmark = pytest.mark.skipif(PYTHON is None, reason="NEMO_ELASTIC_MLX_PYTHON names no python with mlx-lm")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of all cases, with what mlx-lm makes of them."""
    root = tmp_path_factory.mktemp("mlx")
    for name, (parent, member) in UNIFORM.items():
        (root / name).mkdir()
        model = parent_model(parent).submodel(member)
        write_checkpoints({root / name: in_memory(parent, member, model.state_dict())})
        np.save(root / name / "tokens.npy", tokens_of(parent))
    worker = Path(__file__).with_name("mlx_worker.py")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([str(PYTHON), worker, root], capture_output=True, text=True, timeout=1800, env=env)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("case", UNIFORM)
def test_logits_are_those_of_mlx(answers: Path, case: str) -> None:
    parent, member = UNIFORM[case]
    with torch.no_grad():
        actual = parent_model(parent)(torch.from_numpy(tokens_of(parent)), member).numpy()
    expected = np.load(answers / case / "mlx.npy")
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-5 * np.abs(expected).max())
