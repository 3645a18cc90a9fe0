# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What docs/clusters.md says of precision and of weights outside of a step's members: `numerics.py`."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

import pytest

from tests.parallel.numerics import SHORT, STEPS
from tests.workers import work

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow, pytest.mark.long]
#: bf16 against float32: mean loss and gradient norm of fifty steps, relative; held-out loss, in nats
LOSS, NORM, HELDOUT = 0.01, 0.02, 1e-3


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("numerics")
    work("tests.parallel.numerics", folder)
    return json.loads((folder / "numerics.json").read_text())


@pytest.mark.parametrize("first", range(0, STEPS, 50))
def test_bf16_stays_within_the_band_around_float32(results: dict[str, Any], first: int) -> None:
    single, half = results["single"], results["half"]
    assert len(single["losses"]) == len(half["losses"]) == STEPS
    for key, band in (("losses", LOSS), ("norms", NORM)):
        means = [statistics.mean(run[key][first : first + 50]) for run in (half, single)]
        assert means[0] == pytest.approx(means[1], rel=band), key
    assert half["losses"] != single["losses"], "both ran in one precision"


def test_members_end_alike_in_both_precisions(results: dict[str, Any]) -> None:
    single, half = results["single"], results["half"]
    assert half["end"] == pytest.approx(single["end"], abs=HELDOUT)
    first, last = (kl["small"] for kl in single["taught"])
    assert last < 0.8 * first, "nothing was learned"


def test_weights_that_no_step_touches_decay_and_do_nothing_else(results: dict[str, Any]) -> None:
    run = results["untouched"]
    decayed = math.prod(1 - rate * run["decay"] for rate in run["rates"])
    assert len(run["rates"]) == SHORT
    for name, factor in (("output_layer.weight", decayed), ("decoder.final_norm.weight", 1.0)):
        assert run[name]["factor"] == pytest.approx([factor, factor], rel=2e-6), name
        assert run[name]["moments"] == 0.0
        assert run[name]["inside"] > 1e-4, "the member did not train"
