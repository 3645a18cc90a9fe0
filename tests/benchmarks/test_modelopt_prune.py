# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The baselines of the studies: what ModelOpt cuts to given widths and depth, and that it measures importance once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.study.modelopt_targets import FIELDS
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent
from tests.benchmarks.prune_worker import LENGTH, SEQUENCES, WIDTHS
from tests.workers import work

pytest.importorskip("megatron.core.models.hybrid", reason="Megatron-Bridge has an environment of its own")


@pytest.mark.slow
def test_modelopt_cuts_what_it_is_asked_for(tmp_path: Path) -> None:
    work("tests.benchmarks.prune_worker", tmp_path / "run")
    results = json.loads((tmp_path / "run" / "facts.json").read_text())
    # a parent that keeps its sizes keeps its function, and its weights are sorted
    assert results["full"]["sizes"] == results["parent"] and results["difference"] < 1e-4
    kinds = ("in_proj", "out_proj", "up_proj", "down_proj", "q_proj", "o_proj", "embeddings", "lm_head")
    assert all(any(kind in name for name in results["sorted"]) for kind in kinds)
    # given widths and depth; the layers are those of depth alone, a subsequence
    sizes, whole = results["given"]["sizes"], iter(results["parent"]["pattern"])
    assert all(sizes[FIELDS[name]] == size for name, size in WIDTHS.items() if name in FIELDS)
    assert len(sizes["pattern"]) == WIDTHS["num_layers"] and all(symbol in whole for symbol in sizes["pattern"])
    assert sizes["pattern"] == results["layers"]["sizes"]["pattern"]
    shape = Parent.from_json(sizes)
    assert results["given"]["parameters"] == parameters(shape, shape.full)
    tokens = [results[name]["measured_tokens"] for name in ("full", "given", "layers")]
    assert tokens == [SEQUENCES * LENGTH, 0, 0]
