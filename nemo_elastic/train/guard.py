# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Losses and gradients that are not finite: found before the optimizer sees them, and named.

Steps without a token that counts are skipped too: weight decay and moments would change the model without data.
Every rank comes to the same decision, by one small all-reduce per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.terminal import say

from .seam import Host
from .training import FamilyTraining

#: a trained parameter and its name on this rank
Named = tuple[str, Any]
#: what may not be finite: the causes first
WEIGHT, LOSS, GRADIENT = range(3)


class Guard:
    """Decides, between the gradients and the optimizer, whether a step may be taken."""

    def __init__(self, family: FamilyTraining, host: Host) -> None:
        self.family, self.host = family, host
        self.in_a_row = 0
        self._skip = False

    def check_gradients(self, named: Sequence[Named]) -> None:
        """Look at the reduced gradients of this rank's parameters, which come from the input to the output.

        Where one is not finite, or a loss is not, the step is skipped or the run stopped, as the block says.
        A step without a token that counts on any rank is skipped.
        """
        here = torch.stack([self._not_finite(named), self._counted(named)])
        not_finite, counted = self.host.positive_on_any_rank(here)
        self._skip = not_finite or not counted
        if not not_finite:
            self.in_a_row = 0
            if self._skip and self.host.first:
                left_out = "no rank has a token that counts in the loss; this step is skipped"
                say(f"  training: step {self.host.step}: {left_out}")
            return
        nonfinite = self.family.config.nonfinite
        line = f"training: step {self.host.step}: {self._cause(named)}"
        if nonfinite.action == "stop":
            raise ElasticError(f"{line}; stopped before a weight was changed (elastic.nonfinite.action: stop)")
        self.in_a_row += 1
        if self.in_a_row >= nonfinite.limit:
            raise ElasticError(f"{line}; the last of {self.in_a_row} such steps (elastic.nonfinite.limit)")
        if self.host.first:
            say(f"  {line}; this step is skipped (elastic.nonfinite.action: skip)")

    def guarded(self, step: Callable[[], Any], skipped: Any = None) -> Callable[[], Any]:
        """Wrap an optimizer's step: it changes nothing and gives `skipped` where `check_gradients` says to skip it."""

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

    def _cause(self, named: Sequence[Named]) -> str:
        """What is not finite, in words: the same on every rank, of the rank that knows best."""
        causes = self.host.gather(self._cause_here(named))
        # gradients go from the last rank of a pipeline to the first
        seen = [(cause[0], -rank if cause[0] == GRADIENT else rank, rank, cause[1])
                for rank, cause in enumerate(causes) if cause is not None]  # fmt: skip
        if not seen:
            return "something is not finite"
        *_, rank, text = min(seen)
        return text if len(causes) == 1 else f"{text} (rank {rank})"

    def _cause_here(self, named: Sequence[Named]) -> tuple[int, str] | None:
        """The first of WEIGHT, LOSS and GRADIENT that is not finite on this rank, and that in words."""
        host, names, ran = self.host, [b.name for b in self.family.config.budgets], self.family.ran
        for name, parameter in named:
            if not torch.isfinite(parameter).all():
                return WEIGHT, f"the weight {host.whole_name(name)} is not finite"
        for r in ran:
            if r.loss is not None and not torch.isfinite(r.loss):
                return LOSS, f"budget {names[r.budget]} (micro-batch {r.micro_batch}): its loss is {float(r.loss)}"
        sampled = ", ".join(dict.fromkeys(names[r.budget] for r in ran))
        # gradients run from the output to the input: the last that is not finite began it
        for name, parameter in reversed(named):
            if not torch.isfinite(host.gradient(parameter)).all():
                return GRADIENT, f"budgets {sampled}: the gradient of {host.whole_name(name)} is not finite"
        return None
