# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The JSON schema and the config reference: up to date, and as strict as the dataclasses."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from nemo_elastic.cli import main
from nemo_elastic.config.block import ElasticConfig, json_schema
from nemo_elastic.config.sections import (
    DataConfig,
    DistillConfig,
    ImportanceConfig,
    NonfiniteConfig,
    RouterConfig,
    SearchConfig,
)
from nemo_elastic.core.cost import MemorySpec
from nemo_elastic.core.latency import Workload
from nemo_elastic.errors import ElasticError
from nemo_elastic.io.fields import attributes, schema_of
from nemo_elastic.profile.measure import widths_of
from nemo_elastic.profile.roofline import on_paper
from tests.shapes import PARENT

ROOT = Path(__file__).parents[2]
SECTIONS = (ImportanceConfig, SearchConfig, RouterConfig, DistillConfig, DataConfig, NonfiniteConfig,
            MemorySpec)  # fmt: skip
SMALL: dict[str, Any] = {"budgets": [{"name": "full"}, {"name": "half", "ratio": 0.5}], "axes": {"hidden": [16, 8]}}
FULL: dict[str, Any] = SMALL | {
    "budgets": [{"name": "full"}, {"name": "half", "memory": {"size": "18GiB", "batch": 2, "weights": "fp8"}}],
    "axes": {
        "hidden": [16, 8],
        "ffn": {"choices": [32, 16], "per_layer": True, "stripes": 4},
        "depth": {"choices": [5, 4], "keep_attention": 0},
    },
    "ranking": "ranking/",
    "shapes": "router",
    "router": {"tau": [1.0, 0.1], "gate": "hard"},
    "sampling": {"full": 1, "half": 2.5},
}
#: what both refuse: changes of the small block
WRONG: dict[str, dict[str, Any]] = {
    "unknown axis": {"axes": {"hiden": [16, 8]}},
    "unknown way to shapes": {"shapes": "greedy"},
    "no way to shapes": {"shapes": None},
    "no size": {"budgets": [{"name": "full"}, {"name": "half", "memory": {"batch": 1}}]},
    "no milliseconds": {"budgets": [{"name": "full"}, {"name": "half", "latency": {"table": "h100.json"}}]},
    "milliseconds and a share of them": {
        "budgets": [{"name": "full"}, {"name": "half", "latency": {"table": "h100.json", "ms": 12, "ratio": 0.6}}]
    },
    "nameless budget": {"budgets": [{"name": "full"}, {"ratio": 0.5}]},
    "negative weight": {"sampling": {"full": -1, "half": 1}},
    "stripes of hidden": {"axes": {"hidden": {"choices": [16, 8], "stripes": 2}}},
    "attention of an FFN": {"axes": {"ffn": {"choices": [32, 16], "keep_attention": 1}}},
    "no term": {"distill": {"terms": {}}},
    "more than the parent": {"budgets": [{"name": "full"}, {"name": "half", "ratio": 1.5}]},
    "twice the same width": {"axes": {"hidden": [16, 16]}},
}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(json_schema())
    return Draft202012Validator(json_schema())


@pytest.mark.parametrize("block", [SMALL, FULL], ids=["small", "full"])
def test_what_the_config_reads_is_valid(validator: Draft202012Validator, block: dict[str, Any]) -> None:
    config = ElasticConfig.from_dict(block)
    for data in (block, config.to_dict()):
        assert [e.message for e in validator.iter_errors({"elastic": data, "trainer": {"max_steps": 3}})] == []


@pytest.mark.parametrize("asked", [{"ms": 12}, {"ratio": 0.6, "of": "request"}], ids=str)
def test_a_limit_in_milliseconds_is_valid_by_a_file_or_by_what_it_holds(
    validator: Draft202012Validator, asked: dict[str, Any]
) -> None:
    axes = ElasticConfig.from_dict(SMALL).resolve_axes(PARENT)
    table = on_paper(PARENT, widths_of(PARENT, axes, 2), Workload(), "h100")
    for given in ("h100.json", table):
        budgets = [{"name": "full"}, {"name": "half", "latency": {"table": given, **asked}}]
        assert [e.message for e in validator.iter_errors({"elastic": SMALL | {"budgets": budgets}})] == []
    kept = ElasticConfig.from_dict(SMALL | {"budgets": budgets}).to_dict()
    assert kept["budgets"][1]["latency"]["table"] == table
    assert [e.message for e in validator.iter_errors({"elastic": kept})] == []


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_both_refuse_the_same(validator: Draft202012Validator, change: dict[str, Any]) -> None:
    with pytest.raises(ElasticError):
        ElasticConfig.from_dict(SMALL | change)
    assert not validator.is_valid({"elastic": SMALL | change})


def _words(cls: type) -> Iterator[tuple[str, list[str]]]:
    for name, schema in schema_of(cls)["properties"].items():
        words = schema.get("enum") or schema.get("anyOf", [{}])[0].get("enum")
        if words:
            yield name, words


@pytest.mark.parametrize(("cls", "name", "words"), [(cls, *own) for cls in SECTIONS for own in _words(cls)])
def test_words_of_the_schema_are_exactly_those_that_the_dataclass_takes(cls: Any, name: str, words: list[str]) -> None:
    assert [getattr(cls(**{name: word}), name) for word in words] == words
    with pytest.raises(ElasticError) as caught:
        cls(**{name: "no such word"})
    assert str(caught.value).partition("one of ")[2].split(", ") == words


def _bounds(cls: type) -> Iterator[tuple[str, float, float]]:
    """Field, a bound of it, and a value beyond that."""
    for name, schema in schema_of(cls)["properties"].items():
        own = schema.get("anyOf", [schema])[0]
        step = 1 if own.get("type") == "integer" else 1e-7
        for bound, sign in (("minimum", -1), ("maximum", 1)):
            if bound in own:
                yield name, own[bound], own[bound] + sign * max(step, step * abs(own[bound]))


@pytest.mark.parametrize(("cls", "name", "bound", "beyond"), [(cls, *own) for cls in SECTIONS for own in _bounds(cls)])
def test_bounds_of_the_schema_are_exactly_those_of_the_dataclass(
    cls: Any, name: str, bound: float, beyond: float
) -> None:
    assert getattr(cls(**{name: bound}), name) == bound
    for wrong in (beyond, True, str(bound), math.nan):
        with pytest.raises(ElasticError, match=rf"^[a-z.]+\.{name}: .* is not allowed; "):
            cls(**{name: wrong})


def test_the_stored_schema_is_up_to_date() -> None:
    stored = json.loads((ROOT / "conf" / "elastic.schema.json").read_text(encoding="utf-8"))
    assert stored == json_schema(), "nemo-elastic doctor --schema > conf/elastic.schema.json"


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["doctor", "--schema"])
    printed = capsys.readouterr().out
    assert done.value.code == 0 and json.loads(printed) == json_schema()


def test_the_config_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "config_reference.py"], capture_output=True, text=True, check=True
    )
    stored = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert done.stdout == stored, ".venv/bin/python tools/config_reference.py > docs/config.md"
    assert all(f"| `{name}` |" in stored for cls in (ElasticConfig, *SECTIONS) for name in attributes(cls))
