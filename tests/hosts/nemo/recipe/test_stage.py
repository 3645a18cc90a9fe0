# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One list of arguments behind all entry points; what `check` refuses is in test_apply.py."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from nemo_elastic import apply_elastic
from nemo_elastic.hosts.common.stage import StageOptions
from nemo_elastic.hosts.nemo.cli.entry import train
from nemo_elastic.hosts.nemo.recipe.apply import ElasticPlugin


@pytest.mark.parametrize("entry", [apply_elastic, ElasticPlugin, train])
def test_every_entry_point_takes_them_with_the_same_defaults(entry: Callable[..., Any]) -> None:
    taken = inspect.signature(entry).parameters
    assert {f.name: f.default for f in fields(StageOptions)} == {
        name: p.default for name, p in taken.items() if name not in ("recipe", "elastic", "verbose")
    }


def test_steps_of_all_stages() -> None:
    assert StageOptions().total(10) == 10
    assert StageOptions(stage=2, previous="end", done_steps=7).total(10) == 17
    assert StageOptions(total_steps=40).total(10) == 40
