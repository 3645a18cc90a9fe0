# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The study of a task's own shape: its two kinds of text, and the figures of its tables."""

from __future__ import annotations

import re
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.study.specialize import TASKS, documents, duel_rows, measure, page, shape_rows
from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.build import build_data
from nemo_elastic.data.encoded import Encoded
from nemo_elastic.evaluation import halves_of
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import FamilyRuntime
from tests.shapes import PARENT

SHAPE = replace(PARENT, vocab=400)
FAMILY = Family.of(
    SHAPE,
    {"big": SHAPE.full, "small": SHAPE.uniform(hidden=8, ffn=8, mamba_heads=2)},
    axes={
        "hidden": AxisConfig((16, 12, 8)),
        "ffn": AxisConfig((16, 8)),
        "mamba_heads": AxisConfig((6, 4, 2)),
        "mamba_head_dim": AxisConfig((4,)),
        "attention_heads": AxisConfig((4,)),
        "depth": AxisConfig((5,)),
    },
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    source = Path(sysconfig.get_paths()["stdlib"]) / "json"
    return build_data(tmp_path_factory.mktemp("data") / "data", [source], vocab=400, held_out_problems=8)


def test_held_out_text_is_code_or_a_problem(data):
    actual, info = documents(data), data.splits["val"]
    assert (len(actual["reasoning"]), len(actual["code"])) == (info.problems, info.documents - info.problems)
    assert sum(map(len, actual["reasoning"])) == info.problem_tokens > 0


def test_the_tables_have_the_figures_of_the_shapes(data):
    texts = {task: [Encoded(None, ids) for ids in of] for task, of in documents(data).items()}
    halves = {task: halves_of(texts[task], 8, 120, 0, task) for task in texts}
    runtime = FamilyRuntime(NemotronH.random(SHAPE, dtype=torch.float64), {m.name: m.subnet for m in FAMILY})
    size = measure(runtime, FAMILY, halves, ratio=0.75, candidates=6, seed=0)
    rows = shape_rows(FAMILY, [size])
    assert [row[1] for row in rows] == ["path", *TASKS]
    for row, subnet in zip(rows, size.shapes().values(), strict=True):
        assert row[2] == f"{parameters(SHAPE, subnet):,}" and parameters(SHAPE, subnet) <= 0.75 * parameters(
            SHAPE, SHAPE.full
        )
        held_out = {task: halves[task].held_out for task in TASKS}
        assert row[4:6] == [f"{size.losses[subnet, t].sum() / held_out[t].tokens:.4f}" for t in TASKS]
    for row in rows[1:]:
        for at in (0, 1):
            gain = re.match(r"-?\d\.\d{4}", row[6 + at])
            lost = float(rows[0][4 + at]) - float(row[4 + at])
            assert float(gain[0]) == pytest.approx(lost, abs=2e-4) if gain else row[6 + at] == "the same shape"
    duels = duel_rows([size])
    assert [row[1] for row in duels] == list(TASKS)
    for row, task in zip(duels, TASKS, strict=True):
        assert float(row[2]) >= 0 and row[-1] == ("own" if size.results[task].wins else "path's")
    text = page(FAMILY, halves, [size], 6)
    assert text.count("| 0.75 |") == 5 and "6 shapes measured" in text
