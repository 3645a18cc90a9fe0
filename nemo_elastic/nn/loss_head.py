# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Loss of a language model's head from hidden states: the weighted sum of its terms.

The logits of a model are tokens x vocabulary, in two models and in float32 the largest tensors of a training step by
far. Here no more than ``chunk_tokens`` of their rows exist at a time: head, softmax, loss and every gradient of a
chunk are computed one after the other in two reused buffers, and the gradients of hidden states and weight are summed
up in the forward pass. Where ranks share the tokens out, hidden states too are gathered for one chunk at a time. The
backward pass only scales the gradients, so the loss that is differentiable is the weighted SUM over tokens: one
number, whose upstream gradient is one number.

Shape suffixes: t token, o token of a rank's own run, c token of a chunk, v entry of this rank's part of the
vocabulary, d hidden channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from nemo_elastic.config.losses import CE, KL, TERMS, compares
from nemo_elastic.nn.functional import work_dtype
from nemo_elastic.nn.loss_terms import LogitRows


@dataclass(frozen=True)
class TokenShards:
    """How tokens are shared out; a chunk is the same few rows of every rank's run.

    Chunks are gathered one at a time, so that no rank ever holds all tokens. Without a group nothing is copied.

    Attributes:
        group: ranks that have a run of equal length each; None where every rank has all tokens.
    """

    group: dist.ProcessGroup | None = None

    @property
    def world(self) -> int:
        """Runs that make up the whole."""
        return 1 if self.group is None else self.group.size()

    def size(self, chunk_tokens: int, own: int) -> int:
        """Rows of a rank's own run in a chunk of about `chunk_tokens`."""
        return max(1, min(chunk_tokens // self.world, own))

    def chunks(self, chunk_tokens: int, own: int) -> Iterator[slice]:
        """The rows of each chunk in a rank's own run of length `own`."""
        size = self.size(chunk_tokens, own)
        for start in range(0, own, size):
            yield slice(start, min(start + size, own))

    def pick(self, whole_t: torch.Tensor, at: slice) -> torch.Tensor:
        """A chunk's entries of something that every rank has of all tokens."""
        return whole_t[at] if self.group is None else whole_t.view(self.world, -1)[:, at].flatten()

    def put(self, whole_t: torch.Tensor, at: slice, values_c: torch.Tensor) -> None:
        """Set a chunk's entries."""
        whole_t.view(self.world, -1)[:, at] = values_c.view(self.world, -1)

    def buffer(self, own_od: torch.Tensor, chunk_tokens: int) -> torch.Tensor | None:
        """A buffer for `gather`."""
        rows = self.world * self.size(chunk_tokens, len(own_od))
        return None if self.group is None else own_od.new_empty(rows, own_od.shape[1])

    def gather(self, own_od: torch.Tensor, at: slice, buffer_cd: torch.Tensor | None) -> torch.Tensor:
        """The chunk's rows of all ranks, in `buffer_cd`; a view of this rank's where it has them all."""
        if self.group is None or buffer_cd is None:
            return own_od[at]
        out_cd = buffer_cd[: self.world * (at.stop - at.start)]
        dist.all_gather_into_tensor(out_cd, own_od[at].contiguous(), group=self.group)
        return out_cd

    def scatter(self, chunk_cd: torch.Tensor, own_od: torch.Tensor, at: slice) -> None:
        """Sum over ranks; each puts its own rows where they belong. For ranks that share tokens out."""
        dist.reduce_scatter_tensor(own_od[at], chunk_cd, group=self.group)


#: (weight, gradient of the sum [v, d] in the work dtype, factor) -> what autograd gets as the weight's gradient
WeightGradient = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Any]


class Head(NamedTuple):
    """What enters a head, and the head.

    Attributes:
        hidden_td: hidden states after the final norm.
        weight_vd: the head's weight, this rank's rows; the first d of its columns are used, without a copy.
    """

    hidden_td: torch.Tensor
    weight_vd: torch.Tensor

    def part(self) -> torch.Tensor:
        """The columns in use, a view."""
        return self.weight_vd[:, : self.hidden_td.shape[1]]


def whole_gradient(weight_vd: torch.Tensor, piece_vd: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """`factor` times a gradient of the first columns, in a tensor of the weight's shape and dtype."""
    full = torch.zeros_like(weight_vd)
    full[:, : piece_vd.shape[1]].addcmul_(piece_vd, factor)
    return full


def head_loss(
    student: Head,
    teacher: Head | None = None,
    *,
    labels_t: torch.Tensor | None = None,
    weights_t: torch.Tensor | None = None,
    terms: Mapping[str, float] | None = None,
    temperature: float = 1.0,
    chunk_tokens: int = 512,
    group: dist.ProcessGroup | None = None,
    shared_out: bool = False,
    deliver: WeightGradient = whole_gradient,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over tokens of ``weight x sum over terms of (term's weight x term)``, and the same without weights.

    Terms are those of `losses`: "kl" is KL(teacher || student) at `temperature`, without the factor temperature**2 (as
    ModelOpt's LogitsKLLoss for Megatron), "ce" cross-entropy, which never has a temperature. Logits are rounded to the
    dtype of the hidden states, as a head gives them; all that follows is float32 (float64 for float64). The teacher
    gets no gradient.

    With a `group` every rank passes its own rows of both weights, the same hidden states, labels and weights, and gets
    the same two results. The gradient of the hidden states is then this rank's share: summing it over ranks belongs to
    the caller's (Megatron's) mappings of the hidden states. Where the hidden states are shared out (sequence
    parallelism), every rank passes those of its own run of the tokens, labels and weights of all, and gets the whole
    gradient of its own.

    Args:
        student: its hidden states and head; either may need a gradient.
        teacher: of the same number of tokens and rows of the vocabulary; None where no term compares with it.
        labels_t: token ids in the whole vocabulary, for the cross-entropy, which is 0 where one is outside.
        weights_t: weight of every token; None for ones. Not differentiable.
        terms: name -> weight; those of weight 0 are left out. None: "kl" with a teacher, "ce" without.
        temperature: divides both logits; positive.
        chunk_tokens: tokens whose logits are in memory at a time; does not change the value.
        group: ranks among which the vocabulary is split into equal parts, in order.
        shared_out: the ranks of `group` have equal runs of the tokens, in order.
        deliver: makes the weight's gradient; megatron.vocabulary adds it to `main_grad`.

    Returns:
        The weighted sum, differentiable once; and the loss of every token [t], which is not. Float32 or float64.

    Raises:
        ValueError: shapes that do not fit, values out of range, or nothing to compute.
    """
    shards = TokenShards(group if shared_out else None)
    default = {KL.name: 1.0} if teacher is not None else {CE.name: 1.0}
    terms = {name: weight for name, weight in (default if terms is None else terms).items() if weight}
    _check(student, teacher, labels_t, weights_t, terms, shards.world)
    _check_numbers(temperature, chunk_tokens)
    teacher = teacher if compares(terms) else None
    rows = LogitRows(terms, temperature, group)
    wanted = torch.is_grad_enabled()
    call = _Call(
        rows, shards, chunk_tokens, deliver, wanted and student[0].requires_grad, wanted and student[1].requires_grad
    )
    teacher = None if teacher is None else Head(teacher[0].detach(), teacher[1].detach())
    return _HeadLoss.apply(student[0], student[1], teacher, labels_t, weights_t, call)  # pyright: ignore


@dataclass(frozen=True)
class _Call:
    rows: LogitRows
    shards: TokenShards
    chunk_tokens: int
    deliver: WeightGradient
    hidden: bool
    weight: bool


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_td: torch.Tensor,
        weight_vd: torch.Tensor,
        teacher: Head | None,
        labels_t: torch.Tensor | None,
        weights_t: torch.Tensor | None,
        call: _Call,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        student, dtype, shards = Head(hidden_td, weight_vd), work_dtype(hidden_td), call.shards
        tokens, size = len(hidden_td) * shards.world, shards.world * shards.size(call.chunk_tokens, len(hidden_td))
        weights_t = hidden_td.new_ones(tokens, dtype=dtype) if weights_t is None else weights_t.to(dtype)
        losses_t = hidden_td.new_empty(tokens, dtype=dtype)
        grads = call.hidden or call.weight
        dx_td = torch.empty_like(hidden_td) if call.hidden else None
        dw_vd = torch.zeros_like(student.part(), dtype=dtype) if call.weight else None
        # allocated once: fresh pages of this size cost more than what is computed in them
        heads = (student,) if teacher is None else (student, teacher)
        buffers = [head.hidden_td.new_empty(size, len(weight_vd)) for head in heads]
        gathered = [shards.buffer(head.hidden_td, call.chunk_tokens) for head in heads]
        for at in shards.chunks(call.chunk_tokens, len(hidden_td)):
            x_cd, *others = (
                shards.gather(head.hidden_td, at, into) for head, into in zip(heads, gathered, strict=True)
            )
            s_cv, *t_cv = (
                torch.mm(hidden_cd, head.part().t(), out=buffer[: len(x_cd)])
                for hidden_cd, head, buffer in zip((x_cd, *others), heads, buffers, strict=True)
            )
            labels_c = None if labels_t is None else shards.pick(labels_t, at)
            weights_c = shards.pick(weights_t, at) if grads else None
            shards.put(losses_t, at, call.rows(s_cv, t_cv[0] if t_cv else None, labels_c, weights_c))
            if dw_vd is not None:
                _add_product(dw_vd, s_cv, x_cd)  # s_cv holds the gradient of the logits by now
            if dx_td is not None and shards.group is None:
                torch.mm(s_cv, student.part(), out=dx_td[at])
            elif dx_td is not None:
                shards.scatter(torch.mm(s_cv, student.part(), out=x_cd), dx_td, at)
        if call.rows.group is not None:
            dist.all_reduce(losses_t, group=call.rows.group)
        ctx.save_for_backward(weight_vd, dx_td, dw_vd)
        ctx.deliver = call.deliver
        ctx.mark_non_differentiable(losses_t)
        return (losses_t * weights_t).sum(), losses_t

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: torch.Tensor, _: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight_vd, dx_td, dw_vd = ctx.saved_tensors
        dx_td = None if dx_td is None else dx_td * factor
        dw = None if dw_vd is None else ctx.deliver(weight_vd, dw_vd, factor)
        return dx_td, dw, None, None, None, None


def _add_product(sum_vd: torch.Tensor, grad_cv: torch.Tensor, hidden_cd: torch.Tensor, block: int = 8192) -> None:
    """sum += grad^T hidden. In half precision each chunk's product is rounded, their sum is not."""
    if sum_vd.dtype == grad_cv.dtype:
        sum_vd.addmm_(grad_cv.t(), hidden_cd)
        return
    for start in range(0, len(sum_vd), block):
        at = slice(start, start + block)
        sum_vd[at].add_(torch.mm(grad_cv[:, at].t(), hidden_cd))  # `+=` would copy the rows onto themselves as well


def _check(
    student: Head,
    teacher: Head | None,
    labels_t: torch.Tensor | None,
    weights_t: torch.Tensor | None,
    terms: Mapping[str, float],
    runs: int,
) -> None:
    for name, head in (("student", student), ("teacher", teacher)):
        if head is not None and (head[0].dim() != 2 or head[0].shape[1] > head[1].shape[1]):
            raise ValueError(f"{name}: hidden states {tuple(head[0].shape)} do not fit a head {tuple(head[1].shape)}")
    tokens = len(student.hidden_td)
    if teacher is not None and (len(teacher[0]), len(teacher[1])) != (tokens, len(student[1])):
        raise ValueError(
            f"teacher: {len(teacher[0])} tokens and {len(teacher[1])} rows of the vocabulary, the student has "
            f"{tokens} and {len(student[1])}"
        )
    for name, given in (("labels_t", labels_t), ("weights_t", weights_t)):
        if given is not None and given.shape != (runs * tokens,):
            raise ValueError(f"{name} has shape {tuple(given.shape)}, not {(runs * tokens,)}")
    if not terms or any(name not in TERMS or weight < 0 for name, weight in terms.items()):
        raise ValueError(f"terms: {dict(terms)}: positive weights of {', '.join(TERMS)}")
    if compares(terms) and teacher is None:
        raise ValueError(f"terms: {dict(terms)} compare with a teacher, and there is none")
    if labels_t is None and CE.name in terms:
        raise ValueError("labels_t: cross-entropy needs them")


def _check_numbers(temperature: float, chunk_tokens: int) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be positive, not {chunk_tokens}")
