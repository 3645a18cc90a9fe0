# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Losses and gradients that are not finite: found before the optimizer sees them, traced to a budget and a layer.

Every rank comes to the same decision, by one small all-reduce per step. What is traced is traced after the fact: the
step's micro-batches run forward once more while every layer is watched. A healthy step pays for none of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from megatron.core import parallel_state

from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.gates import Choice

if TYPE_CHECKING:
    from .model import ElasticMambaModel


#: how a trace can end, from the one that says most
WEIGHT, LAYER, LOSS, GRADIENT = range(4)


@dataclass(frozen=True)
class Ran:
    """What a micro-batch ran of one budget.

    Attributes:
        micro_batch: its number in the step.
        budget: index.
        tokens_bs: token ids; None where a pipeline stage gets none.
        choice: of the budget.
        loss: sum over its tokens, detached; None on pipeline stages without a loss.
    """

    micro_batch: int
    budget: int
    tokens_bs: torch.Tensor | None
    choice: Choice
    loss: torch.Tensor | None = None


class Guard:
    """Decides, between the gradients and the optimizer, whether a step may be taken.

    Args:
        model: whose steps are looked at; it says what it ran, and its block what to do.
    """

    def __init__(self, model: ElasticMambaModel) -> None:
        self.model = model
        self.in_a_row = 0
        self._skip = False

    def look(self, chunks: Sequence[Any]) -> None:
        """Look at reduced gradients.

        Args:
            chunks: the model as megatron-core's data parallelism wraps it.

        Raises:
            ElasticError: a loss or a gradient is not finite and the block says stop, or it says skip and this is one
                too many in a row. No weight has been changed.
        """
        self._skip = self._anywhere(_not_finite(chunks, self.model.ran))
        if not self._skip:
            self.in_a_row = 0
            return
        nonfinite, step = self.model.elastic_config.nonfinite, self.model.trainer.global_step
        told = f"training: step {step}: {self._trace(chunks)}"
        if nonfinite.action == "stop":
            raise ElasticError(f"{told}; stopped before a weight was changed (elastic.nonfinite.action: stop)")
        self.in_a_row += 1
        if self.in_a_row >= nonfinite.limit:
            raise ElasticError(f"{told}; the last of {self.in_a_row} such steps (elastic.nonfinite.limit)")
        if self.model.trainer.is_global_zero:
            print(f"  {told}; this step is left out (elastic.nonfinite.action: skip)", flush=True)

    def guarded(self, step: Callable[[], Any]) -> Callable[[], Any]:
        """An optimizer's step that leaves weights and moments as they are where `look` found one to skip."""

        def guarded() -> Any:
            return (False, None, None) if self._skip else step()

        return guarded

    def _anywhere(self, here: torch.Tensor) -> bool:
        """Whether any rank found something."""
        torch.distributed.all_reduce(here, torch.distributed.ReduceOp.MAX)
        return bool(here.item())

    def _trace(self, chunks: Sequence[Any]) -> str:
        """What is not finite, in words: the same on every rank, of the rank that knows best."""
        told: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(told, self._trace_here(chunks))
        found = [(how, at, rank, text) for rank, (how, at, text) in enumerate(told) if text]
        if not found:
            return "something is not finite"
        *_, rank, text = min(found)
        return text if len(told) == 1 else f"{text} (rank {rank})"

    def _trace_here(self, chunks: Sequence[Any]) -> tuple[int, int, str | None]:
        """How much this rank can say, from WEIGHT to GRADIENT; where that lies, the likeliest first; and that."""
        names = [b.name for b in self.model.elastic_config.budgets]
        where = self._first_layers()  # all ranks of a tensor-parallel group run
        weight = next((n for n, p in parameters(chunks) if not torch.isfinite(p).all()), None)
        if weight is not None:
            return WEIGHT, 0, f"the weight {self._in_whole(weight)} is not finite"
        for ran, layer in zip(self.model.ran, where, strict=True):
            budget = f"budget {names[ran.budget]} (micro-batch {ran.micro_batch})"
            if layer is not None:
                return LAYER, layer[0], f"{budget}: {layer[1]} gave the first value that is not finite"
            if ran.loss is not None and not torch.isfinite(ran.loss):
                return LOSS, 0, f"{budget}: its loss is {float(ran.loss)}{'' if _staged() else ', no layer shows why'}"
        # gradients run from the output, on the last pipeline stage, to the first: the last that is not finite began it
        bad = [n for n, p in parameters(chunks) if not torch.isfinite(gradient(p)).all()]
        drawn = ", ".join(dict.fromkeys(names[ran.budget] for ran in self.model.ran))
        stage = parallel_state.get_pipeline_model_parallel_rank()
        told = f"budgets {drawn}: the gradient of {self._in_whole(bad[-1])} is not finite" if bad else None
        return GRADIENT, -stage, told

    def _in_whole(self, name: str) -> str:
        """A parameter's name in the whole model: a pipeline stage counts its own layers from 0."""
        layers = self.model.hidden.core.decoder.layers
        return re.sub(r"(?<=layers\.)\d+", lambda found: str(layers[int(found[0])].layer_number - 1), name)

    @torch.no_grad()
    def _first_layers(self) -> list[tuple[int, str] | None]:
        """Per micro-batch and budget: the first layer whose output is not finite; None where all are."""
        if _staged():  # a stage's input is gone
            return [None] * len(self.model.ran)
        return [first_layer(self.model, ran) for ran in self.model.ran]


def first_layer(model: ElasticMambaModel, ran: Ran) -> tuple[int, str] | None:
    """Run forward again: the first layer whose output is not finite, by number and in words; None where all are."""
    found: list[tuple[int, str]] = []
    kinds = model.parent.types

    def watch(site: str, index: int, x_bsd: torch.Tensor) -> None:
        # what enters a layer is what the one before it gave, so only the first input can be news
        if site in ("layer_in", "layer_out") and not found and not torch.isfinite(x_bsd).all():
            found.append((-1, "the embedding") if site == "layer_in" else (index, f"layer {index} ({kinds[index]})"))

    state = model.hidden.state
    state.probe = watch
    try:
        _, hidden_sbd = model.output(ran.tokens_bs, ran.choice)
    finally:
        state.probe = None
    if not found and not torch.isfinite(hidden_sbd).all():
        found.append((len(kinds), "the final norm"))
    return found[0] if found else None


def parameters(chunks: Sequence[Any]) -> Iterable[tuple[str, Any]]:
    """Trained parameters with their megatron-core names."""
    for chunk in chunks:
        for name, param in chunk.named_parameters():
            if param.requires_grad:
                yield name.rpartition("module.")[2], param


def gradient(param: Any) -> torch.Tensor:
    """Where megatron-core's data parallelism keeps a parameter's gradient."""
    grad = getattr(param, "main_grad", None)
    grad = param.grad if grad is None else grad
    return torch.zeros((), device=param.device) if grad is None else grad


def _staged() -> bool:
    """Whether the model is cut into pipeline stages."""
    return parallel_state.get_pipeline_model_parallel_world_size() > 1


def _not_finite(chunks: Sequence[Any], ran: Sequence[Ran]) -> torch.Tensor:
    """1.0 where a loss or a gradient of this rank is not finite, else 0.0; the host does not wait."""
    norms = torch._foreach_norm([gradient(p) for _, p in parameters(chunks)])
    seen = torch.stack([*(n.float() for n in norms), *(r.loss.float() for r in ran if r.loss is not None)])
    return (~torch.isfinite(seen)).any().float()
