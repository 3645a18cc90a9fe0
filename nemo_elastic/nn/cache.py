# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding states: convolution and SSM states of Mamba layers, keys and values of attention layers.

Sizes follow the widths of the decoding member, so a cache belongs to one member.

Reads can be undone: after `mark` a state keeps every position, and `rewind` keeps a number of positions for each
sequence. So the sequences of a batch may have unequal lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.kinds.attention import KV_HEADS
from nemo_elastic.core.kinds.mamba import MAMBA_HEAD_DIM, MAMBA_HEADS
from nemo_elastic.core.kinds.registry import KINDS
from nemo_elastic.core.layout import sizes
from nemo_elastic.nn.functional import work_dtype


class State(Protocol):
    """Decoding state of one layer."""

    def select(self, rows: torch.Tensor) -> None:
        """Keep these sequences of the batch, in this order."""

    def join(self, others: Sequence[Any]) -> None:
        """Append the sequences of other states of this layer."""

    def mark(self) -> None:
        """Begin a speculative read, which `rewind` can undo in part."""

    def rewind(self, kept: Sequence[int]) -> None:
        """Undo all but the first `kept` positions that each sequence has read since the mark, and remove the mark."""


@dataclass
class MambaState:
    """One Mamba layer: the last inputs of its convolution [b, c, k - 1], and the state of its scan [b, h, p, n].

    Attributes:
        history: since `mark`: the convolution's inputs [b, c, k - 1 + positions], and the scan's state at the mark
            and after each position; None without a mark.
    """

    conv_bck: torch.Tensor
    ssm_bhpn: torch.Tensor
    history: tuple[torch.Tensor, list[torch.Tensor]] | None = None

    def select(self, rows: torch.Tensor) -> None:
        self.conv_bck, self.ssm_bhpn = self.conv_bck[rows], self.ssm_bhpn[rows]

    def join(self, others: Sequence[MambaState]) -> None:
        self.conv_bck = torch.cat([self.conv_bck, *(s.conv_bck for s in others)])
        self.ssm_bhpn = torch.cat([self.ssm_bhpn, *(s.ssm_bhpn for s in others)])

    def mark(self) -> None:
        """Keep the state after every position from here on."""
        self.history = self.conv_bck, [self.ssm_bhpn]

    def append(self, x_blc: torch.Tensor) -> None:
        """Keep the convolution's next inputs, of which its states are parts."""
        if self.history is not None:
            inputs_bcl, states = self.history
            self.history = torch.cat([inputs_bcl, x_blc.transpose(1, 2).to(inputs_bcl.dtype)], 2), states

    def advance(self, ssm_bhpn: torch.Tensor) -> None:
        """Take the scan's state after one more position, or without a mark after several."""
        self.ssm_bhpn = ssm_bhpn
        if self.history is not None:
            self.history[1].append(ssm_bhpn)

    def rewind(self, kept: Sequence[int]) -> None:
        assert self.history is not None
        (inputs_bcl, states), past, self.history = self.history, self.conv_bck.shape[2], None
        if len(set(kept)) == 1:
            self.conv_bck, self.ssm_bhpn = inputs_bcl[:, :, kept[0] : kept[0] + past].contiguous(), states[kept[0]]
            return
        self.conv_bck = torch.stack([inputs_bcl[row, :, n : n + past] for row, n in enumerate(kept)])
        self.ssm_bhpn = torch.stack([states[n][row] for row, n in enumerate(kept)])


@dataclass
class KeyValueState:
    """One attention layer: keys and values [b, g, capacity, d]; positions after a sequence's length are padding.

    Attributes:
        keys_bgld, values_bgld: finite everywhere, as masked positions are multiplied by 0.
        length: positions of the longest sequence.
        lengths: of each sequence, None where all are of the same length.
        marked: lengths at the mark.
    """

    keys_bgld: torch.Tensor
    values_bgld: torch.Tensor
    length: int = 0
    lengths: list[int] | None = None
    marked: list[int] | None = None

    @property
    def past(self) -> int | list[int]:
        """Positions before those that come next: one number, or one of each sequence."""
        return self.length if self.lengths is None else self.lengths

    def append(self, k_bgld: torch.Tensor, v_bgld: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append positions; returns views of all keys and values up to the longest sequence."""
        new = k_bgld.shape[2]
        stop = self.length + new
        if stop > self.keys_bgld.shape[2]:  # a prompt gets its length; doubled, steps cost the copy of one token each
            self._reserve([self], max(stop, 2 * self.length))
        if self.lengths is None:
            self.keys_bgld[:, :, self.length : stop] = k_bgld
            self.values_bgld[:, :, self.length : stop] = v_bgld
        else:
            for row, at in enumerate(self.lengths):
                self.keys_bgld[row, :, at : at + new] = k_bgld[row]
                self.values_bgld[row, :, at : at + new] = v_bgld[row]
            self.lengths = [at + new for at in self.lengths]
        self.length = stop
        return self.keys_bgld[:, :, :stop], self.values_bgld[:, :, :stop]

    def select(self, rows: torch.Tensor) -> None:
        self.keys_bgld, self.values_bgld = self.keys_bgld[rows], self.values_bgld[rows]
        if self.lengths is not None:
            self._set_row_lengths([self.lengths[row] for row in rows.tolist()])

    def join(self, others: Sequence[KeyValueState]) -> None:
        states = [self, *others]
        lengths = [n for s in states for n in s._row_lengths()]
        self._reserve(states, max(lengths))
        self._set_row_lengths(lengths)

    def mark(self) -> None:
        """Remember where each sequence is."""
        self.marked = self._row_lengths()

    def rewind(self, kept: Sequence[int]) -> None:
        assert self.marked is not None
        self._set_row_lengths([at + n for at, n in zip(self.marked, kept, strict=True)])
        self.marked = None

    def _row_lengths(self) -> list[int]:
        return [self.length] * len(self.keys_bgld) if self.lengths is None else self.lengths

    def _set_row_lengths(self, lengths: list[int]) -> None:
        self.length = max(lengths)
        self.lengths = None if min(lengths) == self.length else lengths

    def _reserve(self, states: Sequence[KeyValueState], capacity: int) -> None:
        """Copy the sequences of these states into buffers of `capacity` positions, padded with zeros."""
        self.keys_bgld = _padded([s.keys_bgld[:, :, : s.length] for s in states], capacity)
        self.values_bgld = _padded([s.values_bgld[:, :, : s.length] for s in states], capacity)


def _padded(parts: Sequence[torch.Tensor], capacity: int) -> torch.Tensor:
    """Tensors [b, g, l, d] of any l in one tensor of length `capacity`, padded with zeros."""
    _, groups, _, size = parts[0].shape
    whole_bgld = parts[0].new_zeros(sum(map(len, parts)), groups, capacity, size)
    for own_bgld, part_bgld in zip(whole_bgld.split([len(part) for part in parts]), parts, strict=True):
        own_bgld[:, :, : part_bgld.shape[2]] = part_bgld
    return whole_bgld


def mamba_state(parent: Parent, layer: Layer, batch: int, like: torch.Tensor) -> MambaState:
    """Zeros, as before the first token."""
    heads, head_dim = layer.widths[MAMBA_HEADS], layer.widths[MAMBA_HEAD_DIM]
    channels = heads * head_dim + 2 * parent.mamba_groups * parent.state
    return MambaState(
        like.new_zeros(batch, channels, parent.conv_kernel - 1),
        like.new_zeros((batch, heads, head_dim, parent.state), dtype=work_dtype(like)),
    )


def key_value_state(parent: Parent, layer: Layer, batch: int, like: torch.Tensor) -> KeyValueState:
    """An empty state."""
    heads = layer.widths.get(KV_HEADS, parent.kv_heads)
    nothing = like.new_empty(batch, heads, 0, parent.attention_head_dim)
    return KeyValueState(nothing, nothing)


#: the parts of a kind's decoding state by its record (`Kind.cache`) -> the state before the first token
STATES: dict[tuple[str, ...], Callable[[Parent, Layer, int, torch.Tensor], State]] = {
    ("conv", "ssm"): mamba_state,
    ("kv",): key_value_state,
}


def _state(parent: Parent, layer: Layer, batch: int, like: torch.Tensor) -> State | None:
    parts = tuple(KINDS[layer.type].cache(sizes(parent, 0, layer), batch, 0))
    return STATES[parts](parent, layer, batch, like) if parts else None


@dataclass
class Cache:
    """Decoding state of `member` for a batch of sequences.

    Attributes:
        member: that decodes.
        layers: states by the layer's number in the parent.
        lengths: how many tokens each sequence has read.
    """

    member: Subnet
    layers: dict[int, State]
    lengths: list[int]
    _marked: list[int] = field(default_factory=list, repr=False)

    @classmethod
    def empty(cls, parent: Parent, member: Subnet, batch: int, like: torch.Tensor) -> Cache:
        """State before the first token, in the dtype and on the device of the weight `like` (SSM states: float32)."""
        states = {layer.index: _state(parent, layer, batch, like) for layer in member.layers}
        return cls(member, {index: state for index, state in states.items() if state is not None}, [0] * batch)

    @classmethod
    def joined(cls, caches: Sequence[Cache]) -> Cache:
        """One batch of the sequences of several caches of the same member; the caches must not be used afterwards."""
        first, *others = caches
        if not others:
            return first
        for index, state in first.layers.items():
            state.join([other.layers[index] for other in others])
        return cls(first.member, first.layers, [n for cache in caches for n in cache.lengths])

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return len(self.lengths)

    @property
    def length(self) -> int:
        """Tokens that the longest sequence has read."""
        return max(self.lengths)

    def advance(self, positions: int) -> None:
        """Add `positions` to the length of every sequence."""
        self.lengths = [n + positions for n in self.lengths]

    def select(self, rows: torch.Tensor) -> None:
        """Keep these sequences of the batch, in this order."""
        for state in self.layers.values():
            state.select(rows)
        self.lengths = [self.lengths[row] for row in rows.tolist()]

    def mark(self) -> None:
        """Begin a speculative read: until `rewind` every Mamba layer keeps its state after each position."""
        for state in self.layers.values():
            state.mark()
        self._marked = self.lengths

    def rewind(self, kept: Sequence[int]) -> None:
        """Undo all but the first `kept` positions that each sequence has read since the mark, and remove the mark."""
        for state in self.layers.values():
            state.rewind(kept)
        self.lengths = [n + k for n, k in zip(self._marked, kept, strict=True)]
