# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Other rules by which the bias that balances experts moves, for the study of them, and how even a model's loads are.

megatron-core moves the bias of an expert down where it had more tokens than the mean, and up where it had less. In a
family the layers count the micro-batches of the whole model alone (`nemo_elastic.megatron.moe_layer`). Here every
micro-batch counts: as it is, or with as many tokens for each dropped expert as the kept ones have on average, which
is the stock rule for a member that trains alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from nemo_elastic.megatron.choice import WHOLE, Run, is_recomputing
from nemo_elastic.megatron.moe_layer import ElasticRouter
from nemo_elastic.megatron.spec import elastic_stack_spec


class EveryRouter(ElasticRouter):
    """Counts the tokens of every micro-batch."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x_sbd: torch.Tensor, run: Run = WHOLE, index: int = -1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        weights_te, chosen_te = super().forward(x_sbd, run, index)
        if self.training and torch.is_grad_enabled() and not run.is_whole and not is_recomputing():
            self.local_tokens_per_expert += self.counted(chosen_te.detach().sum(0), run, index)
        return weights_te, chosen_te

    def counted(self, tokens_e: torch.Tensor, run: Run, index: int) -> torch.Tensor:
        """What a member's tokens count for."""
        return tokens_e


class EvenRouter(EveryRouter):
    """Lets an expert alone that a member has not: it counts as an average one of those that the member has."""

    def counted(self, tokens_e: torch.Tensor, run: Run, index: int) -> torch.Tensor:
        """In units of one of its experts, so that all are whole numbers and the mean is exact: signs alone count."""
        kept = run.select("moe.gate", 0, index, world=1)
        if kept is None:
            return tokens_e
        kept_e = torch.from_numpy(kept.mask()).to(tokens_e.device)
        return torch.where(kept_e, tokens_e * kept_e.sum(), tokens_e.sum())


def _spec(router: type[ElasticRouter]) -> Any:
    """The elastic spec with another router in its layers with experts."""
    made = elastic_stack_spec()
    layer = made.submodules.moe_layer
    mlp = layer.submodules.mlp
    mlp = partial(mlp.func, submodules=replace(mlp.keywords["submodules"], router=router))
    layer = replace(layer, submodules=replace(layer.submodules, mlp=mlp))
    return replace(made, submodules=replace(made.submodules, moe_layer=layer))


def every_spec() -> Any:
    return _spec(EveryRouter)


def even_spec() -> Any:
    return _spec(EvenRouter)


#: rule -> function that gives the spec; by name, since a run writes down which function it was
SPECS: Mapping[str, Callable[[], Any]] = {"whole": elastic_stack_spec, "every": every_spec, "even": even_spec}
