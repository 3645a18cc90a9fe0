# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Gates: what a masked forward multiplies in, and the probe through which it can be watched.

A model runs a member in one of two ways. Given a `Subnet` it runs the submodel itself on sliced weights. Given `Gates`
it runs at full size and multiplies by them (method §5, "Soft masks"): with the expected gates of a router, or with
zeros and ones, which is the masked-hard oracle that must equal the slice in logits and in every weight's gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nemo_elastic.family import ATTENTION, MAMBA, MLP, Parent, Subnet

#: probe(site, layer index, activation): called by a model at the points whose importance is scored.
#: Sites: "hidden" every norm's output (layer index -1: the final norm) [..., D]; "mamba_x" the x part of in_proj's
#: output [..., heads, head_dim]; "ffn" the activation that enters the second linear, "ffn_pre" the first linear's
#: output [..., F]; "attention" the input of the output projection [..., heads, head_dim]; "layer_in"/"layer_out" the
#: residual stream before and after a layer [..., D]. Leading dimensions are (batch, length).
Probe = Callable[[str, int, torch.Tensor], None]


@dataclass
class LayerGates:
    """Gates of one layer.

    Attributes:
        keep: 0-dim, multiplies the layer's residual output.
        width: [ffn] for an MLP, [heads] for Mamba (SSM heads) and attention (query heads).
        head_dim: [head_dim], Mamba only: shared by its heads.
    """

    keep: torch.Tensor
    width: torch.Tensor
    head_dim: torch.Tensor | None = None

    def channels(self) -> torch.Tensor:
        """Gate per inner channel of a Mamba layer, head-major: [heads * head_dim]."""
        assert self.head_dim is not None
        return (self.width[:, None] * self.head_dim).reshape(-1)


@dataclass
class Gates:
    """Gates of a whole model: `hidden` [D] and one entry per layer of the parent."""

    hidden: torch.Tensor
    layers: tuple[LayerGates, ...]

    @classmethod
    def of(
        cls, parent: Parent, subnet: Subnet, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> Gates:
        """Zeros and ones that make a masked forward compute `subnet` exactly."""

        def mask(axis: str, k: int) -> torch.Tensor:
            prefix = parent.axis(axis)
            grid = prefix.grid(k)
            gate = torch.zeros(grid.shape, dtype=dtype, device=device)
            gate[tuple(slice(n) for n in grid.kept)] = 1
            return gate.reshape(-1)

        widths = {MLP: "ffn", MAMBA: "mamba_heads", ATTENTION: "attention_heads"}
        layers = []
        for i, kind in enumerate(parent.types):
            kept = subnet.by_index.get(i)
            layer = kept or parent.layer(i)
            k = layer.ffn if kind == MLP else layer.heads
            assert k is not None
            layers.append(
                LayerGates(
                    keep=torch.tensor(float(kept is not None), dtype=dtype, device=device),
                    width=mask(widths[kind], k),
                    head_dim=mask("mamba_head_dim", layer.head_dim) if layer.head_dim is not None else None,
                )
            )
        return cls(mask("hidden", subnet.hidden), tuple(layers))


#: How a model runs a micro-batch: whole, as a slice, or gated.
Choice = Subnet | Gates | None
