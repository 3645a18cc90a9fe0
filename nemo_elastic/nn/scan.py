# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The chunked scan of `nn.ssd`, forward and backward, without autograd.

Backward is written out because autograd would keep every q x q matrix of every head until then: here it keeps the
inputs, the output and a few states, and computes the rest again. Both passes go through the chunks tile by tile.

Letters beside those of `nn`: c chunk of the sequence, m row of the batch and k chunk within a tile, q position in a
chunk, r head of a group. ``dt`` is the step size itself, after bias and softplus.

With ``decay_i`` the sum of ``dt A`` over a chunk's positions up to i, and H the state before the chunk::

    y_i       = sum_{j <= i} (C_i . B_j) exp(decay_i - decay_j) dt_j x_j + exp(decay_i) H C_i + D x_i
    H after   = exp(decay_q) H + sum_j exp(decay_q - decay_j) dt_j x_j B_j^T

and, for a gradient dy, with u_j the gradient of ``dt_j x_j``::

    d decay_i = dy_i . (y_i - D x_i) - dt_i x_i . u_i, at the last position also H after . d(H after)

which needs no q x q matrix: a factor exp(decay_i) multiplies all of y_i, and exp(-decay_j) all that j puts in.
"""

from __future__ import annotations

import torch

from nemo_elastic.nn.tiles import Scratch, tiles

#: chunks that a tile has at least: a state is kept for each tile
LEAST_CHUNKS = 4


def scan_forward(
    x_blgrp: torch.Tensor,
    dt_blgr: torch.Tensor,
    A_gr: torch.Tensor,
    B_blgn: torch.Tensor,
    C_blgn: torch.Tensor,
    D_gr: torch.Tensor | None,
    state_bgrpn: torch.Tensor | None,
    q: int,
    y_blgrp: torch.Tensor,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Writes ``y_blgrp``; returns the state after the last position and the states before each tile."""
    b, _, g, r, p = x_blgrp.shape
    if state_bgrpn is None:
        state_bgrpn = x_blgrp.new_zeros(b, g, r, p, B_blgn.shape[-1])
    starts: list[torch.Tensor] = []
    for part, size in _parts(x_blgrp.shape[1], q):
        small = _Small(dt_blgr[:, part], A_gr, B_blgn[:, part], C_blgn[:, part], size)
        x, y = (t[:, part].unflatten(1, (-1, size)) for t in (x_blgrp, y_blgrp))
        state_bgrpn = _part_forward(x, small, D_gr, state_bgrpn, y, starts)
    return state_bgrpn, starts


def scan_backward(
    dy_blgrp: torch.Tensor,
    dstate_bgrpn: torch.Tensor | None,
    x_blgrp: torch.Tensor,
    dt_blgr: torch.Tensor,
    A_gr: torch.Tensor,
    B_blgn: torch.Tensor,
    C_blgn: torch.Tensor,
    D_gr: torch.Tensor | None,
    starts: list[torch.Tensor],
    q: int,
    y_blgrp: torch.Tensor,
    into: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Writes the gradients of x, dt, B and C `into` tensors of their shapes; returns those of A, D and the state."""
    b, _, g, r, p = x_blgrp.shape
    if dstate_bgrpn is None:
        dstate_bgrpn = x_blgrp.new_zeros(b, g, r, p, B_blgn.shape[-1])
    else:
        dstate_bgrpn = dstate_bgrpn.clone()
    dA_gr = torch.zeros_like(A_gr)
    dD_gr = None if D_gr is None else torch.zeros_like(D_gr)
    starts = list(starts)
    for part, size in reversed(_parts(x_blgrp.shape[1], q)):
        small = _Small(dt_blgr[:, part], A_gr, B_blgn[:, part], C_blgn[:, part], size)
        dx, ddt, dB, dC = (t[:, part].unflatten(1, (-1, size)) for t in into)
        x, y, dy = (t[:, part].unflatten(1, (-1, size)) for t in (x_blgrp, y_blgrp, dy_blgrp))
        _part_backward(dy, dstate_bgrpn, x, small, D_gr, starts, y, (dx, ddt, dB, dC), dA_gr, dD_gr)
    return dA_gr, dD_gr, dstate_bgrpn


def _parts(length: int, q: int) -> list[tuple[slice, int]]:
    """The sequence as whole chunks and what remains, a chunk of its own size."""
    whole = length // q * q
    parts = [(slice(0, whole), q), (slice(whole, length), length - whole)]
    return [part for part in parts if part[0].stop > part[0].start]


class _Small:
    """What does not have the channels of x, for all chunks at once."""

    def __init__(
        self, dt_blgr: torch.Tensor, A_gr: torch.Tensor, B_blgn: torch.Tensor, C_blgn: torch.Tensor, q: int
    ) -> None:
        self.q, self.A_gr = q, A_gr
        self.dt_bcqgr = dt_blgr.unflatten(1, (-1, q))
        self.dt_bcgrq = self.dt_bcqgr.permute(0, 1, 3, 4, 2).contiguous()
        #: log of the decay from the chunk's start to just after each position: falls along q
        self.decay_bcgrq = (self.dt_bcgrq * A_gr[..., None]).cumsum(-1)
        end = self.decay_bcgrq[..., -1:]
        self.keep_bcgr11 = end.exp()[..., None]
        self.grow_bcgrq = self.decay_bcgrq.exp()
        self.rest_bcgrq = (end - self.decay_bcgrq).exp_()
        self.B_bcgqn, self.C_bcgqn = (t.unflatten(1, (-1, q)).transpose(2, 3).contiguous() for t in (B_blgn, C_blgn))
        scores = torch.bmm(self.C_bcgqn.flatten(0, 2), self.B_bcgqn.flatten(0, 2).transpose(1, 2)).tril_()
        self.scores_bcgqq = scores.view(*self.B_bcgqn.shape[:4], q)

    def tiles(self, x_bcqgrp: torch.Tensor) -> list[tuple[slice, slice]]:
        b, c, q, g, r, p = x_bcqgrp.shape
        return tiles((b, c, g * r * q * max(p, q)), x_bcqgrp.device, LEAST_CHUNKS)


class _Tile:
    """What both passes compute of some chunks."""

    def __init__(self, room: Scratch, small: _Small, at: tuple[slice, slice], x_bcqgrp: torch.Tensor) -> None:
        self.x = x = x_bcqgrp[at]
        m, k, q, g, r, p = x.shape
        n = small.B_bcgqn.shape[-1]
        self.mkg, self.rp, self.n = m * k * g, r * p, n
        self.head_major, self.group_major, self.state = (m, k, g, r, q, p), (m, k, g, q, r, p), (m, k, g, r, p, n)
        self.B, self.C = small.B_bcgqn[at].flatten(0, 2), small.C_bcgqn[at].flatten(0, 2)
        self.keep, self.grow, self.rest = small.keep_bcgr11[at], small.grow_bcgrq[at], small.rest_bcgrq[at]
        dt, decay = small.dt_bcgrq[at], small.decay_bcgrq[at]
        # Above the diagonal decay_i - decay_j is positive and may be large: there it is 0, and the scores are.
        self.fade = torch.sub(decay[..., :, None], decay[..., None, :], out=room("fade", m, k, g, r, q, q))
        self.fade.clamp_max_(0).exp_()
        self.mix = torch.mul(self.fade, small.scores_bcgqq[at].unsqueeze(3), out=room("mix", m, k, g, r, q, q))
        # The heads of a group share B and C, and with them the products of states; each head mixes on its own.
        self.put = torch.mul(x.permute(0, 1, 3, 4, 2, 5), dt[..., None], out=room("put", *self.head_major))
        left = (dt * self.rest).transpose(3, 4)[..., None]
        self.left = torch.mul(x.transpose(2, 3), left, out=room("left", *self.group_major))
        self.mix, self.put = self.mix.flatten(0, 3), self.put.flatten(0, 3)
        self.left = self.left.view(self.mkg, q, self.rp)

    def states(self, room: Scratch, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States before and after every chunk. A loop of products: a running sum over all chunks would cancel."""
        before, after = room("before", *self.state), room("after", *self.state)
        torch.bmm(self.left.transpose(1, 2), self.B, out=after.view(self.mkg, self.rp, self.n))
        before[:, 0] = start
        for i in range(self.state[1]):
            after[:, i].addcmul_(before[:, i], self.keep[:, i])
            if i + 1 < self.state[1]:
                before[:, i + 1] = after[:, i]
        return before, after

    def states_backward(self, room: Scratch, grown: torch.Tensor, dstate: torch.Tensor) -> torch.Tensor:
        """Gradients of the states after every chunk; moves `dstate` from after the last one to before the first."""
        dbefore, dafter = room("dbefore", *self.state), room("dafter", *self.state)
        torch.bmm(grown.transpose(1, 2), self.C, out=dbefore.view(self.mkg, self.rp, self.n))
        dafter[:, -1] = dstate
        for i in reversed(range(self.state[1])):
            to = dafter[:, i - 1] if i else dstate
            torch.addcmul(dbefore[:, i], dafter[:, i], self.keep[:, i], out=to)
        return dafter


def _natural(t: torch.Tensor) -> torch.Tensor:
    """[m, k, g, r, q, ...] as a view [m, k, q, g, r, ...]."""
    return t.permute(0, 1, 4, 2, 3, *range(5, t.dim()))


def _part_forward(
    x_bcqgrp: torch.Tensor,
    small: _Small,
    D_gr: torch.Tensor | None,
    state_bgrpn: torch.Tensor,
    y_bcqgrp: torch.Tensor,
    starts: list[torch.Tensor],
) -> torch.Tensor:
    room, last = Scratch(x_bcqgrp), torch.empty_like(state_bgrpn)
    for at in small.tiles(x_bcqgrp):
        start = state_bgrpn[at[0]] if at[1].start == 0 else last[at[0]].clone()
        starts.append(start)
        tile = _Tile(room, small, at, x_bcqgrp)
        before, after = tile.states(room, start)
        last[at[0]] = after[:, -1]
        mixed = torch.bmm(tile.mix, tile.put, out=room("mixed", *tile.put.shape)).view(tile.head_major)
        before = before.view(tile.mkg, tile.rp, tile.n).transpose(1, 2)
        carried = torch.bmm(tile.C, before, out=room("carried", *tile.left.shape)).view(tile.group_major)
        y = y_bcqgrp[at]
        torch.addcmul(_natural(mixed), carried.transpose(2, 3), _natural(tile.grow)[..., None], out=y)
        if D_gr is not None:
            y.addcmul_(tile.x, D_gr[..., None])
    return last


def _part_backward(
    dy_bcqgrp: torch.Tensor,
    dstate_bgrpn: torch.Tensor,
    x_bcqgrp: torch.Tensor,
    small: _Small,
    D_gr: torch.Tensor | None,
    starts: list[torch.Tensor],
    y_bcqgrp: torch.Tensor,
    into: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    dA_gr: torch.Tensor,
    dD_gr: torch.Tensor | None,
) -> None:
    """Moves `dstate_bgrpn` from after the part to before it, takes its tiles' states off `starts`, adds to dA, dD."""
    dx_bcqgrp, ddt_bcqgr, dB_bcqgn, dC_bcqgn = into
    room, dt_bcqgr = Scratch(x_bcqgrp), small.dt_bcqgr
    dB_bcgqn, dC_bcgqn = torch.empty_like(small.B_bcgqn), torch.empty_like(small.C_bcgqn)
    dscores_bcgqq = torch.empty_like(small.scores_bcgqq)
    b, c, q, g, r, _ = x_bcqgrp.shape
    # sums over p: x . u, dy . y, dy . x; and the states' share in the decay at the end of each chunk
    xu_bcqgr, dyy_bcqgr, dyx_bcqgr = (x_bcqgrp.new_empty(b, c, q, g, r) for _ in range(3))
    dend_bcgr = x_bcqgrp.new_empty(b, c, g, r)
    for at in reversed(small.tiles(x_bcqgrp)):
        tile = _Tile(room, small, at, x_bcqgrp)
        before, after = tile.states(room, starts.pop())
        x, dy, dx = tile.x, dy_bcqgrp[at], dx_bcqgrp[at]
        dy_heads = room("dy", *tile.head_major).copy_(dy.permute(0, 1, 3, 4, 2, 5)).flatten(0, 3)
        grow = tile.grow.transpose(3, 4)[..., None]
        grown = torch.mul(dy.transpose(2, 3), grow, out=room("grown", *tile.group_major)).view(tile.left.shape)
        dafter = tile.states_backward(room, grown, dstate_bgrpn[at[0]])
        torch.sum(after.mul_(dafter).flatten(4), -1, out=dend_bcgr[at])

        before, dafter = (t.view(tile.mkg, tile.rp, tile.n) for t in (before, dafter))
        torch.bmm(grown, before, out=dC_bcgqn[at].flatten(0, 2))
        torch.bmm(tile.left, dafter, out=dB_bcgqn[at].flatten(0, 2))
        du_left = torch.bmm(tile.B, dafter.transpose(1, 2), out=grown).view(tile.group_major)
        dmix = torch.bmm(dy_heads, tile.put.transpose(1, 2), out=room("dmix", *tile.mix.shape)).view(tile.fade.shape)
        torch.sum(dmix.mul_(tile.fade), 3, out=dscores_bcgqq[at])
        du_mixed = torch.bmm(tile.mix.transpose(1, 2), dy_heads, out=tile.put).view(tile.head_major)
        u = torch.addcmul(_natural(du_mixed), du_left.transpose(2, 3), _natural(tile.rest)[..., None], out=dx)

        product = dy_heads.view(u.shape)  # the gradient by heads is used up
        torch.sum(torch.mul(x, u, out=product), -1, out=xu_bcqgr[at])
        torch.sum(torch.mul(dy, y_bcqgrp[at], out=product), -1, out=dyy_bcqgr[at])
        dx.mul_(dt_bcqgr[at][..., None])
        if D_gr is not None:
            torch.sum(torch.mul(dy, x, out=product), -1, out=dyx_bcqgr[at])
            dx.addcmul_(dy, D_gr[..., None])

    _scores_backward(dscores_bcgqq, small, dB_bcgqn, dC_bcgqn)
    dB_bcqgn.copy_(dB_bcgqn.transpose(2, 3))
    dC_bcqgn.copy_(dC_bcgqn.transpose(2, 3))
    if D_gr is not None and dD_gr is not None:
        dD_gr += dyx_bcqgr.sum((0, 1, 2))
        dyy_bcqgr.addcmul_(dyx_bcqgr, D_gr, value=-1)
    ddecay_bcqgr = dyy_bcqgr.addcmul_(xu_bcqgr, dt_bcqgr, value=-1)
    ddecay_bcqgr[:, :, -1] += dend_bcgr
    drate_bcqgr = ddecay_bcqgr.flip(2).cumsum(2).flip(2)  # gradient of dt A: every later position's decay has it
    dA_gr += (drate_bcqgr * dt_bcqgr).sum((0, 1, 2))
    torch.addcmul(xu_bcqgr, drate_bcqgr, small.A_gr, out=ddt_bcqgr)


def _scores_backward(
    dscores_bcgqq: torch.Tensor, small: _Small, dB_bcgqn: torch.Tensor, dC_bcgqn: torch.Tensor
) -> None:
    """Adds what the scores C . B send back."""
    dscores_bcgqq.tril_()
    dscores, B, C = dscores_bcgqq.flatten(0, 2), small.B_bcgqn.flatten(0, 2), small.C_bcgqn.flatten(0, 2)
    dB_bcgqn.flatten(0, 2).baddbmm_(dscores.transpose(1, 2), C)
    dC_bcgqn.flatten(0, 2).baddbmm_(dscores, B)
