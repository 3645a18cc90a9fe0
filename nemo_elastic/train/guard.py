# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Losses and gradients that are not finite: found before the optimizer sees them, traced to a budget and a layer.

So are steps of which no token counts: weights would fade, and moments with them, by data that teaches nothing.
Every rank comes to the same decision, by one small all-reduce per step. What is traced is traced after the fact: the
step's micro-batches run forward once more while every layer is watched. A healthy step pays for none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from nemo_elastic.errors import ElasticError

from .seam import Host
from .training import FamilyTraining, Ran

__all__ = ["Guard", "Named"]

#: a trained parameter and its name on this rank
Named = tuple[str, Any]
#: how a trace can end, from the one that says most
WEIGHT, LAYER, LOSS, GRADIENT = range(4)


class Guard:
    """Decides, between the gradients and the optimizer, whether a step may be taken.

    Args:
        family: whose steps are looked at; it says what it ran, and its block what to do.
        host: of the training.
    """

    def __init__(self, family: FamilyTraining, host: Host) -> None:
        self.family, self.host = family, host
        self.in_a_row = 0
        self._skip = False

    def look(self, named: Sequence[Named]) -> None:
        """Look at reduced gradients.

        Args:
            named: this rank's trained parameters, from the input to the output.

        Raises:
            ElasticError: a loss or a gradient is not finite and the block says stop, or it says skip and this is one
                too many in a row. No weight has been changed.
        """
        here = torch.stack([self._not_finite(named), self._counted(named)])
        not_finite, counted = self.host.anywhere(here)
        self._skip = not_finite or not counted
        if not not_finite:
            self.in_a_row = 0
            if self._skip and self.host.first:
                left_out = "no token counts in any rank's loss; this step is left out"
                print(f"  training: step {self.host.step}: {left_out}", flush=True)
            return
        nonfinite = self.family.config.nonfinite
        line = f"training: step {self.host.step}: {self._trace(named)}"
        if nonfinite.action == "stop":
            raise ElasticError(f"{line}; stopped before a weight was changed (elastic.nonfinite.action: stop)")
        self.in_a_row += 1
        if self.in_a_row >= nonfinite.limit:
            raise ElasticError(f"{line}; the last of {self.in_a_row} such steps (elastic.nonfinite.limit)")
        if self.host.first:
            print(f"  {line}; this step is left out (elastic.nonfinite.action: skip)", flush=True)

    def guarded(self, step: Callable[[], Any], skipped: Any = None) -> Callable[[], Any]:
        """An optimizer's step that leaves weights and moments as they are where `look` found one to skip.

        Args:
            step: the optimizer's.
            skipped: what it then returns.
        """

        def guarded() -> Any:
            return skipped if self._skip else step()

        return guarded

    def _not_finite(self, named: Sequence[Named]) -> torch.Tensor:
        """1.0 where a loss or a gradient of this rank is not finite, else 0.0; the host does not wait."""
        norms = torch._foreach_norm([self.host.gradient(p) for _, p in named])  # pyright: ignore[reportPrivateImportUsage]
        seen = [*(n.float() for n in norms), *(r.loss.float() for r in self.family.ran if r.loss is not None)]
        return (~torch.isfinite(torch.stack(seen))).any().float()

    def _counted(self, named: Sequence[Named]) -> torch.Tensor:
        """Tokens that count in this rank's losses, 0.0 where it has none; the host does not wait."""
        counts = [r.count.float() for r in self.family.ran if r.count is not None]
        return torch.stack(counts).sum() if counts else torch.zeros((), device=named[0][1].device)

    def _trace(self, named: Sequence[Named]) -> str:
        """What is not finite, in words: the same on every rank, of the rank that knows best."""
        traces = self.host.gather(self._trace_here(named))
        traced = [(how, at, rank, text) for rank, (how, at, text) in enumerate(traces) if text]
        if not traced:
            return "something is not finite"
        *_, rank, text = min(traced)
        return text if len(traces) == 1 else f"{text} (rank {rank})"

    def _trace_here(self, named: Sequence[Named]) -> tuple[int, int, str | None]:
        """How much this rank can say, from WEIGHT to GRADIENT; where that lies, the likeliest first; and that."""
        host, names = self.host, [b.name for b in self.family.config.budgets]
        in_parts = host.pipeline_rank is not None
        where = self._first_layers()  # all ranks of a tensor-parallel group run
        weight = next((n for n, p in named if not torch.isfinite(p).all()), None)
        if weight is not None:
            return WEIGHT, 0, f"the weight {host.whole_name(weight)} is not finite"
        for ran, layer in zip(self.family.ran, where, strict=True):
            budget = f"budget {names[ran.budget]} (micro-batch {ran.micro_batch})"
            if layer is not None:
                return LAYER, layer[0], f"{budget}: {layer[1]} gave the first value that is not finite"
            if ran.loss is not None and not torch.isfinite(ran.loss):
                return LOSS, 0, f"{budget}: its loss is {float(ran.loss)}{'' if in_parts else ', no layer shows why'}"
        # gradients run from the output, on the last pipeline rank, to the first: the last that is not finite began it
        bad = [n for n, p in named if not torch.isfinite(host.gradient(p)).all()]
        sampled = ", ".join(dict.fromkeys(names[ran.budget] for ran in self.family.ran))
        text = f"budgets {sampled}: the gradient of {host.whole_name(bad[-1])} is not finite" if bad else None
        return GRADIENT, -(host.pipeline_rank or 0), text

    @torch.no_grad()
    def _first_layers(self) -> list[tuple[int, str] | None]:
        """Per micro-batch and budget: the first layer whose output is not finite; None where all are."""
        if self.host.pipeline_rank is not None:  # the input of a rank is gone
            return [None] * len(self.family.ran)
        return [first_layer(self.host, self.family.parent.types, ran) for ran in self.family.ran]


def first_layer(host: Host, kinds: Sequence[str], ran: Ran) -> tuple[int, str] | None:
    """Run forward again: the first layer whose output is not finite, by number and in words; None where all are."""
    wrong: list[tuple[int, str]] = []

    def watch(site: str, index: int, x_bsd: torch.Tensor) -> None:
        # what enters a layer is what the one before it gave, so only the first input can be news
        if site in ("layer_in", "layer_out") and not wrong and not torch.isfinite(x_bsd).all():
            wrong.append((-1, "the embedding") if site == "layer_in" else (index, f"layer {index} ({kinds[index]})"))

    last = host.watched(ran.tokens_bs, ran.choice, watch, ran.documents)
    if not wrong and not torch.isfinite(last).all():
        wrong.append((len(kinds), "the final norm"))
    return wrong[0] if wrong else None
