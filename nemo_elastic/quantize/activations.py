# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How large the inputs of a family's matrix products become, in every member.

A member is cut out as bytes, its scales with it, so one scale serves all members: that of the largest input that any
of them has. An expert without tokens gets the range of the other experts of its layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.forward import forward
from nemo_elastic.nn.weights import LayerWeights
from nemo_elastic.runtime import FamilyRuntime

__all__ = ["Ranges", "largest_inputs"]

#: (row of the layout table, layer of the parent) -> largest absolute input
Ranges = dict[tuple[str, int], float]


@dataclass(frozen=True)
class _Watched(LayerWeights):
    ranges: Ranges | None = None

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        assert self.ranges is not None
        if x.numel():
            at = f"{self.layer.type}.{name.partition('.')[0]}", self.layer.index
            most = float(x.detach().abs().amax())
            if not math.isfinite(most):
                what = f"inputs of {at[0]} in layer {at[1]} are infinite or not a number"
                raise ElasticError(f"{what}; nemo-elastic verify finds damage")
            self.ranges[at] = max(self.ranges.get(at, 0.0), most)
        return super().linear(name, x)


class _WatchedLayers(Sequence[LayerWeights]):
    """Layers that are watched, each made when it is read."""

    def __init__(self, layers: Sequence[LayerWeights], ranges: Ranges) -> None:
        self._layers, self._ranges = layers, ranges

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, i: int) -> LayerWeights:  # pyright: ignore[reportIncompatibleMethodOverride]
        weights = self._layers[i]
        return _Watched(weights.layer, weights.tensors, weights.orders, self._ranges)

    def __iter__(self) -> Iterator[LayerWeights]:
        return (self[i] for i in range(len(self)))


def largest_inputs(
    family: FamilyRuntime, windows: Sequence[torch.Tensor], step: Callable[[], object] = lambda: None
) -> Ranges:
    """Run every member on all windows.

    Args:
        family: the loaded family.
        windows: token ids, each [1, l].
        step: called after each window of each member.

    Returns:
        By row and layer, of the layers that some member has.
    """
    ranges: Ranges = {}
    for name in family.path:
        weights = family.select(name).weights
        watched = replace(weights, layers=_WatchedLayers(weights.layers, ranges))
        for tokens_bl in windows:
            with torch.no_grad():
                forward(watched, tokens_bl.to(weights.embedding.device), last=True)
            step()
        family.release()
    return ranges
