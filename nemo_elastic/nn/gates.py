# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Gates: what a masked forward multiplies in, and the probe through which it can be watched.

A model runs a member in one of two ways. Given a `Subnet` it runs the submodel itself on sliced weights. Given `Gates`
it runs at full size and multiplies by them (method §5, "Soft masks"): with the expected gates of a router, or with
zeros and ones, which is the masked-hard oracle that must equal the slice in logits and in every weight's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from nemo_elastic.core.family import PARENT_WIDTH, Parent, Subnet, regroups
from nemo_elastic.core.kinds.mamba import SHARDS
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.errors import bad
from nemo_elastic.nn.functional import rms_norm, work_dtype

#: probe(site, layer index, activation): called by a model at the points whose importance is scored.
#: Sites: "hidden" every norm's output (layer index -1: the final norm) [..., D]; "mamba_x" the x part of in_proj's
#: output [..., heads, head_dim]; "ffn" the activation that enters the second linear, "ffn_pre" the first linear's
#: output [..., F]; "attention" the input of the output projection [..., heads, head_dim]; "experts" the weight of each
#: expert times the norm of what it puts out, 0 where a token is not sent to it, and "routed" whether it is [..., E];
#: "expert_ffn" the mean over a sequence of the magnitudes that enter the second linear of each expert [b, 1, E, F];
#: "shared_ffn" what enters that of the shared expert [..., F]; "latent" what experts read [..., L]; "layer_in" and
#: "layer_out" the residual stream before and after a layer [..., D]. Leading dimensions are (batch, length).
#: A probe may have `weights_bl`, of the tokens that a rank sees between layers, 1 in the mean over a whole sequence:
#: what is a mean over a sequence is weighted by them.
Probe = Callable[[str, int, torch.Tensor], None]


@dataclass
class LayerGates:
    """Gates of one layer.

    Attributes:
        keep: 0-dim, multiplies the layer's residual output.
        widths: axis -> [its width], of every axis of the layer's kind. One of an axis that each block has (the
            channels of a Mamba head) is shared by the blocks. An axis whose blocks are one, too, has gates for all of
            the parent's blocks (see `of_blocks`).
    """

    keep: torch.Tensor
    widths: Mapping[str, torch.Tensor]

    def __getitem__(self, axis: str) -> torch.Tensor:
        return self.widths[axis]

    def of_blocks(self, axis: str, blocks: str) -> torch.Tensor:
        """Gates of an axis, times those of its blocks where these are an axis of the layer, too."""
        own, outer = self.widths[axis], self.widths.get(blocks)
        return own if outer is None else (own.unflatten(0, (len(outer), -1)) * outer[:, None]).flatten()

    def channels(self, *axes: str) -> torch.Tensor:
        """Gate per channel of a product of axes, the first one outermost: [product of their widths]."""
        out = self.widths[axes[0]]
        for axis in axes[1:]:
            out = (out[:, None] * self.widths[axis]).reshape(-1)
        return out


@dataclass
class Gates:
    """Gates of a whole model: `hidden` [D] and one entry per layer of the parent."""

    hidden: torch.Tensor
    layers: tuple[LayerGates, ...]

    @classmethod
    def of(
        cls, parent: Parent, subnet: Subnet, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> Gates:
        """Zeros and ones that make a masked forward compute `subnet` exactly.

        Raises:
            ElasticError: Mamba heads of the member change their group (`core.family.regroups`).
        """
        if regroups(parent, subnet):
            allowed = f"a multiple of the {parent.mamba_groups} groups: heads that change groups have no mask"
            raise bad(f"parent.{SHARDS}", parent.size(SHARDS), allowed)

        def mask(axis: str, k: int) -> torch.Tensor:
            prefix = parent.axis(axis)
            grid = prefix.grid(k)
            gate = torch.zeros(grid.shape, dtype=dtype, device=device)
            gate[tuple(slice(n) for n in grid.kept)] = 1
            return gate.reshape(-1)

        layers = []
        for i in range(parent.num_layers):
            kept = subnet.by_index.get(i)
            choices = parent.choices(kept or parent.layer(i))
            keep = torch.tensor(float(kept is not None), dtype=dtype, device=device)
            layers.append(LayerGates(keep, {axis: mask(axis, k) for axis, k in choices.items()}))
        return cls(mask(HIDDEN, subnet.hidden), tuple(layers))


def gated_norm(
    parent: Parent, x: torch.Tensor, weight: torch.Tensor, gate_d: torch.Tensor, eps: float
) -> torch.Tensor:
    """RMSNorm over a gated stream [..., D]: that of a cut to as many channels as the gates' sum, see `Parent.norm`.

    With the parent's width only epsilon knows the sum: ``sum(x**2) / D + eps * sum(gates) / D``.
    """
    dtype = work_dtype(weight)
    gate_d = gate_d.to(dtype)
    weight, count = weight.to(dtype) * gate_d, gate_d.sum()
    if parent.norm == PARENT_WIDTH:
        return rms_norm(x, weight, count * (eps / parent.hidden), parent.hidden)
    return rms_norm(x, weight, eps, count)


#: How a model runs a micro-batch: whole, as a slice, or gated.
Choice = Subnet | Gates | None
