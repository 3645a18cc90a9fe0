# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What decoding carries from token to token: Mamba's convolution and SSM states, attention's keys and values.

Its sizes follow the widths of the member that decodes, so a cache belongs to one member.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.kinds.attention import ATTENTION
from nemo_elastic.core.kinds.mamba import MAMBA, MAMBA_HEAD_DIM, MAMBA_HEADS
from nemo_elastic.nn.dtype import work_dtype


@dataclass
class MambaState:
    """One Mamba layer: the last inputs of its convolution [b, c, k - 1], and the state of its scan [b, h, p, n]."""

    conv_bck: torch.Tensor
    ssm_bhpn: torch.Tensor

    def select(self, rows: torch.Tensor) -> None:
        """Keep these sequences of the batch, in this order."""
        self.conv_bck, self.ssm_bhpn = self.conv_bck[rows], self.ssm_bhpn[rows]


@dataclass
class KeyValueState:
    """One attention layer: keys and values [b, g, capacity, d], of which the first `length` positions are written."""

    keys_bgld: torch.Tensor
    values_bgld: torch.Tensor
    length: int = 0

    def append(self, k_bgld: torch.Tensor, v_bgld: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write behind what is there; returns views of all keys and values so far."""
        stop = self.length + k_bgld.shape[2]
        if stop > self.keys_bgld.shape[2]:  # doubled: a step then costs the copy of one token on average
            self.keys_bgld, self.values_bgld = (
                torch.cat([t[:, :, : self.length], t.new_empty(*t.shape[:2], 2 * stop - self.length, t.shape[3])], 2)
                for t in (self.keys_bgld, self.values_bgld)
            )
        self.keys_bgld[:, :, self.length : stop] = k_bgld
        self.values_bgld[:, :, self.length : stop] = v_bgld
        self.length = stop
        return self.keys_bgld[:, :, :stop], self.values_bgld[:, :, :stop]

    def select(self, rows: torch.Tensor) -> None:
        """Keep these sequences of the batch, in this order."""
        self.keys_bgld, self.values_bgld = self.keys_bgld[rows], self.values_bgld[rows]


def mamba_state(parent: Parent, layer: Layer, batch: int, like: torch.Tensor) -> MambaState:
    """Zeros, as before the first token."""
    heads, head_dim = layer.widths[MAMBA_HEADS], layer.widths[MAMBA_HEAD_DIM]
    channels = heads * head_dim + 2 * parent.mamba_groups * parent.state
    return MambaState(
        like.new_zeros(batch, channels, parent.conv_kernel - 1),
        like.new_zeros((batch, heads, head_dim, parent.state), dtype=work_dtype(like)),
    )


def key_value_state(parent: Parent, layer: Layer, batch: int, like: torch.Tensor) -> KeyValueState:
    """No token yet."""
    nothing = like.new_empty(batch, parent.kv_heads, 0, parent.attention_head_dim)
    return KeyValueState(nothing, nothing)


class State(Protocol):
    """What a layer carries from token to token."""

    def select(self, rows: torch.Tensor) -> None:
        """Keep these sequences of the batch, in this order."""
        ...


#: name of a kind -> its state before the first token; others have none
STATES: dict[str, Callable[[Parent, Layer, int, torch.Tensor], State]] = {
    MAMBA: mamba_state,
    ATTENTION: key_value_state,
}


@dataclass
class Cache:
    """Decoding state of `member` for a batch of sequences that are all `length` tokens long."""

    member: Subnet
    batch: int
    layers: dict[int, State] = field(default_factory=dict)
    length: int = 0

    @classmethod
    def empty(cls, parent: Parent, member: Subnet, batch: int, like: torch.Tensor) -> Cache:
        """State before the first token, in the dtype and on the device of the weight `like` (SSM states: float32)."""
        cache = cls(member, batch)
        for layer in member.layers:
            if layer.type in STATES:
                cache.layers[layer.index] = STATES[layer.type](parent, layer, batch, like)
        return cache

    def select(self, rows: torch.Tensor) -> None:
        """Keep these sequences of the batch, in this order."""
        for state in self.layers.values():
            state.select(rows)
        self.batch = len(rows)
