# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of the large recipes at their own sizes: devices, kernels' conditions, memory and waits of the host.

`make test-fake-gpu` runs them, as many processes at once as the machine has room for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fake_gpu.cases import CASES, build, compiler, python_of, run

pytestmark = [
    pytest.mark.fake_gpu,
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


@pytest.fixture(scope="module", params=CASES)
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    job = CASES[request.param]
    if not (python := python_of(job)):
        pytest.skip("NEMO_ELASTIC_BRIDGE_PYTHON names no environment")
    folder: Path = tmp_path_factory.mktemp("job")
    return run(job, build(python, folder), folder)


def test_a_step_runs_on_the_gpu_and_waits_for_it_in_known_places_only(result: dict[str, Any]) -> None:
    """A tensor on another device, rows that a kernel refuses, or a collective of host memory would have raised."""
    for phase in result["phases"][1:]:
        counted = dict.fromkeys(WAITS, 0)
        for place, count in phase["waits"].items():
            (known,) = [name for name in WAITS if place.startswith(name)] or [None]
            assert known is not None, f"{phase['phase']}: the host waits at {place}"
            counted[known] += count
        assert all(counted[name] <= WAITS[name] for name in WAITS), counted


def test_the_planner_knows_the_memory_of_a_step(result: dict[str, Any]) -> None:
    planned = result["planned"]
    stays = sum(planned[name] for name in ("weights", "gradients", "optimizer", "teacher"))
    steps = result["phases"][1:]
    assert steps[-1]["live"] == pytest.approx(stays, rel=0.01)
    assert max(step["peak"] for step in steps) <= (1 + SHORT) * planned["total"]


def test_a_member_costs_no_more_launches_than_slices_need(result: dict[str, Any]) -> None:
    whole, *members = (phase["launches"] for phase in result["phases"][1:])
    assert all(launches <= 1.12 * whole for launches in members)
