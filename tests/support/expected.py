# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The expected member of a router's probabilities: an oracle of its expected costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nemo_elastic.core.cost import ExpectedLayer
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN
from nemo_elastic.router import Probabilities
from nemo_elastic.search import Space


@dataclass(frozen=True)
class Expected:
    """The expected member under a router's probabilities."""

    hidden: Any
    layers: tuple[ExpectedLayer, ...]


def expected_member(space: Space, probabilities: Probabilities) -> Expected:
    """Expected widths, and how probably each layer is kept, as float64 scalars."""
    pi = {axis: p.double() for axis, p in probabilities.items()}
    width = {axis: p @ torch.tensor(space.choices[axis], dtype=p.dtype) for axis, p in pi.items()}
    keep = (pi[DEPTH] @ torch.from_numpy(space.kept).double())[0]
    layers = []
    for i, kind in enumerate(space.parent.types):
        own = {
            axis: width[axis][space.layers_of(axis).index(i) if len(pi[axis]) > 1 else 0]
            for axis in space.parent.kind(kind).widths
        }
        layers.append(ExpectedLayer(i, kind, space.parent.widths(kind, own), keep[i]))
    return Expected(width[HIDDEN][0], tuple(layers))
