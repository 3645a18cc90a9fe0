# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Weights as low precision has them, in training: rounded whole, once a step; members are slices of that.

A slice's codes under the parent's scales are the parent's codes, cut (`nn.low_precision`). So one rounding of a weight
serves all members and micro-batches of a step, forward and backward, and a slice costs no more than one of the weight
itself; what it takes is a second copy of the weights that run. Gradients go to the weight as they are
(straight-through), into `main_grad` like all others, which is why the products of `linear` take both tensors: a module
of ModelOpt's has one weight, that which it has rounded, and would round it again in each micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from nemo_elastic.nn.low_precision import fake_quantized, largest, scale_of


@dataclass
class Rounding:
    """The rounded weights of one model.

    Attributes:
        scheme: nvfp4 or fp8.
        rows: of the layout table, with their layers, that are rounded.
    """

    scheme: str
    rows: frozenset[tuple[str, int]]
    step: int = -1
    _known: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict, repr=False)

    def begin(self, step: int) -> None:
        """Weights are those after so many optimizer steps: what was rounded of others is forgotten."""
        if step != self.step:
            self.step = step
            self._known.clear()

    def of(
        self, row: str, index: int, weight: torch.Tensor, group: dist.ProcessGroup | None = None
    ) -> torch.Tensor | None:
        """`each` of a row that has one tensor on this rank."""
        known = self.each(row, index, [weight], group)
        return None if known is None else known[0]

    @torch.no_grad()
    def each(
        self, row: str, index: int, weights: Sequence[torch.Tensor], group: dist.ProcessGroup | None = None
    ) -> Sequence[torch.Tensor] | None:
        """This rank's shards of a row's weights, each rounded under the scale of its whole; None where they stay.

        Args:
            row: its name in the layout table.
            index: of its layer in the parent.
            group: ranks that share each, all of which ask; None for one.

        Returns:
            Evenly spaced in one buffer, as experts are.
        """
        if (row, index) not in self.rows:
            return None
        key = row, index
        if key not in self._known:
            amax = torch.stack([largest(weight) for weight in weights])
            if group is not None:
                dist.all_reduce(amax, dist.ReduceOp.MAX, group=group)
            scales = scale_of(amax, self.scheme)
            pairs = zip(weights, scales, strict=True)
            self._known[key] = torch.stack([fake_quantized(weight, self.scheme, scale) for weight, scale in pairs])
        return self._known[key].unbind(0)
