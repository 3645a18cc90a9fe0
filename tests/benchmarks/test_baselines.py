# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The studies that run through NeMo: FLOPs, what chooses rates, runs that are made once, and tables."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.study import baselines, real
from benchmarks.study.baselines import AXES, BLOCK
from benchmarks.study.baselines_table import SIZES
from benchmarks.study.nemo_runs import (
    Batch,
    block,
    forward_flops,
    heldout,
    search_flops,
    step_flops,
)
from benchmarks.study.results import TUNED, held_out_parts
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.search import Space, uniform_family
from nemo_elastic.train.samples import BudgetSampler

TABLES = Path(__file__).parents[2] / "docs" / "tables"
WHOLE = Parent("M-M*-M-M*-", 256, 1024, 1280, 16, 32, 4, 16, 4, 8, 2, 32, ffn_stripes=8)


def test_the_flops_of_a_run_are_its_samples_pitfall_12() -> None:
    """By hand: micro-batches cost their member, and the teacher is the parent always."""
    batch, steps = Batch(2, 64), 40
    config = ElasticConfig.from_dict(BLOCK)
    actual = list(uniform_family(Space(WHOLE, config.resolve_axes(WHOLE), range(10)), config.budgets).values())
    sampler = BudgetSampler(config.weights(), config.seed)
    each = [forward_flops(WHOLE, m, batch.length) for m in actual]
    by_hand = sum(batch.tokens * (3 * each[sampler.budget(step, 0)] + each[0]) for step in range(steps))
    assert step_flops(WHOLE, config, actual, steps, batch) == pytest.approx(by_hand, rel=1e-12)
    tried = [{"cost": parameters(WHOLE, WHOLE.full)}]
    assert search_flops(WHOLE, config, tried, batch.length) == 2 * 1024 * each[0]
    assert search_flops(WHOLE, ElasticConfig.from_dict(block(AXES, SIZES, shapes="even")), [], batch.length) == 0


def test_losses_are_of_text_that_no_rate_is_chosen_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[torch.Tensor] = []

    def model(tokens: torch.Tensor, member: Subnet | None) -> torch.Tensor:
        read.append(tokens)
        return torch.zeros(*tokens.shape, 1000)

    stream = np.arange(900)
    monkeypatch.setattr(DataFolder, "open", lambda path: SimpleNamespace(tokens=lambda split: {"val": stream}[split]))
    assert heldout(model, tmp_path, 16, {"72": None}, tokens=256) == pytest.approx({"72": math.log(1000)})
    reported, chosen_by = {*torch.cat(read).flatten().tolist()}, {*held_out_parts(stream)[TUNED].tolist()}
    assert len(reported) == 256 and not reported & chosen_by


@pytest.mark.parametrize(("study", "name"), [(baselines, "baselines"), (baselines, "rates"), (real, "real")])
def test_the_documented_tables_are_those_of_the_kept_results(study: Any, name: str) -> None:
    table = study.study(SimpleNamespace(kept=True, rates=name == "rates"))
    assert table == (TABLES / f"study_{name}.md").read_text()
