# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The elastic block: round trip, defaults, and one clear line for every mistake."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.errors import ElasticError
from tests.shapes import NANO_12B

BLOCK: dict[str, Any] = {
    "budgets": [
        {"name": "12b"},
        {"name": "9b", "memory": {"size": "18GiB", "batch": 1, "length": 131072, "weights": "bf16", "cache": "bf16"}},
        {"name": "6b", "params": 6.0e9},
    ],
    "axes": {
        "hidden": [5120, 4480, 3840, 3584],
        "ffn": {"choices": [20480, 15360, 12288, 10240], "per_layer": True, "stripes": 8},
        "mamba_heads": {"choices": [128, 112, 96, 80], "per_layer": False},
        "mamba_head_dim": [80, 64],
        "attention_heads": {"choices": [40, 32, 24], "per_layer": False},
        "depth": [62, 58, 54],
    },
    "ranking": None,
    "shapes": "search",
    "search": {"candidates": 256, "tokens": 65536},
    "distill": {"teacher": "frozen", "terms": {"kl": 1}, "temperature": 1.0, "chunk_tokens": 512},
    "sampling": {"12b": 1, "9b": 1, "6b": 1},
}


@pytest.mark.parametrize(
    ("given", "teacher", "taught", "alone"),
    [
        ({}, "frozen", {"kl": 1.0}, None),
        ({"terms": {"kl": 1, "ce": 0.2}}, "frozen", {"kl": 1.0, "ce": 0.2}, None),
        ({"teacher": "none"}, "none", None, {"ce": 1.0}),
        ({"teacher": "self"}, "self", {"kl": 1.0}, {"ce": 1.0}),
        ({"teacher": "self", "terms": {"kl": 1, "ce": 0.3}}, "self", {"kl": 1, "ce": 0.3}, {"ce": 0.3}),
    ],
)
def test_a_loss_is_a_teacher_and_terms(given: dict, teacher: str, taught: dict | None, alone: dict | None) -> None:
    distill = ElasticConfig.from_dict(BLOCK | {"distill": given}).distill
    assert distill.teacher == teacher
    assert distill.has_teacher == (taught is not None)
    for which, terms in ((True, taught), (False, alone)):
        assert terms is None or distill.of(which) == terms
    assert type(distill)(**asdict(distill)) == distill


def test_round_trip_through_json_values() -> None:
    config = ElasticConfig.from_dict(BLOCK)
    assert ElasticConfig.from_dict(config.to_dict()) == config
    assert config.weights() == [1 / 3, 1 / 3, 1 / 3]
    parent = config.parent_shape(NANO_12B)
    assert config.targets(parent)["9b"] == 18 * 2**30
    assert config.resolve_axes(parent)["depth"].choices == (62, 58, 54)


@pytest.mark.parametrize(
    ("shapes", "file", "searches", "freeze"),
    [
        ("router", None, False, 100),
        ("search", None, True, 0),
        ("even", None, False, 0),
        ("made/shapes.json", "made/shapes.json", False, 0),
        (Path("search.json"), "search.json", False, 0),
    ],
)
def test_shapes_name_the_way_to_them(shapes: Any, file: str | None, searches: bool, freeze: int) -> None:
    config = ElasticConfig.from_dict(BLOCK | {"shapes": shapes})
    assert (config.shapes_file, config.searches) == (file, searches)
    assert config.freeze_step(100) == freeze and (config.router is not None) == (shapes == "router")
    assert ElasticConfig.from_dict(config.to_dict()) == config


def test_a_block_of_before_is_read_where_it_is_stored_and_refused_where_it_asks_for_halving() -> None:
    old = {**BLOCK, "search": BLOCK["search"] | {"keep": 4}, "halving": {"cuts": [0.12, 0.25], "tokens": 65536}}
    now = ElasticConfig.from_dict(BLOCK)
    assert ElasticConfig.from_dict(old) == now, "a checkpoint of before has the section whatever its shapes"
    assert ElasticConfig.stored(old | {"shapes": "halving"}) == now
    assert ElasticConfig.stored(old | {"shapes": "even"}).shapes == "even"
    unsaid = {name: value for name, value in old.items() if name != "shapes"}
    for given in (old | {"shapes": "halving"}, BLOCK | {"shapes": "halving"}, unsaid):
        with pytest.raises(ElasticError, match=r"elastic\.shapes: 'halving' is not allowed; search, "):
            ElasticConfig.from_dict(given)


def test_given_shapes_are_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.json").write_text("{}")
    (tmp_path / "even").mkdir()
    named = {way: ElasticConfig.from_dict(BLOCK | {"shapes": way}).with_absolute_paths().shapes
             for way in ("s.json", "none.json", "even")}  # fmt: skip
    assert named == {"s.json": str(tmp_path / "s.json"), "none.json": "none.json", "even": "even"}


def test_the_parent_is_always_a_member() -> None:
    config = ElasticConfig.from_dict(BLOCK | {"budgets": [{"name": "half", "ratio": 0.5}], "sampling": {}})
    assert [b.name for b in config.budgets] == ["full", "half"]
    assert config.budgets[0].is_parent


def test_a_whole_ffn_has_stripes_for_tensor_parallel_ranks() -> None:
    config = ElasticConfig.from_dict(BLOCK | {"axes": {"hidden": [5120, 3840]}})
    assert config.parent_shape(NANO_12B).ffn_stripes == 8
    assert config.parent_shape(replace(NANO_12B, ffn=20484, ffn_stripes=1)).ffn_stripes == 6


def test_stripes_of_experts_that_a_block_does_not_give() -> None:
    """An expert is whole on its rank, so its neurons are one stripe; all else is shared by ranks."""
    sizes = {"experts": 24, "expert_ffn": 96, "shared_ffn": 96, "top_k": 2, "routed_scaling": 1.0}
    parent = Parent("E", 64, 128, sizes=sizes)
    axes = {"hidden": [64, 48], "experts": [24, 20], "expert_ffn": [96, 64]}
    block = {"budgets": [{"name": "full"}, {"name": "half", "ratio": 0.5}], "axes": axes}
    more = ElasticConfig.from_dict(block).parent_shape(parent).sizes
    assert (more["experts_stripes"], more["expert_ffn_stripes"], more["shared_ffn_stripes"]) == (4, 1, 8)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"axes": {"hidden": [5120, -1]}}, "positive integers"),
        ({"axes": {"ffn": {"choices": [20480], "per_layer": "yes"}}}, "per_layer: 'yes'"),
        ({"shapes": "s.json", "router": {}}, "elastic.shapes: 's.json' is not allowed; router: the block has"),
        ({"router": {"tau": [0.0, 1.0]}}, "elastic.router.tau: 0.0"),
        ({"distill": {"mode": "ce"}}, "elastic.distill: unknown field 'mode'"),
        ({"distill": {"teacher": "none", "teacher_precision": "bf16"}}, "null: distill.teacher is none, not frozen"),
        ({"distill": {"terms": {"kl": -1}}}, "elastic.distill.terms.kl: -1 is not allowed; a weight of at least 0"),
        ({"distill": {"terms": {"kl": 0}}}, "at least one weight above 0"),
        ({"distill": {"terms": {"ce": 1}}}, "teacher: 'frozen' is not allowed; none: no term of ce compares with it"),
        ({"distill": {"teacher": "none", "terms": {"kl": 1}}}, "frozen or self: the term kl compares with a teacher"),
    ],
)
def test_mistakes_are_one_clear_line(change: dict, line: str) -> None:
    with pytest.raises(ElasticError, match=line) as e:
        ElasticConfig.from_dict(BLOCK | {"sampling": {}} | change)
    assert "\n" not in str(e.value)


def test_what_stands_beside_the_block_is_the_recipes(tmp_path: Path) -> None:
    """And a file without the key is the block, where a typo of it is a name that no block has."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"elastic": BLOCK, "techer": "p", "trainer": {"max_stepps": 1}}))
    assert ElasticConfig.load(path) == ElasticConfig.from_dict(BLOCK)
    path.write_text(yaml.safe_dump({"elastc": BLOCK}))
    with pytest.raises(ElasticError, match="elastic: unknown field 'elastc'"):
        ElasticConfig.load(path)
