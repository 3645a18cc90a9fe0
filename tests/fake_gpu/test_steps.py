# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of the large recipes at their own sizes: devices, kernels' conditions, memory and waits of the host.

`make test-fake-gpu` runs them, as many processes at once as the machine has room for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fake_gpu.cases import CASES, STAYS, WAITS, build, compiler, python_of, run, steps_of

pytestmark = [
    pytest.mark.rehearsal,
    pytest.mark.skipif(compiler() is None, reason="the GPU's stand-in is built by g++, which is not here"),
]

#: how far the planner's bytes may be below those that a step has
SHORT = 0.03


@pytest.mark.parametrize("name", CASES)
def test_steps_of(name: str, tmp_path: Path) -> None:
    """A tensor on another device, rows that a kernel refuses, or a collective of host memory would have raised."""
    job = CASES[name]
    if not (python := python_of(job)):
        pytest.skip("NEMO_ELASTIC_BRIDGE_PYTHON names no environment")
    check(run(job, build(python, tmp_path), tmp_path))


def check(result: dict[str, Any]) -> None:
    """What every job is held to."""
    steps = steps_of(result)
    for step in steps:
        assert_known(step["waits"])
    planned = result["planned"]
    stays = sum(planned[part] for part in STAYS)
    assert steps[-1]["live"] == pytest.approx(stays, rel=0.01)
    assert max(step["peak"] for step in steps) <= (1 + SHORT) * planned["total"]
    *_, member, whole = (step["launches"] for step in steps)
    if most := result["job"]["launches"]:
        assert member <= most * whole


def assert_known(waits: dict[str, int]) -> None:
    """The host waits for the GPU nowhere but where it has to."""
    counted = dict.fromkeys(WAITS, 0)
    for place, count in waits.items():
        known = [name for name in WAITS if place.startswith(name)]
        assert known, f"the host waits at {place}"
        counted[known[0]] += count
    assert all(counted[name] <= most for name, (most, _) in WAITS.items()), counted
