# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The plan's formulas against real small models on a CPU, in bf16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.plan.activations import Sharding, saved
from nemo_elastic.plan.memory import LOGITS, local_parameters, loss, stages, transient
from tests.shapes import LOSSES
from tests.support.models import start
from tests.support.ranks import spawn

from .measuring import PARENT, loss_peak, model_of, saved_bytes, step_peak

pytestmark = pytest.mark.nemo
TOLERANCE = 0.03


def formula(shards: Sharding, tokens: int, recompute: bool, gated: bool) -> float:
    return tokens * saved(PARENT, PARENT.types, shards, recompute=recompute, gated=gated, kernels=False)


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recompute"])
def test_saved_activations(recompute: bool, gated: bool) -> None:
    start()
    model = model_of(PARENT, recompute)
    for batch, length in ((1, 256), (2, 128)):
        measured = saved_bytes(model, PARENT, batch, length, gated)
        wanted = formula(Sharding(), batch * length, recompute, gated)
        assert measured == pytest.approx(wanted, rel=TOLERANCE)


def worker(rank: int, port: int, folder: Path) -> None:
    start(rank, 2, tensor=2, port=port)
    report = {}
    for sequence in (False, True):
        for recompute in (False, True):
            model = model_of(PARENT, recompute, sequence)
            for gated in (False, True):
                report[sequence, recompute, gated] = saved_bytes(model, PARENT, 1, 128, gated)
        report["loss", sequence] = loss_peak(model, DistillConfig(chunk_tokens=32), 4096)
    report["parameters"] = sum(p.numel() for p in model.parameters())
    torch.save(report, folder / f"rank{rank}.pt")


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.long
def test_two_tensor_parallel_ranks(tmp_path: Path) -> None:
    """Shares of activations with and without sequence parallelism, and of parameters."""
    spawn(worker, tmp_path)
    for rank in range(2):
        report = torch.load(tmp_path / f"rank{rank}.pt")
        assert report.pop("parameters") == local_parameters(PARENT, stages(PARENT, 1)[0], 2)
        for sequence in (False, True):
            measured = report.pop(("loss", sequence))
            wanted = loss(PARENT, DistillConfig(chunk_tokens=32), 4096, Sharding(2, sequence))
            assert measured == pytest.approx(wanted, rel=0.06), ("loss", sequence)
        assert len(report) == 8
        for (sequence, recompute, gated), measured in report.items():
            wanted = formula(Sharding(2, sequence), 128, recompute, gated)
            assert measured == pytest.approx(wanted, rel=TOLERANCE), (sequence, recompute, gated)


def test_parameters_of_a_real_model() -> None:
    start()
    count = sum(p.numel() for p in model_of(PARENT, False).parameters())
    assert count == local_parameters(PARENT, stages(PARENT, 1)[0], 1) == parameters(PARENT, PARENT.full)


@pytest.mark.parametrize(
    ("mode", "chunk"), [("frozen", 32), ("frozen", 256), ("frozen_ce", 256), ("ce", 256), ("trainable", 256)]
)
def test_the_loss_holds_what_the_formula_says(mode: str, chunk: int) -> None:
    start()
    tokens, distill = 512, DistillConfig(**LOSSES[mode], chunk_tokens=chunk)
    measured = loss_peak(model_of(PARENT, False), distill, tokens)
    assert measured == pytest.approx(loss(PARENT, distill, tokens, Sharding()), rel=0.06)


def test_rows_that_the_loss_works_on() -> None:
    from nemo_elastic.nn import loss_terms as terms

    assert LOGITS == terms.BLOCK_GPU


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recompute"])
def test_the_peak_of_a_step_is_below_the_formula_and_not_far(recompute: bool) -> None:
    """Everything of a step beyond weights, gradients and optimizer; the formula is an upper estimate."""
    start()
    (stage,), length = stages(PARENT, 1), 512
    distill = DistillConfig(chunk_tokens=64)
    measured = step_peak(model_of(PARENT, recompute), PARENT, 1, length, distill)
    kept = formula(Sharding(), length, recompute, False)
    held = loss(PARENT, distill, length, Sharding())
    moment = transient(PARENT, stage, Sharding(), length, recompute=recompute, gated=False, kernels=False)
    assert 0.7 < measured / (kept + max(held, moment)) <= 1.05
