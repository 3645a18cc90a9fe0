# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The baselines of the studies: what ModelOpt cuts to given widths and depth, and that it measures importance."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.study.modelopt_targets import FIELDS
from tests.workers import work

pytest.importorskip("megatron.core.models.hybrid", reason="Megatron-Bridge has an environment of its own")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("prune") / "run"
    work("tests.benchmarks.prune_worker", folder)
    return json.loads((folder / "facts.json").read_text())


def test_a_parent_that_keeps_its_sizes_keeps_its_function_and_its_weights_are_sorted(results: dict[str, Any]) -> None:
    assert results["full"]["sizes"] == results["parent"]
    assert results["difference"] < 1e-4
    kinds = ("in_proj", "out_proj", "up_proj", "down_proj", "q_proj", "o_proj", "embeddings", "lm_head")
    assert all(any(kind in name for name in results["sorted"]) for kind in kinds)
    assert results["left"] == [], "a stand-in stays behind"


def test_given_widths_and_depth_are_cut_and_the_layers_are_those_of_depth_alone(results: dict[str, Any]) -> None:
    from tests.benchmarks.prune_worker import WIDTHS

    sizes, whole = results["given"]["sizes"], iter(results["parent"]["pattern"])
    widths = {name: size for name, size in WIDTHS.items() if name != "num_layers"}
    assert {name: sizes[FIELDS[name]] for name in widths} == widths
    kept = sizes["pattern"]
    assert len(kept) == WIDTHS["num_layers"] and all(symbol in whole for symbol in kept)  # a subsequence
    assert kept == results["layers"]["sizes"]["pattern"]
    assert results["given"]["parameters"] == results["given_count"]


def test_importance_is_measured_for_the_first_size_alone(results: dict[str, Any]) -> None:
    from tests.benchmarks.prune_worker import LENGTH, SEQUENCES

    tokens = [results[name]["measured_tokens"] for name in ("full", "given", "layers")]
    assert tokens == [SEQUENCES * LENGTH, 0, 0]
