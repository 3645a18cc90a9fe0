# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What trainings of the documentation's pages run on in tests: a narrow 12B, its block, some text.

The lines are the page's own. What stands for something else in them is in a table, whose every entry they must have.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import yaml

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.data.build import build_data
from nemo_elastic.plan import preset
from nemo_elastic.rehearsal.small import ON_CPU, narrow
from tests.texts import FEW, library_text
from tests.workers import ROOT

#: where `prepare` was, for processes that it does not start by itself
PLACE = "NEMO_ELASTIC_TEST_PAGES"
#: steps, sequences of a step, and tokens of one
STEPS, BATCH, LENGTH = 3, 4, 64


@cache
def small() -> tuple[Parent, ElasticConfig]:
    """The narrow parent of the pages' block, and that block for it, which ranks and searches on less."""
    parent, block = narrow(
        preset("nemotron-nano-12b-v2"), ElasticConfig.load(ROOT / "conf" / "elastic_12b.yaml"), ON_CPU
    )
    assert block.search is not None
    importance = replace(block.importance, samples=BATCH, depth_samples=1)
    return parent, replace(block, importance=importance, search=replace(block.search, candidates=4, tokens=LENGTH))


def prepare(folder: Path) -> Path:
    """Make data/ and conf/elastic_12b.yaml in a folder."""
    parent, block = small()
    build_data(folder / "data", [library_text(folder / "text", FEW)], vocab=parent.vocab, held_out_problems=4)
    (folder / "conf").mkdir()
    (folder / "conf" / "elastic_12b.yaml").write_text(yaml.safe_dump({"elastic": block.to_dict()}))
    os.environ[PLACE] = str(folder)
    return folder


def paths(folder: Path) -> dict[str, str]:
    """What stands for paths of the pages."""
    return {
        "/data/code": f"{folder}/data/train",
        "/data/web": f"{folder}/data/val",
        "/checkpoints/12b": f"{folder}/parent",
        "/runs/12b": f"{folder}/runs",
    }


def in_small(text: str, table: Mapping[str, str]) -> str:
    """The page's lines with what stands for something else in them."""
    for old, new in table.items():
        assert old in text, f"the page has no {old!r} any more"
        text = text.replace(old, new)
    return text
