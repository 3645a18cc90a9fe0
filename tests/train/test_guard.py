# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A step of which no token counts, or whose numbers are not finite, changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.weights import random_state
from nemo_elastic.train.guard import Guard
from nemo_elastic.train.members import Members
from nemo_elastic.train.training import FamilyTraining
from tests.shapes import PARENT
from tests.train.torch_host import TorchHost

BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "small", "ratio": 0.9}],
    "axes": {"hidden": [16, 12]},
    "shapes": "router",
    "router": {"hidden": 8},
}
DATA = torch.arange(64).view(4, 16) % 32


def training(**changes: Any) -> tuple[FamilyTraining, Any]:
    family = FamilyTraining(ElasticConfig.from_dict(BLOCK | changes), steps=8)
    family.members = Members(PARENT, 2, family.new_router(PARENT))
    family.members.put([PARENT.full, PARENT.uniform(hidden=12)], frozen=False)
    return family, TorchHost(PARENT, random_state(PARENT, PARENT.full, 0), DATA, micro_batch_size=2)


def test_a_step_of_which_no_token_counts_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    family, host = training(sampling={"small": 1})
    host.micro_batches = 2
    named = [*host.model.named_parameters(), *family.members.named_parameters()]
    guard, taken = Guard(family, host), []
    step = guard.guarded(lambda: taken.append(host.step))
    for host.step, counted in enumerate(((0, 0), (0, 1), (1, 1))):
        for weight in counted:
            mask = torch.full((2, 16), float(weight))
            loss, ran = family.loss(host, family.next_sample(host), DATA[:2], DATA[2:], mask)
            (loss * host.gradient_scale(mask.sum())).backward()
            assert torch.isfinite(loss) and (ran.budget, bool(ran.loss > 0)) == (1, bool(weight))
        grads = [p.grad for _, p in named if p.grad is not None]
        assert all(torch.isfinite(grad).all() for grad in grads)
        assert any(bool(grad.any()) for grad in grads) is any(counted)
        guard.check_gradients(named)
        step()
    assert taken == [1, 2]
    line = "  training: step 0: no rank has a token that counts in the loss; this step is skipped\n"
    assert capsys.readouterr().out == line


def test_as_many_steps_as_the_block_says_are_skipped_in_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    family, host = training(nonfinite={"action": "skip", "limit": 2})
    guard, head, taken = Guard(family, host), host.model.get_parameter("lm_head.weight"), []
    family.loss(host, family.next_sample(host), DATA[:2], DATA[2:], torch.ones(2, 16))
    for value in (float("inf"), 1.0, float("nan")):
        head.grad = torch.full_like(head, value)
        guard.check_gradients([("lm_head.weight", head)])
        taken.append(guard.guarded(lambda: True, skipped=False)())
    assert taken == [False, True, False]
    assert capsys.readouterr().out.count("this step is skipped (elastic.nonfinite.action: skip)") == 2
    with pytest.raises(ElasticError, match=r"the last of 2 such steps \(elastic.nonfinite.limit\)"):
        guard.check_gradients([("lm_head.weight", head)])


@pytest.mark.parametrize(("where", "says"), [
    ("weight", "the weight lm_head.weight is not finite"),
    ("loss", r"budget full \(micro-batch 0\): its loss is nan"),
    ("gradient", "budgets full, small: the gradient of lm_head.weight is not finite"),
])  # fmt: skip
def test_the_first_cause_of_what_is_not_finite_is_named(
    where: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, host = training()
    head = host.model.get_parameter("lm_head.weight")
    monkeypatch.setattr(family.sampler, "budget", lambda step, micro_batch: micro_batch)
    for _ in family.config.budgets:
        family.loss(host, family.next_sample(host), DATA[:2], DATA[2:], torch.ones(2, 16))[0].backward()
    if where == "weight":
        head.data[0, 0] = float("inf")
    elif where == "loss":
        family.ran = [replace(family.ran[0], loss=torch.tensor(float("nan"))), *family.ran[1:]]
    if where != "loss":
        head.grad[0, 0] = float("inf")
    with pytest.raises(ElasticError, match=says):
        Guard(family, host).check_gradients([*host.model.named_parameters()])
