# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The routers of the large recipes learn a preference, under each recipe's own optimizer and beside a model that is
clipped.

Adam's epsilon there is 1e-5: gradients of the router, 1e-3 at most, must reach it unscaled. Block, space, samples,
schedule, optimizer and clipping are those of the recipe's stage 1 as it is built. The model is one weight: losses of
members are made up, as so many nats by which an axis's full width is better than its smallest.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipes.families import family
from tests.parallel.forks import measured
from tests.workers import part

pytestmark = [pytest.mark.nemo, pytest.mark.slow]
STEPS = 200
RECIPES = ("nemotron_elastic_12b", "nemotron_elastic_9b", "nemotron_elastic_8b")
EACH = pytest.mark.parametrize("recipe", [pytest.param(r, marks=part(r, long=r != RECIPES[-1])) for r in RECIPES])
#: axis -> nats by which the full width is better: half a nat, and a hundredth for each of about 25 FFN layers
PREFERENCES = {"hidden": 0.5, "ffn": 0.25}
#: gradient of the model's one weight: above the recipe's limit, so that its clipping is at work
NORM = 50.0


class Chunks(list):
    """The part of NeMo's `MegatronParallel` that its optimizers look at."""

    def __init__(self, ddp_config: Any, *models: Any) -> None:
        super().__init__(SimpleNamespace(module=model) for model in models)
        self.ddp_config = ddp_config


class Stage:
    """Router, optimizer and samples of a recipe's stage 1 on one rank.

    Args:
        name: of the recipe.
    """

    def __init__(self, name: str) -> None:
        import fiddle
        import torch
        from megatron.core.distributed import DistributedDataParallel
        from megatron.core.transformer import MegatronModule, TransformerConfig
        from nemo.lightning._strategy_lib import setup_megatron_optimizer

        from nemo_elastic.config.block import ElasticConfig
        from nemo_elastic.hosts.common.rules import check_shape
        from nemo_elastic.hosts.nemo.model import NemoHost
        from nemo_elastic.hosts.nemo.recipe.checks import NemoRecipe
        from nemo_elastic.megatron.choice import ElasticState
        from nemo_elastic.router import Router
        from nemo_elastic.search import Space
        from nemo_elastic.train.members import Members
        from nemo_elastic.train.samples import BudgetSampler
        from nemo_elastic.train.training import FamilyTraining

        large = family(name)
        block = replace(large.config, shapes="router")
        recipe = large.stage1_recipe("/parent", ["/data/text"], "/runs/family", block=block)
        self.config = ElasticConfig.from_dict(recipe.model.elastic)
        parent = check_shape(NemoRecipe(recipe), self.config)
        if parent.vocab == 1:  # its tokenizer lies on a hub
            parent = replace(parent, vocab=131072)
        space = Space(parent, self.config.resolve_axes(parent), tuple(range(parent.num_layers)))
        self.router = Router(space, self.config.budgets, self.config.router, self.config.seed)
        self.sampler = BudgetSampler(self.config.weights(), self.config.seed)

        shape = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1, bf16=True)
        core = MegatronModule(shape)
        core.weight = torch.nn.Parameter(torch.zeros(8, 8, dtype=torch.bfloat16))
        core.elastic = Members(parent, len(self.config.budgets), self.router)
        optim = fiddle.build(recipe.optim)
        strategy, data = recipe.trainer.strategy, recipe.data
        ranks = recipe.trainer.num_nodes * recipe.trainer.devices
        replicas = ranks // strategy.tensor_model_parallel_size // strategy.pipeline_model_parallel_size
        self.steps = recipe.trainer.max_steps
        self.micro_batches = data.global_batch_size // replicas // data.micro_batch_size
        ddp = fiddle.build(recipe.trainer.strategy.ddp)
        # one rank has nothing to shard and nobody to reduce with; the layout of moments is not what this is about
        optim.config.use_distributed_optimizer = ddp.use_distributed_optimizer = ddp.overlap_grad_reduce = False
        self.model = DistributedDataParallel(shape, ddp, core)
        self.core, self.optim = core, optim
        self.wrapped = setup_megatron_optimizer(
            Chunks(ddp, self.model), optim.config, optim.no_weight_decay_cond, optim.scale_lr_cond, optim.lr_mult
        )
        self.family = FamilyTraining(self.config)
        module = SimpleNamespace(config=shape, family=self.family, host=NemoHost(None, ElasticState(parent), core))
        optim.on_fit_start(SimpleNamespace(optimizers=[self.wrapped]), module)
        self.schedule = optim.lr_scheduler.scheduler(self.model, self.wrapped)["lr_scheduler"]["scheduler"]

    def step(self, step: int, axis: str, nats: float) -> float:
        """One optimizer step towards the full width of an axis; returns the model's gradient norm."""
        import torch

        from nemo_elastic.train.training import Ran

        self.model.zero_grad_buffer()
        self.wrapped.zero_grad()
        tau, scale = self.router.schedule(step / self.steps)
        losses = [self.core.weight.float().sum() * NORM / 8]
        for micro_batch in range(self.micro_batches):
            budget = self.sampler.samples(step, micro_batch)[0]
            if budget == 0:
                continue
            pi = self.router.probabilities(budget, tau, scale, noise=(step, micro_batch))
            widths = torch.tensor(self.router.space.choices[axis]).to(pi[axis])
            worse = nats * (1 - (pi[axis] @ widths - widths[-1]) / (widths[0] - widths[-1])).sum()
            loss = worse + self.config.router.loss_weight * self.router.budget_loss(pi, budget)
            losses.append(loss / self.micro_batches)
        torch.stack(losses).sum().backward()
        self.family.ran = [Ran(0, 0, None, torch.ones(()))]  # a token counts: the step is taken
        self.optim.finalize_model_grads([self.model])
        _, norm, _ = self.wrapped.mcore_optimizer.step()
        self.schedule.step()
        return norm


def learned(name: str, axis: str, nats: float) -> dict[str, Any]:
    """How far the smallest budget's choices on an axis have moved towards the full width after some steps."""
    stage = Stage(name)
    smallest = len(stage.config.budgets) - 1
    before = stage.router.logits(smallest)[axis].detach()
    norms = [stage.step(step, axis, nats) for step in range(STEPS)]
    after = stage.router.logits(smallest)[axis].detach()
    chosen, wanted = before.argmax(-1), after.argmax(-1)
    return {
        "moved": float((after - before).abs().max()),
        "slots": len(chosen),
        "changed": int((chosen != wanted).sum()),
        "wider": int((wanted < chosen).sum()),
        "full": int((wanted == 0).sum()),
        "norm": max(norms),
        "freeze": stage.config.router.freeze_step(stage.steps),
        "eps": stage.optim.config.adam_eps,
    }


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    import torch
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import initialize_rng_tracker, model_parallel_cuda_manual_seed

    from nemo_elastic.megatron.cpu import cuda_as_cpu

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
    with cuda_as_cpu():
        model_parallel_cuda_manual_seed(1)
        return {name: {axis: learned(name, axis, n) for axis, n in PREFERENCES.items()} for name in parts}


place = measured(measure)


@EACH
def test_half_a_nat_for_the_full_hidden_size_is_followed(results: dict[str, Any], recipe: str) -> None:
    actual = results[recipe]["hidden"]
    assert actual["eps"] == 1e-5, "the recipe's optimizer is not the one that this test is about"
    assert actual["freeze"] > STEPS
    assert actual["moved"] > 1 and actual["full"] == 1, actual


@EACH
def test_a_quarter_of_a_nat_for_wider_ffns_moves_the_logits(results: dict[str, Any], recipe: str) -> None:
    """Whether the choice changes, too, is up to the budget: other axes have to pay for it."""
    actual = results[recipe]["ffn"]
    assert actual["moved"] > 1 and actual["changed"] == actual["wider"], actual


@EACH
def test_the_model_is_clipped_by_its_own_norm(results: dict[str, Any], recipe: str) -> None:
    """The router counts neither in the norm that is logged nor in the limit."""
    for actual in results[recipe].values():
        assert actual["norm"] == pytest.approx(NORM, rel=1e-3)
