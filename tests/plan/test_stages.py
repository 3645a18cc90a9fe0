# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The curriculum: the paper's figures, and what a stage makes of a block."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.plan.stages import PAPER, Curriculum, Stage

CONF = Path(__file__).parents[2] / "conf"


def test_the_defaults_are_the_papers() -> None:
    one, two = PAPER.stage1, PAPER.stage2
    assert (one.seq_length, one.global_batch_size) == (8192, 1536)
    assert (two.seq_length, two.global_batch_size) == (49152, 512)
    assert one.tokens == pytest.approx(65e9, rel=0.01)
    assert two.tokens == pytest.approx(45e9, rel=0.01)
    config = ElasticConfig.load(CONF / "elastic_12b.yaml")
    assert one.block(config).weights() == pytest.approx([1 / 3] * 3)
    assert two.block(config).weights() == pytest.approx([0.5, 0.3, 0.2])
    assert (PAPER.lr, PAPER.warmup_steps, PAPER.steps) == (9e-5, 60, 6960)


def test_sizes_are_positive() -> None:
    with pytest.raises(ElasticError, match=r"stage.max_steps: .* at least 1"):
        Stage(8, 4, 0)


def test_sampling_has_a_weight_for_each_budget() -> None:
    config = ElasticConfig.load(CONF / "elastic_12b.yaml")
    with pytest.raises(ElasticError, match=r"stage.sampling: \(0.5, 0.5\) .* one weight for each of 12b, 9b, 6b"):
        Stage(8, 4, 2, sampling=(0.5, 0.5)).block(config)


def test_only_the_last_stage_is_in_low_precision() -> None:
    config = ElasticConfig.load(CONF / "elastic_12b.yaml")
    low = replace(config, distill=replace(config.distill, quantize="nvfp4"))
    three = PAPER.in_low_precision(200)
    assert [stage.max_steps for stage in three.stages] == [5170, 1790, 200]
    assert replace(three.stage3 or PAPER.stage1, max_steps=1790) == PAPER.stage2
    assert [three.steps_before(number) for number in (1, 2, 3)] == [0, 5170, 6960] and three.steps == 7160
    assert [three.block(low, n).distill.quantize for n in (1, 2, 3)] == [None, None, "nvfp4"]
    assert [PAPER.block(low, n).distill.quantize for n in (1, 2)] == [None, "nvfp4"]
    with pytest.raises(
        ElasticError, match=r"elastic.distill.quantize: missing; one of nvfp4, fp8: stage 3 trains in it"
    ):
        three.block(config, 1)
    assert Curriculum.from_dict(json.loads(json.dumps(asdict(three)))) == three
