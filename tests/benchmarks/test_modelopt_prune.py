# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The baselines of the studies: what ModelOpt's search is given, what it may choose from, what it cuts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nemo_elastic.core.family import Parent
from tests.workers import work

pytest.importorskip("megatron.core.models.hybrid", reason="Megatron-Bridge has an environment of its own")
pytestmark = pytest.mark.slow

#: what is searched -> field of Parent
AXES = {
    "hidden_size": "hidden",
    "ffn_hidden_size": "ffn",
    "mamba_num_heads": "mamba_heads",
    "mamba_head_dim": "mamba_head_dim",
    "num_attention_heads": "attention_heads",
    "num_layers": "num_layers",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("prune") / "run"
    work("tests.benchmarks.prune_worker", folder)
    return json.loads((folder / "facts.json").read_text())


def test_a_bound_that_the_parent_meets_leaves_its_function_and_sorts_its_weights(results: dict[str, Any]) -> None:
    assert results["full"]["sizes"] == results["parent"]
    assert results["full"]["parameters"] == results["count"]
    assert results["difference"] < 1e-4
    kinds = ("in_proj", "out_proj", "up_proj", "down_proj", "q_proj", "o_proj", "embeddings", "lm_head")
    assert all(any(kind in name for name in results["sorted"]) for kind in kinds)


def test_the_largest_within_the_bound_are_scored_and_the_best_is_cut_out(results: dict[str, Any]) -> None:
    from tests.benchmarks.prune_worker import RATIO

    message, most = results["small"], int(RATIO * results["count"])
    tried = message["candidates"]
    sizes = [c["parameters"] for c in tried]
    assert len(tried) == 6 < message["within"]
    assert most >= sizes[0] and sizes == sorted(sizes, reverse=True) and sizes[-1] > 0.98 * most
    best = max(tried, key=lambda c: c["score"])
    shape = Parent.from_json(message["sizes"])
    assert {name: getattr(shape, ours) for name, ours in AXES.items()} == {name: best[name] for name in AXES}
    # its count, of the tensors, and ours of the shape
    assert best["parameters"] == message["parameters"] == results["small_count"]


def test_no_candidate_is_further_from_the_parent_than_modelopt_goes(results: dict[str, Any]) -> None:
    parent = Parent.from_json(results["parent"])
    for candidate in results["small"]["candidates"]:
        for name, ours in AXES.items():
            least = 0.8 if name == "num_layers" else 0.6
            assert candidate[name] > least * getattr(parent, ours) - 1e-9


def test_a_score_is_the_distance_from_the_parent_on_the_tokens_that_were_given(results: dict[str, Any]) -> None:
    """What is cut out, run by other code, is as far from the parent as the candidate was said to be."""
    best = max(c["score"] for c in results["small"]["candidates"])
    assert best == pytest.approx(-results["kl"], rel=1e-3)
    assert results["kl"] > 0.01


def test_given_widths_and_depth_are_cut_and_the_layers_are_those_of_depth_alone(results: dict[str, Any]) -> None:
    from tests.benchmarks.prune_worker import WIDTHS

    sizes, whole = results["given"]["sizes"], iter(results["parent"]["pattern"])
    widths = {name: size for name, size in WIDTHS.items() if name != "num_layers"}
    assert {name: sizes[AXES[name]] for name in widths} == widths
    kept = sizes["pattern"]
    assert len(kept) == WIDTHS["num_layers"] and all(symbol in whole for symbol in kept)  # a subsequence
    assert kept == results["layers"]["sizes"]["pattern"]
    assert results["given"]["parameters"] == results["given_count"]


def test_no_stand_in_is_left_behind(results: dict[str, Any]) -> None:
    assert results["left"] == []
