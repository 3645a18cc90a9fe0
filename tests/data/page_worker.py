# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic` as a page names it, where NeMo's 12B has few narrow layers, and the vocabulary of a large tokenizer.

python -m tests.data.page_worker COMMAND …
"""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from typing import Any

from nemo_elastic.cli import main
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import Budget
from tests.data.large import VOCAB
from tests.shapes import short_family
from tests.workers import ROOT

FAMILY = short_family(VOCAB)


def block() -> dict[str, Any]:
    """The 12B's block with axes, budgets and samples of so small a parent."""
    config = ElasticConfig.load(ROOT / "conf" / "elastic_12b.yaml")
    assert config.search is not None
    budgets = (Budget("12b"), Budget("9b", ratio=0.8), Budget("6b", ratio=0.6))
    assert [b.name for b in budgets] == [b.name for b in config.budgets]
    importance = replace(config.importance, samples=4, depth_samples=1)
    search = replace(config.search, candidates=4, tokens=64)
    axes = {name: replace(axis, per_layer=False) for name, axis in FAMILY.axes.items()}
    return replace(config, axes=axes, budgets=budgets, importance=importance, search=search).to_dict()


def small_stock() -> None:
    """Put a recipe of this parent in the place of NeMo's 12B."""
    import nemo_run as run
    from nemo.collections import llm

    from tests.hosts.nemo.small_stock import in_sizes_of, stock

    @functools.wraps(stock)
    def small(*args: Any, **kwargs: Any) -> run.Partial:
        recipe = in_sizes_of(stock(*args, **kwargs), FAMILY.parent)
        recipe.data.num_workers = 0
        return recipe

    run.cli.factory(target=llm.pretrain, name="nemotron_nano_12b_v2")(small)


if __name__ == "__main__":
    if sys.argv[1] == "train":
        small_stock()
    main(sys.argv[1:])
