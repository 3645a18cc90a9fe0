# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Sliced products of a rank's experts: one call for all of them where torch has it, else one expert after the other.

`torch.nn.functional.grouped_mm` takes the tokens of all experts and their weights as one strided tensor [E, o, i], so
a member's slice of evenly spaced weights goes in without a copy. Weights are evenly spaced where `pack` has put them,
and where megatron-core's DistributedDataParallel has moved them, and their `main_grad`, into its buffers: found out by
their addresses each time (`stacked`). It wants float32 or half precision, and rows that start at multiples of 16
bytes: where a width, a dtype or an address does not fit, or torch lacks it, the loop does the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from nemo_elastic.core.prefix import Selection

from .linear import accumulate, accumulate_product, cut, placeholder_gradient, scatter_add

#: torch's product of groups of rows, each with a matrix of its own; None where torch lacks it
GROUPED = getattr(torch.nn.functional, "grouped_mm", None)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: bytes at whose multiples rows must start
_ALIGNED = 16


def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """One view [E, ...] of E tensors that lie in one storage, in their order and evenly spaced; None of others."""
    first, size = tensors[0].detach(), tensors[0].element_size()
    at, storage = first.data_ptr(), first.untyped_storage().data_ptr()
    step = tensors[1].data_ptr() - at if len(tensors) > 1 else first.numel() * size
    if not first.is_contiguous() or step < first.numel() * size or step % size:
        return None
    for n, each in enumerate(tensors):
        alike = each.dtype == first.dtype and each.shape == first.shape and each.is_contiguous()
        if not alike or each.data_ptr() != at + n * step or each.untyped_storage().data_ptr() != storage:
            return None
    return first.as_strided((len(tensors), *first.shape), (step // size, *first.stride()))


@torch.no_grad()
def pack(params: Sequence[torch.Tensor]) -> None:
    """Move the values of parameters of one shape into one buffer, in their order."""
    for param, packed in zip(params, torch.stack([p.detach() for p in params]).unbind(0), strict=True):
        param.data = packed


class SlicedExperts(torch.autograd.Function):
    """y = (relu(x U^T)^2 * gate * weight) D^T of each expert's tokens; U = up[neurons, width], D as well.

    Arguments and result: see `experts`.
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
        rounded: Sequence[torch.Tensor] | None,
        *matrices: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        products = _Products(x_ni, counts, neurons, width, matrices if rounded is None else rounded)
        relu_nf = products.up(x_ni).relu_()
        h_nf = relu_nf.square()
        if gate_f is not None:
            h_nf.mul_(gate_f)
        y_ni = products.down(h_nf.mul_(weight_n[:, None]))
        ctx.save_for_backward(x_ni, weight_n, gate_f, relu_nf, *matrices)
        ctx.args = counts, neurons, width, rounded
        ctx.mark_non_differentiable(relu_nf)
        ctx.set_materialize_grads(False)  # else zeros as large as relu_nf come with every backward
        return y_ni, relu_nf

    @staticmethod
    def backward(ctx: Any, dy_ni: torch.Tensor, _: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_ni, weight_n, gate_f, relu_nf, *matrices = ctx.saved_tensors
        counts, neurons, width, rounded = ctx.args
        needs_x, needs_weight, needs_gate, *_ = ctx.needs_input_grad
        needs, count = ctx.needs_input_grad[-len(matrices) :], len(counts)
        products = _Products(x_ni, counts, neurons, width, matrices if rounded is None else rounded)
        dy_ni = products.fitting(dy_ni)
        dx_ni = dweight_n = dgate_f = None
        grads: list[Any] = [None] * len(matrices)
        # in place where nothing needs what was there: these are as large as what is kept, of all experts' tokens
        square_nf = relu_nf.square()
        gated_nf = square_nf if gate_f is None else square_nf * gate_f
        if any(needs[count:]):
            h_nf = gated_nf.clone().mul_(weight_n[:, None])
            grads[count:] = products.gradients(matrices[count:], dy_ni, h_nf, width, neurons)
            del h_nf
        d_nf = products.down_back(dy_ni)
        if needs_weight:
            dweight_n = gated_nf.mul_(d_nf).sum(1, dtype=weight_n.dtype)
        d_nf.mul_(weight_n[:, None])
        if needs_gate:
            assert gate_f is not None
            dgate_f = square_nf.mul_(d_nf).sum(0, dtype=torch.float32).to(gate_f.dtype)
        if gate_f is not None:
            d_nf.mul_(gate_f)
        d_nf.mul_(relu_nf).mul_(2)
        if any(needs[:count]):
            grads[:count] = products.gradients(matrices[:count], d_nf, x_ni, neurons, width)
        if needs_x:
            dx_ni = products.up_back(d_nf)
        grads = [grad if need else None for grad, need in zip(grads, needs, strict=True)]
        return dx_ni, dweight_n, dgate_f, None, None, None, None, *grads


class _Products:
    """Products of experts' tokens with their slices of weights, and those weights' gradients.

    Args:
        x_ni: tokens, those of the first expert first.
        neurons, width: what is kept of both weights.
        values: `up` and then `down` of each.
    """

    def __init__(
        self,
        x_ni: torch.Tensor,
        counts: Sequence[int],
        neurons: Selection | None,
        width: Selection | None,
        values: Sequence[torch.Tensor],
    ) -> None:
        self.counts, self._cut = counts, (neurons, width)
        self._up, self._down = values[: len(counts)], values[len(counts) :]
        self._stacks, self._ends = None, None
        busy = [e for e, count in enumerate(counts) if count]
        if GROUPED is None or not busy or x_ni.dtype not in _DTYPES or x_ni.dtype != values[0].dtype:
            return
        self._busy = slice(busy[0], busy[-1] + 1)  # experts that a member lacks lie outside
        both = [stacked(weights[self._busy]) for weights in (self._up, self._down)]
        if any(each is None for each in both):
            return
        up_efi, down_eif = cut(both[0], neurons, width), cut(both[1], width, neurons)
        narrow = [width * x_ni.element_size() % _ALIGNED for width in up_efi.shape[1:]]
        if not any(narrow) and all(_fits(t) for t in (x_ni, up_efi, down_eif)):
            self._stacks = up_efi, down_eif
            ends = torch.tensor(counts[self._busy], dtype=torch.int32).cumsum(0, dtype=torch.int32)
            self._ends = ends.to(x_ni.device, non_blocking=True)

    def fitting(self, x_n: torch.Tensor) -> torch.Tensor:
        """The same tokens where `grouped_mm` takes them."""
        return x_n if self._stacks is None or _fits(x_n) else x_n.clone(memory_format=torch.contiguous_format)

    def up(self, x_ni: torch.Tensor) -> torch.Tensor:
        """X U^T of each expert [n, f]."""
        return self._product(x_ni, 0, transposed=True)

    def down(self, h_nf: torch.Tensor) -> torch.Tensor:
        """H D^T of each expert [n, i]."""
        return self._product(h_nf, 1, transposed=True)

    def up_back(self, d_nf: torch.Tensor) -> torch.Tensor:
        """D U of each expert [n, i]."""
        return self._product(d_nf, 0, transposed=False)

    def down_back(self, dy_ni: torch.Tensor) -> torch.Tensor:
        """Dy D of each expert [n, f]."""
        return self._product(dy_ni, 1, transposed=False)

    def _product(self, x_n: torch.Tensor, which: int, transposed: bool) -> torch.Tensor:
        if self._stacks is not None and GROUPED is not None:
            w_eoi = self._stacks[which]
            return GROUPED(x_n, w_eoi.transpose(1, 2) if transposed else w_eoi, offs=self._ends)
        neurons, width = self._cut
        values, rows, cols = (self._down, width, neurons) if which else (self._up, neurons, width)
        kept = (rows, values[0].shape[0]) if transposed else (cols, values[0].shape[1])
        y_n = x_n.new_empty(len(x_n), kept[1] if kept[0] is None else kept[0].kept_size)
        for e, tokens in _ranges(self.counts):
            w_oi = cut(values[e], rows, cols)
            torch.mm(x_n[tokens], w_oi.t() if transposed else w_oi, out=y_n[tokens])
        return y_n

    def gradients(
        self,
        params: Sequence[torch.Tensor],
        dy_no: torch.Tensor,
        x_ni: torch.Tensor,
        rows: Selection | None,
        cols: Selection | None,
    ) -> list[Any]:
        """dy^T x of each expert, handed over as `linear.accumulate` does; what autograd is given for each parameter.

        Where data parallelism keeps gradients, all parameters report, those without tokens as well: whoever waits for
        all of them need not know how many tokens each has.
        """
        kept = getattr(params[0], "main_grad", None) is not None
        if self._stacks is None:
            ranges = _ranges(self.counts)
            grads = {e: accumulate_product(params[e], dy_no[at], x_ni[at], rows, cols) for e, at in ranges}
        else:
            grads = self._together(params, dy_no, x_ni, rows, cols, kept)
        room = torch.empty_like(params[0]) if kept else None
        return [grads.get(e, placeholder_gradient(param, room) if kept else None) for e, param in enumerate(params)]

    def _together(
        self,
        params: Sequence[torch.Tensor],
        dy_no: torch.Tensor,
        x_ni: torch.Tensor,
        rows: Selection | None,
        cols: Selection | None,
        kept: bool,
    ) -> dict[int, Any]:
        assert GROUPED is not None
        dw_eoi, busy = GROUPED(dy_no.t(), x_ni, offs=self._ends), params[self._busy]
        if kept:
            buffer = stacked([p.main_grad for p in busy])  # pyright: ignore[reportAttributeAccessIssue]
            if buffer is None:
                pairs = enumerate(zip(busy, dw_eoi, strict=True), self._busy.start)
                return {e: accumulate(param, dw_oi, rows, cols) for e, (param, dw_oi) in pairs}
            scatter_add(buffer, dw_eoi, rows, cols)
            return {}
        if dw_eoi.shape[1:] != params[0].shape:
            full = dw_eoi.new_zeros(len(busy), *params[0].shape)
            scatter_add(full, dw_eoi, rows, cols)
            dw_eoi = full
        return {e: dw_oi for e, dw_oi in enumerate(dw_eoi, self._busy.start) if self.counts[e]}


def experts(
    x_ni: torch.Tensor,
    weight_n: torch.Tensor,
    counts: Sequence[int],
    up: Sequence[torch.Tensor],
    down: Sequence[torch.Tensor],
    gate_f: torch.Tensor | None = None,
    neurons: Selection | None = None,
    width: Selection | None = None,
    rounded: Sequence[torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What experts make of tokens that are on their rank already; no collective.

    Args:
        x_ni: tokens, those of the first expert first.
        weight_n: of each token; its dtype may have more digits.
        counts: tokens of each expert; the weights of one that has none get no gradient.
        neurons, width: what is kept of both weights.
        rounded: what stands for `up` and then for `down` in the products, where low precision rounds them; gradients
            are those of the weights.

    Returns:
        What they put out [n, i], and relu(x U^T) [n, f], which is for looking at: no gradient passes there.
    """
    return SlicedExperts.apply(x_ni, weight_n, gate_f, tuple(counts), neurons, width, rounded, *up, *down)


def _ranges(counts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Each expert that has tokens, and where they are."""
    at = 0
    for e, count in enumerate(counts):
        if count:
            yield e, slice(at, at + count)
        at += count


def _fits(x: torch.Tensor) -> bool:
    """Whether rows are in order, and start where `grouped_mm` wants them."""
    *steps, last = x.stride()
    return last == 1 and not any(at % _ALIGNED for at in (x.data_ptr(), *(x.element_size() * n for n in steps)))
