# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Handing what one member has read to a larger one, without reading it again: an approximation.

Members are nested, so the states of a smaller one are a part of those of a larger one: the channels that both have
take the smaller one's values, the others begin at zero, as do Mamba layers that only the larger one has. Attention
keeps its keys and values; a layer of attention that has none cannot begin at zero, so that every one of the larger
member's must be the smaller one's, too.

b: sequences, c: channels of a convolution, k: its kernel, h: heads, p: channels of a head, n: state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.attention import ATTENTION
from nemo_elastic.core.kinds.mamba import MAMBA
from nemo_elastic.core.kinds.registry import KINDS
from nemo_elastic.core.layout import selection
from nemo_elastic.core.member import why_not_nested

from .cache import Cache, KeyValueState, MambaState

#: tensors of a Mamba layer whose channels are those of its convolution, and those of its scan
_CONV, _SCAN = "conv_weight", "norm"


def why_not_carried(small: Subnet, large: Subnet) -> str | None:
    """Say what keeps a cache of `small` from going over to `large`; None if nothing does."""
    why = why_not_nested(small, large)
    if why is not None:
        return why
    lacking = [x.index for x in large.layers if x.type == ATTENTION and x.index not in small.by_index]
    return f"attention layer {lacking[0]} was dropped there" if lacking else None


@dataclass(frozen=True)
class Wider:
    """Where a Mamba layer of a larger member has the channels of a smaller one.

    Attributes:
        conv: int64: of its convolution.
        scan: int64: of its scan, head by head.
    """

    conv: torch.Tensor
    scan: torch.Tensor

    @classmethod
    def of(cls, parent: Parent, small: Subnet, large: Subnet, index: int, device: torch.device) -> Wider:
        """Those of the layer that is number `index` of the parent, which both members have."""
        rows = (KINDS[MAMBA].tensors[name] for name in (_CONV, _SCAN))
        return cls(*(torch.from_numpy(selection(parent, r, 0, large, small, index).indices).to(device) for r in rows))

    def fill(self, into: tuple[torch.Tensor, torch.Tensor], states: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Write the states of the smaller member into those of the larger one.

        Args:
            into: a convolution [c, k - 1] and a scan [h, p, n] of the larger member, or with dimensions before these.
            states: the same of the smaller one; other memory.
        """
        (conv, scan), (own_conv, own_scan) = into, states
        conv.zero_()
        scan.zero_()
        conv.index_copy_(-2, self.conv, own_conv.to(conv.dtype))
        scan.flatten(-3, -2).index_copy_(-2, self.scan, own_scan.flatten(-3, -2).to(scan.dtype))


def carried(cache: Cache, parent: Parent, large: Subnet, like: torch.Tensor) -> Cache:
    """What a larger member goes on from; the cache of the smaller one is used up.

    Args:
        cache: of the smaller member.
        parent: shape in which layers are counted.
        large: the larger member.
        like: a weight of it.

    Raises:
        ValueError: the cache cannot go over; `why_not_carried` tells before.
    """
    why = why_not_carried(cache.member, large)
    if why is not None:
        raise ValueError(f"the cache is not carried over: {why}")
    out = Cache.empty(parent, large, cache.batch, like)
    out.lengths = list(cache.lengths)
    for index, state in cache.layers.items():
        new = out.layers[index]
        if isinstance(state, KeyValueState):
            out.layers[index] = state
        elif isinstance(state, MambaState) and isinstance(new, MambaState):
            wider = Wider.of(parent, cache.member, large, index, like.device)
            wider.fill((new.conv_bck, new.ssm_bhpn), (state.conv_bck, state.ssm_bhpn))
    return out
