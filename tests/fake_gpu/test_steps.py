# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of the large recipes at their own sizes: devices, kernels' conditions, memory and waits of the host.

`make test-fake-gpu` runs them, as many processes at once as the machine has room for.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fake_gpu.cases import CASES, build, compiler, python_of, run

pytestmark = [
    pytest.mark.rehearsal,
    pytest.mark.skipif(compiler() is None, reason="the GPU's stand-in is built by g++, which is not here"),
]

#: what reads a number from the GPU in a step, beside the hosts' own logs: place -> at most so often, and why
WAITS = {
    "nemo_elastic/megatron/megatron_host.py": 1,  # the guard, before the optimizer may change a weight
    "nemo_elastic/megatron/family_step.py": 2,  # losses and tokens of a step's line
    "megatron/core/optimizer/": 5,  # the gradient's norm
    "megatron/core/transformer/moe/token_dispatcher.py": 1000,  # how many tokens go to which rank
    "megatron/core/rerun_state_machine.py": 1000,  # Bridge's own look for NaN
    "megatron/bridge/training/": 10,
    "nemo/lightning/": 5,
}
#: how far the planner's bytes may be below those that a step has
SHORT = 0.03
#: launches of a member's step, of the whole model's: slices are copied where a product needs them side by side
MORE = 1.12


@pytest.mark.parametrize("name", CASES)
def test_steps_of(name: str, tmp_path: Path) -> None:
    """A tensor on another device, rows that a kernel refuses, or a collective of host memory would have raised."""
    job = CASES[name]
    if not (python := python_of(job)):
        pytest.skip("NEMO_ELASTIC_BRIDGE_PYTHON names no environment")
    result = run(job, build(python, tmp_path), tmp_path)
    steps = result["phases"][1:]
    for step in steps:
        assert_known(step["waits"])
    planned = result["planned"]
    stays = sum(planned[part] for part in ("weights", "gradients", "optimizer", "teacher"))
    assert steps[-1]["live"] == pytest.approx(stays, rel=0.01)
    assert max(step["peak"] for step in steps) <= (1 + SHORT) * planned["total"]
    whole, *members = (step["launches"] for step in steps)
    assert all(launches <= MORE * whole for launches in members)


def assert_known(waits: dict[str, int]) -> None:
    """The host waits for the GPU nowhere but where it has to."""
    counted = dict.fromkeys(WAITS, 0)
    for place, count in waits.items():
        known = [name for name in WAITS if place.startswith(name)]
        assert known, f"the host waits at {place}"
        counted[known[0]] += count
    assert all(counted[name] <= WAITS[name] for name in WAITS), counted
