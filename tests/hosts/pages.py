# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What trainings of the documentation's pages run on in tests: a narrow 12B, its block, some text.

The lines are the page's own. What stands for something else in them is in a table, whose every entry they must have.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.data.build import build_data
from nemo_elastic.plan import preset
from nemo_elastic.rehearsal.small import ON_CPU, narrow
from recipes.families import family
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


def only_smaller(
    texts: tuple[str, str],
    place: Path,
    recipe: str,
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *more: str,
) -> set[str]:
    """Settings in which a page's lines and the scaled down ones differ: a rehearsal changes them, too, or `more` does.

    Their import makes the host's recipe narrow from then on, so it is a process of its own that calls this.

    Args:
        texts: the page's lines, and those at small scale.
        place: where the latter run.
        recipe: of the same parent, in recipes/.
        read: settings of what lines have left, by its names.
        more: patterns of further settings.
    """
    from nemo_elastic.rehearsal.run import rehearsal_of

    own = family(recipe)  # before it is narrow
    allowed = {change.name.partition(": ")[2] for change in rehearsal_of(own, "/rehearsal").changed}
    made = []
    for text, folder in zip(texts, (ROOT, place), strict=True):
        os.chdir(folder)
        names: dict[str, Any] = {"__name__": "train"}
        exec(text, names)
        made.append(read(names))
    before, after = made
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    others = [name for name in sorted(changed - allowed) if not any(re.fullmatch(one, name) for one in more)]
    assert others == [], f"a rehearsal does not change {others}"
    return changed


def in_small(text: str, table: Mapping[str, str]) -> str:
    """The page's lines with what stands for something else in them."""
    for old, new in table.items():
        assert old in text, f"the page has no {old!r} any more"
        text = text.replace(old, new)
    return text
