# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""This rank's experts at the widths of the run as ONE autograd Function, one after the other.

Of each neuron it keeps one activation for each token. Step by step autograd would keep what relu puts out, its square,
the square under the gates, and that times the weight of its token; all follow from the first, and are computed again
for gradients. What experts put out lies side by side from the start, and so do the gradients of their tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from nemo_elastic.core.prefix import Selection

from .linear import accumulate_product, cut


class SlicedExperts(torch.autograd.Function):
    """y = (relu(x U^T)^2 * gate * weight) D^T of each expert's tokens; U = up[neurons, width], D as well.

    Its arguments, and what it gives: see `experts`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ni: torch.Tensor,
        weight_n: torch.Tensor,
        gate_f: torch.Tensor | None,
        counts: Sequence[int],
        neurons: Selection | None,
        width: Selection | None,
        *matrices: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count = len(matrices) // 2
        kept = matrices[0].shape[0] if neurons is None else neurons.kept_size
        y_ni, relu_nf = torch.empty_like(x_ni), x_ni.new_empty(len(x_ni), kept)
        for e, own in _ranges(counts):
            own_nf = torch.mm(x_ni[own], cut(matrices[e], neurons, width).t(), out=relu_nf[own]).relu_()
            h_nf = _weighted(_gated(own_nf.square(), gate_f), weight_n[own])
            torch.mm(h_nf, cut(matrices[count + e], width, neurons).t(), out=y_ni[own])
        ctx.save_for_backward(x_ni, weight_n, gate_f, relu_nf, *matrices)
        ctx.told = counts, neurons, width
        ctx.mark_non_differentiable(relu_nf)
        return y_ni, relu_nf

    @staticmethod
    def backward(ctx: Any, dy_ni: torch.Tensor, _: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_ni, weight_n, gate_f, relu_nf, *matrices = ctx.saved_tensors
        counts, neurons, width = ctx.told
        needs_x, needs_weight, needs_gate, *_ = ctx.needs_input_grad
        needs, count = ctx.needs_input_grad[-len(matrices) :], len(matrices) // 2
        dx_ni = torch.empty_like(x_ni) if needs_x else None
        dweight_n = torch.empty_like(weight_n) if needs_weight else None
        dgate_f = torch.zeros_like(gate_f, dtype=torch.float32) if needs_gate else None
        grads: list[Any] = [None] * len(matrices)
        for e, own in _ranges(counts):
            up, down = matrices[e], matrices[count + e]
            square_nf = relu_nf[own].square()
            gated_nf = _gated(square_nf, gate_f)
            if needs[count + e]:
                h_nf = _weighted(gated_nf, weight_n[own])
                grads[count + e] = accumulate_product(down, dy_ni[own], h_nf, width, neurons)
            d_nf = torch.mm(dy_ni[own], cut(down, width, neurons))
            if dweight_n is not None:
                torch.sum(d_nf.to(weight_n.dtype) * gated_nf, 1, out=dweight_n[own])
            d_nf = _weighted(d_nf, weight_n[own])
            if dgate_f is not None:
                dgate_f += (d_nf * square_nf).sum(0)
            d_nf = _gated(d_nf, gate_f).mul_(relu_nf[own]).mul_(2)
            if needs[e]:
                grads[e] = accumulate_product(up, d_nf, x_ni[own], neurons, width)
            if dx_ni is not None:
                torch.mm(d_nf, cut(up, neurons, width), out=dx_ni[own])
        if dgate_f is not None:
            dgate_f = dgate_f.to(gate_f.dtype)
        return dx_ni, dweight_n, dgate_f, None, None, None, *grads


def experts(
    x_ni: torch.Tensor,
    weight_n: torch.Tensor,
    counts: Sequence[int],
    up: Sequence[torch.Tensor],
    down: Sequence[torch.Tensor],
    gate_f: torch.Tensor | None = None,
    neurons: Selection | None = None,
    width: Selection | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What experts make of tokens that are on their rank already; no collective.

    Args:
        x_ni: tokens, those of the first expert first.
        weight_n: of each token; its dtype may have more digits.
        counts: tokens of each expert; the weights of one that has none get no gradient.
        up, down: the whole weights of each.
        gate_f: of the neurons of all.
        neurons, width: what is kept of both weights.

    Returns:
        What they put out [n, i], and relu(x U^T) [n, f], which is for looking at: no gradient passes there.
    """
    return SlicedExperts.apply(x_ni, weight_n, gate_f, tuple(counts), neurons, width, *up, *down)


def _ranges(counts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Each expert that has tokens, and where they are."""
    at = 0
    for e, count in enumerate(counts):
        if count:
            yield e, slice(at, at + count)
        at += count


def _gated(x_nf: torch.Tensor, gate_f: torch.Tensor | None) -> torch.Tensor:
    return x_nf if gate_f is None else x_nf * gate_f


def _weighted(x_nf: torch.Tensor, weight_n: torch.Tensor) -> torch.Tensor:
    """Times the weight of each token, in whose dtype it is computed."""
    return (x_nf * weight_n[:, None]).to(x_nf.dtype)
