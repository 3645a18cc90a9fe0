# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Stands for causal_conv1d's CUDA extension: its arithmetic in torch, and what it asks of strides and addresses.

The conditions are those of csrc/causal_conv1d.cpp, the same in 1.5.2 and 1.6.2, and one that nothing there checks:
rows of channels are read and written 16 bytes at a time, so an address that 16 does not divide stops a GPU. Until
1.5.0 the extension allocated what it returned; since 1.5.1 it writes into what it is given. Both are here, by their
numbers of arguments.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


class Misaligned(RuntimeError):
    """What on a GPU would be "CUDA error: misaligned address"."""

    def __init__(self, tensor: str, rows: int) -> None:
        super().__init__(f"{tensor}: rows {rows} apart begin off a multiple of 16 bytes")
        self.tensor = tensor


def _check(condition: bool, message: str) -> None:
    """TORCH_CHECK."""
    if not condition:
        raise RuntimeError(message)


def _vectors(name: str, t: torch.Tensor) -> None:
    """Every row of channels must begin where 16 bytes can be moved at once."""
    steps = [t.stride(i) * t.element_size() for i in (0, 2) if t.shape[i] > 1]
    if t.data_ptr() % 16 or any(step % 16 for step in steps):
        raise Misaligned(name, t.stride(2))


def _channels_last(x: torch.Tensor) -> bool:
    return x.stride(1) == 1 and x.stride(2) > 1


def _rows(name: str, t: torch.Tensor) -> None:
    message = (
        "causal_conv1d with channel last layout requires strides (x.stride(0) and x.stride(2)) to be multiples of 8"
    )
    _check(t.stride(2) % 8 == 0 and t.stride(0) % 8 == 0, message)
    _vectors(name, t)


def _input(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
    _check(x.stride(2) == 1 or x.stride(1) == 1, "x.stride(2) == 1 || x.stride(1) == 1")
    _check(2 <= weight.shape[-1] <= 4, "causal_conv1d only supports width between 2 and 4")
    _check(bias.dtype == weight.dtype and bias.stride(-1) == 1, "bias")
    if _channels_last(x):
        _check(x.shape[1] % 8 == 0, "causal_conv1d only supports channel dimension divisible by 8 for now")
        _rows("x", x)


def _taps(x_bcl: torch.Tensor, taps: int, seq_idx: torch.Tensor | None) -> list[torch.Tensor]:
    """What each tap of a causal convolution sees: of its own document, where there are several."""
    padded, length = F.pad(x_bcl.float(), (taps - 1, 0)), x_bcl.shape[2]
    seen = [padded[..., i : i + length] for i in range(taps)]
    if seq_idx is None:
        return seen
    own = F.pad(seq_idx, (taps - 1, 0), value=-1)
    return [t * (own[:, i : i + length] == seq_idx)[:, None] for i, t in enumerate(seen)]


def _before_silu(
    x_bcl: torch.Tensor, weight_ck: torch.Tensor, bias_c: torch.Tensor, seq_idx: torch.Tensor | None
) -> torch.Tensor:
    seen = _taps(x_bcl, weight_ck.shape[1], seq_idx)
    return sum((t * w[:, None] for t, w in zip(seen, weight_ck.float().t())), bias_c.float()[:, None])


def _documents(x: torch.Tensor, seq_idx: torch.Tensor | None) -> None:
    if seq_idx is not None:
        _check(_channels_last(x), "seq_idx is only supported for channel last layout")
        _check(seq_idx.dtype == torch.int32 and seq_idx.is_contiguous(), "seq_idx")
        _check(tuple(seq_idx.shape) == (x.shape[0], x.shape[2]), "seq_idx must have shape (batch_size, seqlen)")


def causal_conv1d_fwd(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, seq_idx: Any, init: None,
                      *rest: Any) -> torch.Tensor | None:  # fmt: skip
    """(…, out, final_states, silu), or before 1.5.1 (…, final_states, silu)."""
    assert init is None and rest[-1] is True
    _input(x, weight, bias)
    _documents(x, seq_idx)
    given = len(rest) == 3
    out = rest[0] if given else torch.empty_like(x)
    if _channels_last(x):
        _vectors("out", out)
    out.copy_(F.silu(_before_silu(x, weight, bias, seq_idx)))
    return None if given else out


def causal_conv1d_bwd(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dout: torch.Tensor, seq_idx: Any,
                      init: None, dfinal: None, dx: torch.Tensor | None, *rest: Any) -> Any:  # fmt: skip
    """(…, dx, dweight, dbias, dinit, silu), or before 1.5.1 (…, dx, whether dinit is wanted, silu)."""
    assert init is None and dfinal is None and rest[-1] is True
    _input(x, weight, bias)
    _documents(x, seq_idx)
    dx = torch.empty_like(x) if dx is None else dx
    if _channels_last(x):
        dout = dout if dout.stride(1) == 1 else dout.transpose(1, 2).contiguous().transpose(1, 2)
        _rows("dout", dout)
        _check(dx.stride(1) == 1, "dx.stride(1) == 1")
        _vectors("dx", dx)
    before = _before_silu(x, weight, bias, seq_idx)
    gate = before.sigmoid()
    g = dout.float() * gate * (1 + before * (1 - gate))
    # tap i of x[t] is that of g[t + taps - 1 - i]
    backward = None if seq_idx is None else seq_idx.flip(1)
    later = [t.flip(2) for t in _taps(g.flip(2), weight.shape[1], backward)]
    dx.copy_(sum(t * w[:, None] for t, w in zip(later, weight.float().t())))
    gweight = torch.stack([(g * t).sum((0, 2)) for t in _taps(x, weight.shape[1], seq_idx)], 1)
    gbias = g.sum((0, 2))
    if len(rest) == 2:
        return dx, gweight.to(weight.dtype), gbias.to(bias.dtype), None
    dweight, dbias, _, _ = rest
    dweight.add_(gweight)
    dbias.add_(gbias)
    return None
