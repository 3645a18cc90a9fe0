# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which settings of a block may differ from those of the checkpoint that a run starts from."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.hosts.common.same_family import FAMILY, RANKED, STEERING, check_same_family, other_steps

BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "half", "ratio": 0.5}],
    "axes": {"hidden": [64, 32]},
    "shapes": "router",
    "router": {"hidden": 8},
}


def block(**changes: Any) -> ElasticConfig:
    return ElasticConfig.from_dict(BLOCK | changes)


def changes(old: Any, new: ElasticConfig, stage: int = 1, resumed: bool = True) -> list[str]:
    return check_same_family(old, new, "runs/one", stage, resumed)


@pytest.mark.parametrize("section", ["", "importance", "search", "router", "distill", "nonfinite"])
def test_a_checkpoint_from_before_a_field_has_its_default(section: str) -> None:
    new = block()
    written = new.to_dict()
    own = written[section] if section else written
    for name in [name for name in own if name not in BLOCK and (section, name) != ("router", "hidden")]:
        old = written | ({section: {k: v for k, v in own.items() if k != name}} if section else {})
        if not section:
            del old[name]
        assert changes(old, new) == [], name


def test_another_value_is_refused_by_name_and_one_that_steers_is_told() -> None:
    with pytest.raises(ElasticError, match=r"elastic\.seed: 0 -> 4"):
        changes(block().to_dict(), block(seed=4))
    assert changes(yaml.safe_load(yaml.safe_dump(block().to_dict())), block()) == []
    old = block().to_dict()
    old["distill"]["top_k"] = None
    assert changes(old | {"budgets_per_batch": 1}, block()) == [], "fields that were removed"
    (line,) = changes(block().to_dict(), block(sampling={"half": 1}))
    assert line.startswith("elastic.sampling.half: None -> 1")
    (line,) = changes(block().to_dict(), block(data={"documents": "apart"}), resumed=False)
    assert line.startswith("elastic.data: "), "the first stage reads the documents of a ranking as it likes"


def test_a_ranking_is_compared_by_what_it_depends_on() -> None:
    for steered in ({"router": {"hidden": 8, "lr": 1e-3}}, {"distill": {"teacher": "none"}}):
        assert changes(block().to_dict(), block(**steered), stage=0)
    for other in (
        {"seed": 4},
        {"router": {"hidden": 16}},
        {"shapes": "even", "router": None},
        {"data": {"documents": "apart"}},
    ):
        with pytest.raises(ElasticError, match="another elastic block"):
            changes(block().to_dict(), block(**other), stage=0)


def test_every_setting_that_is_named_exists() -> None:
    whole = block(data={"documents": "apart"}).to_dict()
    for name in (*STEERING, *FAMILY, *RANKED):
        value: Any = whole
        for key in name.split("."):
            assert key in value, name
            value = value[key]


def test_a_checkpoint_that_is_not_elastic_is_refused() -> None:
    with pytest.raises(ElasticError, match="runs/one is not elastic"):
        changes(None, block())


@pytest.mark.parametrize(
    ("before", "now", "stage", "reached", "said"),
    [
        (10, 10, 1, 2, []),
        (10, 20, 1, 2, ["steps: 10 -> 20, from now on; shapes freeze at step 10, not 5"]),
        (10, 20, 1, 5, ["steps: 10 -> 20, from now on"]),
        (10, 20, 2, 2, ["steps: 10 -> 20, from now on"]),
    ],
    ids=["same", "before the freeze", "after it", "stage 2"],
)
def test_other_steps_are_told_with_the_freeze_that_they_move(
    before: int, now: int, stage: int, reached: int, said: list[str]
) -> None:
    config = block(router={"hidden": 8, "freeze_at": 0.5})
    assert list(other_steps("steps", before, now, config, stage, reached)) == said
