# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""``x @ W.T`` where W is a view of a family's storage.

vLLM repacks its own matrices for a CPU's products in bfloat16; views cannot be. But of the two ways in which such a
product can be asked for, a CPU is faster with the transposed one where few rows go in, as in every step that decodes:
about as fast as with a repacked matrix. `make bench-serve` measures it. Everywhere else products are torch's own, and
in float32 they are those of the runtime.

m: rows of activations, c: channels that go in, r: rows of the matrix.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nemo_elastic.nn.weights import Places

#: rows up to which the transposed product is the faster one, and those where its channels have to be moved as well
FEW, FEW_MOVED = 64, 128
#: rows up to which it is faster to turn the transposed product's result back row by row
FEW_TURNED = 32


def product(x: torch.Tensor, weight_rc: torch.Tensor, at: Places | None, turned: bool = True) -> torch.Tensor:
    """``x @ W.T``; activations are moved to where the matrix has their channels, and back.

    Args:
        x: activations [..., c].
        weight_rc: the matrix, a view.
        at: where the matrix has the channels; None where they are in order.
        turned: let the result lie in memory row by row. What goes on number by number does not need it.
    """
    rows, columns = (None, None) if at is None else (at.rows, at.columns)
    if columns is not None:
        x = x.new_zeros(*x.shape[:-1], weight_rc.shape[1]).scatter_(-1, columns.expand_as(x), x)
    if weight_rc.is_cpu and weight_rc.dtype == torch.bfloat16:
        x_mc = x.reshape(-1, x.shape[-1])
        if torch.compiler.is_compiling():
            y_mr = _compiled(x_mc, weight_rc, rows)
        else:
            y_mr = _on_cpu(x_mc, weight_rc, rows)
            y_mr = _turned(y_mr) if turned else y_mr
        return y_mr.unflatten(0, x.shape[:-1]) if x.dim() > 2 else y_mr
    y = F.linear(x, weight_rc)
    return y if rows is None else y.index_select(-1, rows)


def _on_cpu(x_mc: torch.Tensor, weight_rc: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    number = len(x_mc)
    if number > (FEW if rows is None else FEW_MOVED):  # to move the matrix's rows is less than to move the result's
        return F.linear(x_mc, weight_rc if rows is None else weight_rc.index_select(0, rows))
    if number == 1:  # a product with a vector is slower than one with two
        x_mc = x_mc.expand(2, -1).contiguous()
    y_rm = weight_rc @ x_mc.T
    if rows is not None:  # whole rows are moved here, single numbers on the other side
        y_rm = y_rm.index_select(0, rows)
    return y_rm[:, :number].T


def _turned(y_mr: torch.Tensor) -> torch.Tensor:
    """Rows lie in memory one behind the other."""
    few = 0 < len(y_mr) <= FEW_TURNED and not y_mr.is_contiguous()
    return torch.stack(y_mr.unbind(0)) if few else y_mr.contiguous()


@torch.library.custom_op("nemo_elastic::product_on_cpu", mutates_args=())
def _compiled(x_mc: torch.Tensor, weight_rc: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """As one piece to a compiler, which would decide on one number of rows for all."""
    return _turned(_on_cpu(x_mc, weight_rc, rows))


@_compiled.register_fake
def _(x_mc: torch.Tensor, weight_rc: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    # no `len`: it would make one number of a length that is any
    return x_mc.new_empty(x_mc.shape[0], (weight_rc if rows is None else rows).shape[0])
