# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the ranking needs of a model: to be run layer by layer, from any stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch

from nemo_elastic.nn.gates import Probe


class Layered(Protocol):
    """A model taken apart; `nn.forward.Layers` and `megatron.layers.MegatronLayers` are two.

    Streams are the model's own business: only the model reads them. No method may change one that it is given, for
    several runs go on from the same stream. Activations handed to a probe are (batch, length, ...), and whole unless
    ranks hold the model together: then `Shards` makes one of what each has seen.
    """

    def embed(self, tokens: torch.Tensor, /) -> Any:
        """Token ids [b, l] to the stream that enters the first layer."""
        ...

    def layer(self, index: int, stream: Any, probe: Probe | None = None, /) -> Any:
        """The stream after a layer, from the stream before it."""
        ...

    def norm(self, stream: Any, probe: Probe | None = None, /) -> torch.Tensor:
        """The final norm of the last layer's stream: what the head reads."""
        ...

    def head(self, normed: torch.Tensor, /) -> torch.Tensor:
        """Logits [b, l, v] (of this rank's part of the vocabulary) of what `norm` gave."""
        ...


class Shards(Protocol):
    """Ranks that hold one model together: what each has seen of it makes what one rank would have seen.

    All of them call the same methods in the same order.
    """

    def mean(self, site: str, mean: torch.Tensor, /) -> torch.Tensor:
        """A mean [b, ...] over the tokens and of the channels that this rank sees at a probe's site, made whole."""
        ...

    def logits(self, sums: torch.Tensor, /) -> torch.Tensor:
        """Sums over this rank's part of the vocabulary, made those over all of it."""
        ...


def through(model: Layered, layers: Iterable[int], stream: Any, probe: Probe | None = None) -> torch.Tensor:
    """A stream through some layers and the final norm."""
    for index in layers:
        stream = model.layer(index, stream, probe)
    return model.norm(stream, probe)
