# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Several budgets in a micro-batch: the mean of what each gives alone, one teacher pass, one student at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.train.training import sum_in_turn
from tests.hosts.nemo.cutting import MEMBER, PARENT, random_tensors
from tests.shapes import LOSSES
from tests.support.elastic_model import batch_of, elastic_model, run_schedule
from tests.support.models import distributed
from tests.support.peak import Peak

pytestmark = pytest.mark.nemo
MIDDLE = PARENT.uniform(keep=[0, 1, 2, 3, 4, 6], hidden=56, ffn=80)
MEMBERS = [PARENT.full, MIDDLE, MEMBER]
NAMES = ["full", "middle", "small"]
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "middle", "ratio": 0.8}, {"name": "small", "ratio": 0.5}],
    "axes": {
        "hidden": [64, 56, 48, 32], "ffn": {"choices": [96, 80, 64, 32], "stripes": 4}, "mamba_heads": [8, 6, 4],
        "mamba_head_dim": [16, 12], "attention_heads": [8, 4], "depth": [7, 6, 5],
    },
    "shapes": "even",
}  # fmt: skip
BATCHES = [batch_of(PARENT, 2, 20, seed) for seed in range(2)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nemo_elastic.hosts.nemo.checkpoint.write import write_nemo_checkpoint
    from tests.support.models import start

    start()
    return write_nemo_checkpoint(tmp_path_factory.mktemp("p") / "nemo", PARENT, PARENT.full, random_tensors(PARENT))


class Step:
    """One optimizer step's gradients and reports, of two micro-batches."""

    def __init__(self, checkpoint: Path, buffer: bool = False, change: Any = None, **block: Any) -> None:
        self.model = elastic_model(PARENT, BLOCK | block, MEMBERS, checkpoint)
        core = self.model.host.core
        if change is not None:
            change(core.config)
        self.ddp = distributed(self.model.host.core) if buffer else None
        self.reports = run_schedule(self.model, BATCHES)
        self.grads = {n: p.main_grad if buffer else p.grad for n, p in core.named_parameters()}
        self.grads = {n: torch.zeros(()) if g is None else g for n, g in self.grads.items()}

    def losses(self) -> torch.Tensor:
        """Loss sum and tokens of every budget over both micro-batches, [budget, 2]."""
        return torch.stack([r["by_budget"] for r in self.reports]).sum(0)

    def total(self) -> torch.Tensor:
        return torch.stack([r["loss_sum_and_ub_size"] for r in self.reports]).sum(0)


def compare(together: Step, apart: dict[str, Step], shares: dict[str, float]) -> None:
    for name, grad in together.grads.items():
        wanted = sum(share * apart[n].grads[name] for n, share in shares.items())
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-6)
    assert any(g.abs().max() > 1e-4 for g in together.grads.values())
    for n in shares:
        i = NAMES.index(n)
        torch.testing.assert_close(together.losses()[i], apart[n].losses()[i])
    wanted = sum(share * apart[n].total() for n, share in shares.items())
    torch.testing.assert_close(together.total(), wanted)


@pytest.mark.parametrize(("mode", "buffer"), [("frozen", False), ("frozen_ce", True), ("trainable", True)])
def test_three_budgets_are_the_mean_of_each_alone(checkpoint: Path, mode: str, buffer: bool) -> None:
    more = {"distill": LOSSES[mode], "buffer": buffer}
    apart = {n: Step(checkpoint, sampling={n: 1}, **more) for n in NAMES}
    together = Step(checkpoint, budgets_per_batch=3, **more)
    compare(together, apart, dict.fromkeys(NAMES, 1 / 3))


def test_budgets_have_their_weights(checkpoint: Path) -> None:
    apart = {n: Step(checkpoint, sampling={n: 1}) for n in NAMES}
    three = Step(checkpoint, budgets_per_batch=3, sampling={"full": 2, "middle": 1, "small": 1})
    compare(three, apart, {"full": 0.5, "middle": 0.25, "small": 0.25})


def test_the_router_learns_from_every_budget(checkpoint: Path) -> None:
    soft = {"shapes": "router", "router": {"hidden": 8}}
    apart = {n: Step(checkpoint, sampling={n: 1}, **soft) for n in NAMES}
    together = Step(checkpoint, budgets_per_batch=3, **soft)
    compare(together, apart, dict.fromkeys(NAMES, 1 / 3))
    assert any(g.abs().max() > 1e-6 for n, g in together.grads.items() if "router" in n)


def test_the_routers_loss_counts_as_often_as_the_micro_batch_has_tokens(checkpoint: Path) -> None:
    soft = {"shapes": "router", "router": {"hidden": 8, "loss_weight": 2.0}, "sampling": {"small": 1}}
    model = elastic_model(PARENT, BLOCK | soft, MEMBERS, checkpoint)
    batch = dict(BATCHES[0])
    loss = model.training_step(batch)
    (ran,) = batch["elastic"]
    routed = model.family.last_router["routed"]
    assert (ran.budget, ran.share) == (2, 1.0)
    wanted = 2.0 * model.members.router.budget_loss(routed, 2) * batch["loss_mask"].sum()
    assert float(wanted) > 0
    torch.testing.assert_close((loss - ran.loss).float(), wanted.float(), rtol=1e-4, atol=1e-4)


def test_schedules_that_scale_otherwise_are_followed_or_refused(checkpoint: Path) -> None:
    plain = Step(checkpoint, budgets_per_batch=2)

    def fp16(config: Any) -> None:
        config.grad_scale_func = lambda loss: loss * 1024

    def per_token(config: Any) -> None:
        config.calculate_per_token_loss = True

    scaled, summed = (Step(checkpoint, budgets_per_batch=2, change=change) for change in (fp16, per_token))
    tokens = float(BATCHES[0]["loss_mask"].sum()) * len(BATCHES)
    for name, grad in plain.grads.items():
        torch.testing.assert_close(scaled.grads[name], 1024 * grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(summed.grads[name], tokens * grad, rtol=1e-4, atol=1e-5)

    w = torch.ones((), requires_grad=True)
    total = sum_in_turn([lambda: 2 * w, lambda: 3 * w], lambda: torch.tensor(1.0))
    assert float(total.detach()) == 5 and float(w.grad) == 2  # pyright: ignore[reportArgumentType]
    with pytest.raises(RuntimeError, match="budgets_per_batch: the loss is scaled in another way"):
        (total / 7).backward()


def test_the_teacher_runs_once_a_micro_batch(checkpoint: Path) -> None:
    model = elastic_model(PARENT, BLOCK | {"budgets_per_batch": 3}, MEMBERS, checkpoint)
    calls: list[int] = []
    model.host.frozen.decoder.register_forward_hook(lambda *_: calls.append(len(calls)))
    run_schedule(model, BATCHES)
    assert len(calls) == len(BATCHES)


def test_one_students_activations_at_a_time(checkpoint: Path) -> None:
    """At its fullest a step of three budgets holds what one of the largest holds, and little more."""

    def peak(**block: Any) -> int:
        model = elastic_model(PARENT, BLOCK | block, MEMBERS, checkpoint)
        ddp, batch = distributed(model.host.core), batch_of(PARENT, 8, 64)
        run_schedule(model, [batch])
        with Peak() as seen:
            run_schedule(model, [batch])
        assert all(p.grad is None for p in ddp.parameters())
        return seen.most

    assert peak(budgets_per_batch=3) < 1.05 * peak(sampling={"full": 1})
