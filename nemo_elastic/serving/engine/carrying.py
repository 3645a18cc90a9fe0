# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pages of a smaller member become those of a larger one, in place, where a server carries the cache.

Keys and values stay as they are. A page of Mamba states is read as the smaller member has it and written as the larger
one does: both begin where the page begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from vllm.model_executor.layers.mamba.mamba_mixer2 import MambaMixer2
from vllm.model_executor.layers.mamba.mamba_utils import is_conv_state_dim_first

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.mamba import MAMBA
from nemo_elastic.nn.carry import Wider, why_not_carried

from .member import Member

#: name of a layer -> the page that a request has there
Pages = Callable[[str], int]


def carriable(members: Mapping[str, Subnet]) -> set[tuple[str, str]]:
    """Pairs of a smaller and a larger member between which a cache can go over.

    Args:
        members: shapes by name, largest first.
    """
    names = list(members)
    return {
        (small, large)
        for i, large in enumerate(names)
        for small in names[i + 1 :]
        if why_not_carried(members[small], members[large]) is None
    }


@torch.inference_mode()
def carry(parent: Parent, small: Member, large: Member, whole: Member, page_of: Pages) -> None:
    """Let one request go on with `large` from what `small` has read.

    Args:
        parent: shape in which layers are counted.
        small, large: the members.
        whole: the largest member, under whose layers' names pages are known.
        page_of: of the request.
    """
    for layer in large.subnet.layers:
        if layer.type != MAMBA:
            continue
        target = large.mixer(layer.index)
        page = page_of(whole.mixer(layer.index).prefix)
        into = _states(target, page)
        if layer.index not in small.subnet.by_index:
            for state in into:
                state.zero_()
            continue
        conv, scan = (state.clone() for state in _states(small.mixer(layer.index), page))  # it is the same memory
        Wider.of(parent, small.subnet, large.subnet, layer.index, scan.device).fill(into, (conv, scan))


def _states(mixer: MambaMixer2, page: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Convolution [c, k - 1] and scan [h, p, n] of one page."""
    conv, scan = mixer.kv_cache[0][page], mixer.kv_cache[1][page]
    return (conv if is_conv_state_dim_first() else conv.transpose(0, 1)), scan
