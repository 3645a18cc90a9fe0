# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The router under a large recipe's own optimizer, beside a model that is clipped.

Adam's epsilon there is 1e-5: gradients of the router, 1e-3 at most, must reach it unscaled.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.router import Router
from nemo_elastic.search import Space
from nemo_elastic.train.members import Members
from nemo_elastic.train.training import FamilyTraining, MicroBatchRecord
from recipes.families import family
from tests.support.models import start
from tests.workers import ROOT

pytestmark = pytest.mark.nemo
#: gradients of the model's one weight, above the recipe's limit, so that its clipping is at work; and of the router
NORM, SMALL = 50.0, 1e-3
PARENT = Parent("M-", 12, 16, 16, 4, 4, 2, 4, 4, 4, 2, 4)
CONFIG = ElasticConfig.from_dict(
    {"budgets": [{"name": "full"}, {"name": "half", "ratio": 0.6}], "axes": {"hidden": [12, 6]}, "shapes": "router",
     "distill": {"teacher": "none"}}
)  # fmt: skip


class Chunks(list):
    """The part of NeMo's `MegatronParallel` that its optimizers look at."""

    def __init__(self, ddp_config: Any, *models: Any) -> None:
        super().__init__(SimpleNamespace(module=model) for model in models)
        self.ddp_config = ddp_config


def test_neither_the_model_nor_the_router_is_clipped_by_the_norm_of_the_other() -> None:
    import fiddle
    from megatron.core.distributed import DistributedDataParallel
    from megatron.core.transformer import MegatronModule, TransformerConfig
    from nemo.lightning._strategy_lib import setup_megatron_optimizer

    from nemo_elastic.hosts.nemo.model import NemoHost
    from nemo_elastic.megatron.choice import ElasticState
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start()
    block = ROOT / "conf" / "elastic_12b_paper.yaml"
    recipe = family("nemotron_elastic_12b").job("stage1", "/parent", ["/data/text"], "/runs/family", block=block)
    optim: Any = fiddle.build(recipe.optim)
    ddp: Any = fiddle.build(recipe.trainer.strategy.ddp)
    assert (optim.config.adam_eps, optim.config.clip_grad) == (1e-5, 1.0), "the recipe's is another optimizer"
    # one rank has nothing to shard and nobody to reduce with; the layout of moments is not what this is about
    optim.config.use_distributed_optimizer = ddp.use_distributed_optimizer = ddp.overlap_grad_reduce = False

    shape = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1, bf16=True)
    core: Any = MegatronModule(shape)
    core.weight = torch.nn.Parameter(torch.zeros(8, 8, dtype=torch.bfloat16))
    space = Space(PARENT, CONFIG.resolve_axes(PARENT), (0, 1))
    assert CONFIG.router is not None
    core.elastic = Members(PARENT, 2, Router(space, CONFIG.budgets, CONFIG.router))
    router = [p for name, p in core.named_parameters() if "router" in name]
    training = FamilyTraining(CONFIG)
    with cuda_as_cpu():
        model = DistributedDataParallel(shape, ddp, core)
        conditions = optim.no_weight_decay_cond, optim.scale_lr_cond, optim.lr_mult
        wrapped = setup_megatron_optimizer(Chunks(ddp, model), optim.config, *conditions)
        host = NemoHost(None, ElasticState(PARENT), core)
        module: Any = SimpleNamespace(config=shape, family=training, host=host)
        optim.on_fit_start(SimpleNamespace(optimizers=[wrapped]), module)
        before = [p.detach().clone() for p in router]
        model.zero_grad_buffer()
        loss = core.weight.float().sum() * NORM / 8 + SMALL * sum(p.sum() for p in router)
        loss.backward()
        training.ran = [MicroBatchRecord(0, 0, None, torch.ones(()))]  # a token counts: the step is taken
        optim.finalize_model_grads([model])
        _, norm, _ = wrapped.mcore_optimizer.step()
    assert norm == pytest.approx(NORM, rel=1e-3)
    moved = optim.config.lr * optim.lr_mult * SMALL / (SMALL + optim.config.adam_eps)
    for old, new in zip(before, router, strict=True):
        torch.testing.assert_close(old - new, torch.full_like(new, moved), rtol=1e-3, atol=1e-6)
