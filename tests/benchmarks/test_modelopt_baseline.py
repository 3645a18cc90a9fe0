# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The baseline of the studies: ModelOpt's pruning keeps the function at full size, and what it prunes is distilled."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.study import modelopt_targets as mt
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.errors import ElasticError
from tests.workers import work

STUDY = Parent("M-M*-M-M*-", 256, 1024, 1280, 16, 32, 4, 16, 4, 8, 2, 32)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("modelopt") / "run"
    work("tests.benchmarks.modelopt_worker", folder)
    return json.loads((folder / "facts.json").read_text())


run = [pytest.mark.nemo, pytest.mark.slow, pytest.mark.long]


class TestPruning:
    pytestmark = run

    def test_at_full_size_weights_are_sorted_and_the_function_stays(self, results: dict[str, Any]) -> None:
        difference, size = results["logits"]
        assert difference < 1e-5 * max(1.0, size)
        kinds = ("in_proj", "out_proj", "up_proj", "down_proj", "q_proj", "o_proj", "embeddings", "lm_head")
        assert all(any(kind in name for name in results["sorted"]) for kind in kinds)

    def test_config_and_tensors_have_the_sizes_asked_for(self, results: dict[str, Any]) -> None:
        from tests.benchmarks.modelopt_worker import SMALL

        assert results["class"] == "MambaModel"
        assert results["config"] == {k.removeprefix("target_"): v for k, v in SMALL.items()}
        shape = Parent.from_json(results["shape"])
        assert {name: getattr(shape, ours) for name, ours in mt.FIELDS.items()} | {"num_layers": 10} == results[
            "config"
        ]
        assert parameters(shape, shape.full) == results["pruned"]["parameters"]

    def test_a_pruned_depth_leaves_a_pattern_that_fits(self, results: dict[str, Any]) -> None:
        kept, whole = results["pruned"]["pattern"], iter(results["pruned"]["parent_pattern"])
        assert len(kept) == 10
        assert all(symbol in whole for symbol in kept)  # a subsequence
        assert results["shape"]["pattern"] == results["distilled_small"]["pattern"] == kept


class TestDistillation:
    pytestmark = run

    def test_a_student_with_the_teachers_function_has_no_loss(self, results: dict[str, Any]) -> None:
        assert abs(results["distilled_full"]["losses"][0]) < 1e-6

    def test_a_pruned_student_learns(self, results: dict[str, Any]) -> None:
        first, second = results["distilled_small"]["losses"]
        assert first > 1e-3 and second < first

    def test_what_the_strongest_baselines_search_leaves_is_distilled_as_what_was_pruned(
        self, results: dict[str, Any]
    ) -> None:
        assert results["again"] == 0
        assert results["distilled_again"] == results["distilled_small"]
        assert results["tokens"], "its importance and scores are of other tokens than our search's"

    @pytest.mark.parametrize("name", ["distilled_full", "distilled_small"])
    def test_heldout_losses_are_those_of_our_own_runs(self, results: dict[str, Any], name: str) -> None:
        run = results[name]
        assert run["heldout"] == pytest.approx([run["before"], run["after"]], abs=1e-4)
        assert run["before"] != run["after"]


@pytest.mark.parametrize("ratio", [0.85, 0.72, 0.6, 0.5])
@pytest.mark.parametrize("pattern", [None, "M-M*-M-M*", "M-M-M-M*-", "M-M*-M-*-"])
def test_targets_come_within_two_percent_and_modelopt_takes_them(ratio: float, pattern: str | None) -> None:
    targets = mt.targets(STUDY, ratio, pattern)
    exact = parameters(targets.shape, targets.shape.full) / parameters(STUDY, STUDY.full)
    assert exact == pytest.approx(targets.ratio) and abs(exact / ratio - 1) <= 0.02
    assert targets.shape.hidden % mt.DIVISORS["hidden_size_divisor"] == 0
    assert targets.shape.ffn % mt.DIVISORS["ffn_hidden_size_divisor"] == 0
    assert targets.shape.mamba_heads % STUDY.mamba_groups == 0
    layers = {} if pattern is None else {"target_num_layers": 9}
    assert targets.pruning(STUDY).items() >= layers.items()


def test_proportions_are_nvidias() -> None:
    nine, four = mt.cuts()
    assert (nine.hidden, nine.ffn, nine.inner, nine.depth) == pytest.approx((0.875, 0.7656, 1.0, 56 / 62), abs=1e-4)
    assert (four.hidden, four.ffn, four.inner, four.depth) == pytest.approx((0.75, 0.5714, 0.875, 1.0), abs=1e-4)
    assert [mt.depth(STUDY, r) for r in (0.85, 0.72, 0.6, 0.5)] == [10, 9, 10, 10]


def test_a_ratio_that_no_width_reaches_is_refused() -> None:
    with pytest.raises(ElasticError, match="ratio"):
        mt.targets(STUDY, 0.0001)
