# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Nothing in a recipe changes without a line: every field of a stock recipe, as fiddle walks it."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from nemo_elastic.hosts.common.changes import Changes
from tests.hosts.nemo.blocks import with_text

OTHER = 987654


def test_an_element_that_becomes_its_own_index_is_a_line() -> None:
    assert Changes({"split": [7, 0]}).lines({"split": [7, 1]}) == ["split[1]: 0 -> 1"]


@pytest.fixture(scope="module")
def recipe() -> Any:
    from nemo.collections import llm

    return with_text(llm.nemotron_nano_12b_v2.pretrain_recipe(num_nodes=1, num_gpus_per_node=8))


def named(lines: list[str]) -> list[str]:
    """The settings that lines name, without places in lists."""
    return [re.sub(r"\[\w+\]", "", line.partition(": ")[0]) for line in lines]


@pytest.mark.nemo
def test_every_field_that_gets_another_value_is_one_line(recipe: Any) -> None:
    import fiddle
    from fiddle import daglish

    changes, seen = Changes(recipe), 0
    assert changes.lines(copy.deepcopy(recipe)) == [], "no line without a change"
    for value, path in daglish.iterate(recipe, memoized=False):
        if isinstance(value, (fiddle.Buildable, list, tuple, dict)):
            continue
        other = copy.deepcopy(recipe)
        owner, last = daglish.follow_path(other, path[:-1]), path[-1]
        if isinstance(last, daglish.Attr):
            setattr(owner, last.name, OTHER)
        else:
            owner[last.key if isinstance(last, daglish.Key) else last.index] = OTHER
        name = ".".join(step.name for step in path if isinstance(step, daglish.Attr))
        assert named(changes.lines(other)) == [name], name
        seen += 1
    assert seen > 50
