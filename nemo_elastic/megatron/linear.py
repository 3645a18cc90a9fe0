# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The sliced linear: ONE autograd Function with Megatron's collectives, and the two parallel linears built on it.

megatron-core's own linears refuse sliced weights, so the slice, the tensor- and sequence-parallel collectives and the
gradient accumulation live here. The weight's gradient goes straight into the window of `param.main_grad` that the
slice covers where DistributedDataParallel provides one: no zero-padded full-size gradient per micro-batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear

from nemo_elastic.nn.norm import rms_norm
from nemo_elastic.prefix import Selection

from .run import WHOLE, Run


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
) -> Any:
    """Hand over the gradient of a slice of `param`; returns what the autograd Function must return for it.

    With `main_grad` (DistributedDataParallel) the piece is added to the window of the slice, the flag that
    megatron-core's hook looks at is set, and an uninitialised dummy is returned: the hook drops it unread. Without,
    the gradient is scattered into zeros of the full shape.

    Args:
        param: the whole parameter.
        piece: gradient of its slice; with `at`, one row per entry of `at`.
        rows, cols: the slice; None for all.
        at: row indices, with repetitions, to which the rows of `piece` are added (embedding).
    """
    if getattr(param, "main_grad", None) is not None:
        _scatter_add(param.main_grad, piece.to(param.main_grad.dtype), rows, cols, at)
        if not hasattr(param, "grad_added_to_main_grad"):
            return None
        param.grad_added_to_main_grad = True  # pyright: ignore[reportAttributeAccessIssue]
        return torch.empty_like(param)
    if at is None and piece.shape == param.shape:
        return piece
    full = torch.zeros_like(param)
    _scatter_add(full, piece, rows, cols, at)
    return full


def _scatter_add(
    full: torch.Tensor,
    piece: torch.Tensor,
    rows: Selection | None,
    cols: Selection | None,
    at: torch.Tensor | None,
) -> None:
    """full[rows, cols] += piece; one of the two dimensions is the hidden one, so at most one is no plain prefix."""
    for dim, kept in ((0, rows), (1, cols)):
        if kept is not None and kept.is_prefix:
            full = full.narrow(dim, 0, kept.kept_size)
    if at is not None:
        full.index_add_(0, at, piece)
        return
    for dim, kept in ((0, rows), (1, cols)):
        if kept is not None and not kept.is_prefix:
            kept.add_(full, piece, dim)
            return
    full += piece


class SlicedLinear(torch.autograd.Function):
    """y = x W[rows, cols]^T with the collectives of a column- or row-parallel linear."""

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
    ) -> torch.Tensor:
        ctx.save_for_backward(x_sbi, weight)
        ctx.args = (rows, cols, column, sequence_parallel, group)
        if column and sequence_parallel and group is not None:
            x_sbi = gather(x_sbi, group)
        y_sbo = torch.matmul(x_sbi, _cut(weight, rows, cols).t())
        if not column and group is not None:
            y_sbo = reduce_scatter(y_sbo, group) if sequence_parallel else all_reduce(y_sbo, group)
        return y_sbo

    @staticmethod
    def backward(ctx: Any, dy_sbo: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_sbi, weight = ctx.saved_tensors
        rows, cols, column, sequence_parallel, group = ctx.args
        sequence_parallel = sequence_parallel and group is not None
        if not column and sequence_parallel:
            dy_sbo = gather(dy_sbo, group)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = torch.matmul(dy_sbo, _cut(weight, rows, cols))
            if column and group is not None:
                dx = reduce_scatter(dx, group) if sequence_parallel else all_reduce(dx, group)
        if ctx.needs_input_grad[1]:
            if column and sequence_parallel:
                x_sbi = gather(x_sbi, group)
            piece = torch.matmul(dy_sbo.reshape(-1, dy_sbo.shape[-1]).t(), x_sbi.reshape(-1, x_sbi.shape[-1]))
            dw = accumulate(weight, piece, rows, cols)
        return dx, dw, None, None, None, None, None


def _cut(weight: torch.Tensor, rows: Selection | None, cols: Selection | None) -> torch.Tensor:
    if rows is not None:
        weight = rows.take(weight, 0)
    return weight if cols is None else cols.take(weight, 1)


def tensor_group(module: Any) -> dist.ProcessGroup | None:
    """The tensor-parallel group, None where it has one rank (or does not exist: no distributed run)."""
    group = module.tp_group
    return group if group is not None and group.size() > 1 else None


class ElasticColumnLinear(ColumnParallelLinear):
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
        run: Run = WHOLE,
        index: int = -1,
        rows: Selection | None = None,
    ) -> torch.Tensor:
        """Normalise [s, b, d] and project it to [s, b, rows kept on this rank].

        Args:
            input_: residual stream at the width of the run, a sequence shard under sequence parallelism.
            run: the micro-batch's choice.
            index: layer index in the parent, for the probe.
            rows: kept rows on this rank.
        """
        weight, cols = run.norm_weight(self.layer_norm_weight), run.hidden_selection()
        x_sbd = rms_norm(input_, weight, self.eps, run.hidden_count)
        run.watch("hidden", index, x_sbd)
        return SlicedLinear.apply(x_sbd, self.weight, rows, cols, True, self.sequence_parallel, tensor_group(self))


class ElasticRowLinear(RowParallelLinear):
    """Row-parallel linear back to the residual stream."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_: torch.Tensor, run: Run = WHOLE, cols: Selection | None = None
    ) -> torch.Tensor:
        """Project [s, b, columns kept on this rank] to [s, b, d], summed over ranks, gated by the hidden gate."""
        y_sbd = SlicedLinear.apply(
            input_, self.weight, run.hidden_selection(), cols, False, self.sequence_parallel, tensor_group(self)
        )
        return y_sbd if run.hidden_gate is None else y_sbd * run.hidden_gate.to(y_sbd.dtype)
