# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Sliced products: each ONE autograd Function with Megatron's collectives, and the two parallel linears built on it.

megatron-core's own linears refuse sliced weights, so the slice, the tensor- and sequence-parallel collectives and the
gradient accumulation live here. The weight's gradient goes straight into the window of `param.main_grad` that the
slice covers where DistributedDataParallel provides one: no zero-padded full-size gradient per micro-batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear

from nemo_elastic.core.prefix import Selection

from .choice import WHOLE, ForwardChoice


def gather(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Concatenate the sequence shards of all ranks along dimension 0."""
    out = x.new_empty((x.shape[0] * group.size(), *x.shape[1:]))
    dist.all_gather_into_tensor(out, x.contiguous(), group=group)
    return out


def reduce_scatter(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Sum over ranks, each keeping its share of dimension 0."""
    out = x.new_empty((x.shape[0] // group.size(), *x.shape[1:]))
    dist.reduce_scatter_tensor(out, x.contiguous(), group=group)
    return out


def all_reduce(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    x = x.contiguous()
    dist.all_reduce(x, group=group)
    return x


def accumulate(
    param: torch.Tensor,
    piece: torch.Tensor,
    rows: Selection | None,
    cols: Selection | None,
    at: torch.Tensor | None = None,
    factor: torch.Tensor | None = None,
) -> Any:
    """Hand over the gradient of a slice of `param`; returns what the autograd Function must return for it.

    With `main_grad` (DistributedDataParallel) the piece is added to the window of the slice, the flag that
    megatron-core's hook looks at is set, and an uninitialised dummy is returned: the hook drops it unread, except of a
    weight that head and embedding share, whose dummy must be zeros. Without, the gradient is scattered into zeros of
    the full shape.

    Args:
        piece: gradient of its slice; with `at`, one row per entry of `at`.
        rows, cols: the slice; None for all.
        at: row indices, with repetitions, to which the rows of `piece` are added (embedding).
        factor: of the piece, a tensor without dimensions (head loss); for prefixes only.
    """
    if getattr(param, "main_grad", None) is not None:
        scatter_add(param.main_grad, piece, rows, cols, at, factor)
        fits = piece.shape == param.shape and piece.dtype == param.dtype
        return placeholder_gradient(param, piece if fits else None)
    if at is None and factor is None and piece.shape == param.shape:
        return piece
    full = torch.zeros_like(param)
    scatter_add(full, piece, rows, cols, at, factor)
    return full


def accumulate_product(
    param: torch.Tensor, dy_to: torch.Tensor, x_ti: torch.Tensor, rows: Selection | None, cols: Selection | None
) -> Any:
    """`accumulate` of the piece dy^T x. Where the slice is a plain window of the buffer the product is added to it."""
    buffer = getattr(param, "main_grad", None)
    if buffer is None or buffer.dtype != dy_to.dtype or not all(k is None or k.is_prefix for k in (rows, cols)):
        return accumulate(param, torch.mm(dy_to.t(), x_ti), rows, cols)
    cut(buffer, rows, cols).addmm_(dy_to.t(), x_ti)
    return placeholder_gradient(param)


def placeholder_gradient(param: torch.Tensor, room: torch.Tensor | None = None) -> Any:
    """What an autograd Function returns for a gradient that is in `main_grad` already; `room` is for one unread."""
    if not hasattr(param, "grad_added_to_main_grad"):
        return None
    param.grad_added_to_main_grad = True  # pyright: ignore[reportAttributeAccessIssue]
    if getattr(param, "zero_out_wgrad", False):
        return torch.zeros_like(param)
    return torch.empty_like(param) if room is None else room.view(param.shape)


def scatter_add(
    full: torch.Tensor,
    piece: torch.Tensor,
    rows: Selection | None,
    cols: Selection | None,
    at: torch.Tensor | None = None,
    factor: torch.Tensor | None = None,
) -> None:
    """full[..., rows, cols] += factor * piece; of the two, one is the hidden one: at most one is no prefix."""
    outer = full.dim() - 2
    for dim, kept in ((outer, rows), (outer + 1, cols)):
        if kept is not None and kept.is_prefix:
            full = full.narrow(dim, 0, kept.kept_size)
    if at is not None:
        full.index_add_(0, at, piece.to(full.dtype))  # what is added otherwise is cast on its way into the sum
        return
    for dim, kept in ((outer, rows), (outer + 1, cols)):
        if kept is not None and not kept.is_prefix:
            kept.add_(full, piece, dim)
            return
    if factor is None:
        full += piece
    else:
        full.addcmul_(piece.to(full.dtype), factor)


class SlicedLinear(torch.autograd.Function):
    """y = x W[rows, cols]^T with the collectives of a column- or row-parallel linear.

    `rounded` stands for the whole weight in the products, where low precision rounds it; its gradient is the weight's.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_sbi: torch.Tensor,
        weight: torch.Tensor,
        rows: Selection | None,
        cols: Selection | None,
        column: bool,
        sequence_parallel: bool,
        group: dist.ProcessGroup | None,
        rounded: torch.Tensor | None = None,
    ) -> torch.Tensor:
        ctx.save_for_backward(x_sbi, weight, rounded)
        ctx.args = (rows, cols, column, sequence_parallel, group)
        if column and sequence_parallel and group is not None:
            x_sbi = gather(x_sbi, group)
        y_sbo = _product(x_sbi, cut(weight if rounded is None else rounded, rows, cols).t())
        if not column and group is not None:
            y_sbo = reduce_scatter(y_sbo, group) if sequence_parallel else all_reduce(y_sbo, group)
        return y_sbo

    @staticmethod
    def backward(ctx: Any, dy_sbo: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_sbi, weight, rounded = ctx.saved_tensors
        rows, cols, column, sequence_parallel, group = ctx.args
        sequence_parallel = sequence_parallel and group is not None
        if not column and sequence_parallel:
            dy_sbo = gather(dy_sbo, group)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = _product(dy_sbo, cut(weight if rounded is None else rounded, rows, cols))
            if column and group is not None:
                dx = reduce_scatter(dx, group) if sequence_parallel else all_reduce(dx, group)
        if ctx.needs_input_grad[1]:
            if column and sequence_parallel:
                x_sbi = gather(x_sbi, group)
            by_batch = _by_batch(dy_sbo)
            dw = accumulate_product(weight, _matrix(dy_sbo, by_batch), _matrix(x_sbi, by_batch), rows, cols)
        return dx, dw, None, None, None, None, None, None


def cut(weight: torch.Tensor, rows: Selection | None, cols: Selection | None) -> torch.Tensor:
    """weight[..., rows, cols]: a view of prefixes; they come first, so that what is then gathered is narrower."""
    outer = weight.dim() - 2
    kept = [(dim, part) for dim, part in ((outer, rows), (outer + 1, cols)) if part is not None]
    for dim, part in sorted(kept, key=lambda x: not x[1].is_prefix):
        weight = part.take(weight, dim)
    return weight


def _by_batch(x_sbi: torch.Tensor) -> bool:
    """Whether [s, b, ...] lies in memory as [b, s, ...], as attention's output does."""
    return x_sbi.dim() == 3 and x_sbi.stride(0) < x_sbi.stride(1)


def _matrix(x_sbi: torch.Tensor, by_batch: bool) -> torch.Tensor:
    """[tokens, i] in the order of memory: a view, where a flattened [s, b, i] would be a copy."""
    return (x_sbi.transpose(0, 1) if by_batch else x_sbi).reshape(-1, x_sbi.shape[-1])


def _product(x_sbi: torch.Tensor, w_io: torch.Tensor) -> torch.Tensor:
    """x W as ONE matrix product: torch makes a batch of small ones of an x whose tokens are not in order."""
    by_batch = _by_batch(x_sbi)
    y_to = torch.mm(_matrix(x_sbi, by_batch), w_io)
    shape = x_sbi.shape[:-1]
    return y_to.view(shape[1], shape[0], -1).transpose(0, 1) if by_batch else y_to.view(*shape, -1)


def tensor_group(module: Any) -> dist.ProcessGroup | None:
    """The tensor-parallel group, None where it has one rank (or does not exist: no distributed run)."""
    group = module.tp_group
    return group if group is not None and group.size() > 1 else None


class ElasticLayerNormColumnParallelLinear(ColumnParallelLinear):
    """RMSNorm + column-parallel linear under the parameter names of TransformerEngine's fused module."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, **kwargs: Any) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)
        self.eps = config.layernorm_epsilon
        assert self.weight is not None
        ones = torch.ones(input_size, dtype=config.params_dtype, device=self.weight.device)
        self.layer_norm_weight = torch.nn.Parameter(ones)
        self.layer_norm_weight.sequence_parallel = config.sequence_parallel  # pyright: ignore

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_: torch.Tensor,
        run: ForwardChoice = WHOLE,
        index: int = -1,
        row: str = "",
    ) -> torch.Tensor:
        """Normalise [s, b, d] and project it to [s, b, rows kept on this rank]; `row` is the first in the weight."""
        x_sbd = run.norm(input_, self.layer_norm_weight, self.eps)
        run.watch("hidden", index, x_sbd)
        rows, cols, group = run.select(row, 0, index), run.hidden_selection(), tensor_group(self)
        rounded = run.rounded(row, index, self.weight, group)
        return SlicedLinear.apply(x_sbd, self.weight, rows, cols, True, self.sequence_parallel, group, rounded)


class ElasticRowLinear(RowParallelLinear):
    """Row-parallel linear back to the residual stream."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_: torch.Tensor, run: ForwardChoice = WHOLE, index: int = -1, row: str = ""
    ) -> torch.Tensor:
        """Project [s, b, columns kept on this rank] to [s, b, d], summed over ranks, gated by the hidden gate."""
        rows, cols, group = run.hidden_selection(), run.select(row, 1, index), tensor_group(self)
        rounded = run.rounded(row, index, self.weight, group)
        y_sbd = SlicedLinear.apply(input_, self.weight, rows, cols, False, self.sequence_parallel, group, rounded)
        return y_sbd if run.hidden_gate is None else y_sbd * run.hidden_gate.to(y_sbd.dtype)
