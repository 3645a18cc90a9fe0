# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the model refuses when it is built, where no recipe was checked before; and how NeMo divides its loss."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.documents import Documents
from nemo_elastic.train.training import FamilyTraining
from tests.megatron.models import start

pytestmark = pytest.mark.nemo
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "half", "ratio": 0.5}],
    "axes": {"hidden": [128, 64], "mamba_heads": [16, 12], "mamba_head_dim": [16, 9]},
    "distill": {"teacher": "none"},
}


def test_an_overlap_that_was_turned_on_again() -> None:
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig
    from nemo import lightning as nl

    from nemo_elastic.hosts.nemo.model import ElasticMambaModel
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH

    start()
    for owner in ("ddp", "optim"):
        optimizer, ddp = OptimizerConfig(lr=1e-3), DistributedDataParallelConfig()
        (optimizer if owner == "optim" else ddp).overlap_param_gather = True
        optim, tokenizer = nl.MegatronOptimizerModule(config=optimizer), SimpleNamespace(vocab_size=1024)
        model: Any = ElasticMambaModel(TinyNemotronH(), BLOCK, tokenizer=tokenizer, optim=optim)
        model._trainer = SimpleNamespace(strategy=nl.MegatronStrategy(ddp=ddp))
        name = "optim.config" if owner == "optim" else "trainer.strategy.ddp"
        with pytest.raises(ElasticError, match=rf"^recipe\.{name}\.overlap_param_gather: True "):
            model.configure_model()


def test_a_micro_batch_has_its_documents_and_tokens_of_the_vocabulary() -> None:
    from nemo_elastic.hosts.nemo.model import ElasticMambaModel
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start()
    model: Any = ElasticMambaModel(TinyNemotronH(), BLOCK, tokenizer=SimpleNamespace(vocab_size=1024))
    model.host = SimpleNamespace(core=SimpleNamespace(vocab_size=1024))
    whole = {name: torch.zeros(1, 8, dtype=torch.long) for name in ("tokens", "labels", "loss_mask", "position_ids")}
    packed = whole | {"cu_seqlens": torch.tensor([[0, 4, 8]]), "cu_seqlens_argmin": torch.tensor([[3]])}
    packed["max_seqlen"] = torch.tensor([4])
    with cuda_as_cpu():
        assert model.data_step(iter([whole]))["documents"] is None
        assert model.data_step(iter([packed]))["documents"] == Documents(((4, 8),))
        with pytest.raises(ElasticError, match=r"^data: 1024 "):
            model.data_step(iter([whole | {"tokens": torch.full((1, 8), 1024)}]))
        model.family = FamilyTraining(ElasticConfig.from_dict(BLOCK | {"data": {"documents": "joined"}}))
        assert model.data_step(iter([packed]))["documents"] is None


def test_a_mamba_width_that_the_kernels_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_elastic.hosts.nemo import model as module
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start()
    monkeypatch.setattr("nemo_elastic.megatron.models.have_kernels", lambda: True)
    model = module.ElasticMambaModel(TinyNemotronH(), BLOCK, tokenizer=SimpleNamespace(vocab_size=1024))
    with cuda_as_cpu(), pytest.raises(ElasticError, match=r"^elastic.axes.mamba_head_dim: 9 "):
        model.configure_model()


def scheduled(reduction: Any, loss: torch.Tensor, data: dict[str, Any]) -> tuple[Any, list[Any]]:
    """What megatron-core's schedule makes of the loss of one of four micro-batches."""
    from megatron.core.pipeline_parallel.schedules import forward_step_calc_loss

    reports: list[Any] = []
    config = SimpleNamespace(calculate_per_token_loss=False, timers=None)
    out, _ = forward_step_calc_loss(
        torch.nn.Module(), loss, partial(reduction.forward, data), config, None, False, 4, reports
    )
    return out, reports


def test_megatron_divides_its_loss_as_a_loss_per_token_that_nemo_masks() -> None:
    """Value, report and gradient are those of NeMo's own reduction of the same loss per token."""
    from nemo.lightning.megatron_parallel import MaskedTokenLossReduction

    from nemo_elastic.hosts.nemo.model import ElasticLossReduction
    from nemo_elastic.megatron.family_loop import Report

    generator = torch.Generator().manual_seed(0)
    # weights that are no mask of zeros and ones, so that one applied twice would show
    each_bs, mask_bs = torch.rand(2, 3, 5, generator=generator)
    each_bs.requires_grad_()
    want, want_report = scheduled(MaskedTokenLossReduction(), each_bs, {"loss_mask": mask_bs})
    loss = (each_bs * mask_bs).sum()
    counted = mask_bs.sum().to(torch.int)
    ours = {"loss_mask": mask_bs, "report": Report(counted, torch.stack([loss.detach(), counted]))}
    got, report = scheduled(ElasticLossReduction(), loss, ours)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(report[0]["loss_sum_and_ub_size"], want_report[0]["loss_sum_and_ub_size"].float())
    torch.testing.assert_close(torch.autograd.grad(got, each_bs), torch.autograd.grad(want, each_bs))
