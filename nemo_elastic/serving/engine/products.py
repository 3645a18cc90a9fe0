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

#: rows up to which the transposed product is the faster one
FEW = 64


def product(x: torch.Tensor, weight_rc: torch.Tensor, at: Places | None) -> torch.Tensor:
    """``x @ W.T``; activations are moved to where the matrix has their channels, and back.

    Args:
        x: activations [..., c].
        weight_rc: the matrix, a view.
        at: where the matrix has the channels; None where they are in order.
    """
    rows, columns = (None, None) if at is None else (at.rows, at.columns)
    if columns is not None:
        x = x.new_zeros(*x.shape[:-1], weight_rc.shape[1]).scatter_(-1, columns.expand_as(x), x)
    if weight_rc.is_cpu and weight_rc.dtype == torch.bfloat16:
        flat_mc = x.reshape(-1, x.shape[-1])
        made = _compiled if torch.compiler.is_compiling() else _on_cpu
        y_mr = made(flat_mc, weight_rc, rows)
        return y_mr.view(*x.shape[:-1], y_mr.shape[-1])
    y = F.linear(x, weight_rc)
    return y if rows is None else y.index_select(-1, rows)


def _on_cpu(x_mc: torch.Tensor, weight_rc: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    number = len(x_mc)
    if number > FEW and rows is None:
        return F.linear(x_mc, weight_rc)
    if number == 1:  # a product with a vector is slower than one with two
        x_mc = x_mc.expand(2, -1).contiguous()
    y_rm = weight_rc @ x_mc.T
    if rows is not None:  # whole rows are moved here, single numbers on the other side
        y_rm = y_rm.index_select(0, rows)
    return y_rm[:, :number].T.contiguous()


@torch.library.custom_op("nemo_elastic::product_on_cpu", mutates_args=())
def _compiled(x_mc: torch.Tensor, weight_rc: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """As one piece to a compiler, which would decide on one number of rows for all."""
    return _on_cpu(x_mc, weight_rc, rows)


@_compiled.register_fake
def _(x_mc: torch.Tensor, weight_rc: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    # no `len`: it would make one number of a length that is any
    return x_mc.new_empty(x_mc.shape[0], (weight_rc if rows is None else rows).shape[0])
