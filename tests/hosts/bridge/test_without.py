# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Parents that Megatron-Bridge no longer has are imported, trained and exported by our own tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nemo_elastic.formats.hf.config import from_hf_config
from nemo_elastic.formats.megatron.shape import parent_of
from nemo_elastic.hosts.bridge.cli import find_stock
from nemo_elastic.io.read import read_json
from tests.hosts.bridge.recipes import recipe_of
from tests.hosts.bridge.without import CASES, OURS, measure
from tests.parallel.compare import lines
from tests.parallel.forks import measured
from tests.parallel.runs import VOCAB

pytestmark = [pytest.mark.slow(minutes=1), pytest.mark.dist]
place = measured(measure)


def same(ours: Path, theirs: Path) -> None:
    """Every tensor, in bits and in type."""
    wanted, actual = load_file(ours), load_file(theirs)
    assert wanted.keys() == actual.keys()
    for name, tensor in wanted.items():
        assert tensor.dtype == actual[name].dtype, name
        assert torch.equal(tensor, actual[name]), name


@pytest.mark.parametrize(("name", "world", "missing"), CASES)
def test_a_parent_comes_from_hugging_face_and_goes_back(
    place: Path, results: dict[str, Any], name: str, world: int, missing: str
) -> None:
    case = f"{name}-{world}-{missing}"
    same(place / name / "model.safetensors", place / f"{case}.safetensors")
    facts = results["converted"][case]
    assert facts["ours"] is (missing != "nothing") and facts["registered"] is (missing == "conversion")
    if facts["ours"]:  # Bridge's own has no conv_kernel
        assert from_hf_config(facts["config"]) == from_hf_config(read_json(place / name / "config.json"))


def test_a_parent_that_was_imported_trains_and_its_members_are_verified(place: Path, results: dict[str, Any]) -> None:
    assert [line["step"] for line in lines(place / "trained")] == [1, 2]
    checks = results["verified"]
    assert "small: cut = masked" in checks and None not in checks.values() and all(checks.values()), checks


def test_what_was_trained_is_exported_as_the_slicer_does(place: Path) -> None:
    same(place / "parent-cut" / "model.safetensors", place / "exported-1.safetensors")
    before, after = (load_file(place / name / "model.safetensors") for name in ("dense", "parent-cut"))
    assert not any(torch.equal(before[name], tensor) for name, tensor in after.items() if "proj" in name)


def test_layers_that_predict_are_refused(place: Path, results: dict[str, Any]) -> None:
    assert results["predicts"].startswith("config.json: num_nextn_predict_layers: 1 ")


def test_no_name_is_used_that_megatron_core_has_deprecated(results: dict[str, Any]) -> None:
    """It warns of some, which `strictly` makes errors, and writes of others in the log."""
    said = results["trained"]["said"][0]
    assert "at iteration" in said and not re.search("(?i)(mamba|hybrid).*deprecated|deprecation", said)


@pytest.mark.parametrize("size", OURS)
def test_recipes_that_have_gone_are_ours(results: dict[str, Any], size: str) -> None:
    ours, theirs = results["recipes"][size], find_stock(recipe_of(size).stock.__qualname__)
    assert theirs.__module__.startswith("megatron.bridge.")
    assert ours["shape"] == parent_of(theirs().model, VOCAB).to_json()
    assert "model.hybrid_stack_spec: None -> " in ours["changes"]
