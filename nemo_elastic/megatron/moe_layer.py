# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A mixture of experts at the widths of the micro-batch's member: megatron-core's parameters, dispatcher and sharding.

A dropped expert's logit and bias are -inf before the top k are taken, so no token is sent to it: the dispatcher and
expert parallelism stay as they are, and it costs nothing. Router and dispatcher take the top-k of the member's layer.
All other widths are slices of the weights. All ranks of an expert-parallel group run the same member in the same
micro-batch (`train.samples`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.moe_logging import get_moe_metrics_tracker
from megatron.core.transformer.moe.moe_utils import (
    compute_routing_scores_for_aux_loss,
    topk_routing_with_score_function,
)
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import MoETransformerLayer, TransformerLayerSubmodules

from nemo_elastic.core.kinds.moe import EXPERT_FFN, EXPERTS, LATENT, SHARED_FFN, TOP_K
from nemo_elastic.core.prefix import Selection
from nemo_elastic.nn.forward import choose
from nemo_elastic.nn.gates import LayerGates

from .choice import WHOLE, ForwardChoice, is_recomputing
from .compat import with_globals
from .experts import experts, pack, stacked
from .linear import SlicedLinear, all_reduce, gather, tensor_group
from .modules import ElasticRMSNorm

_ROUTER_DTYPES = {"fp32": torch.float32, "fp64": torch.float64}


class ReplicatedLinear(torch.nn.Module):
    """A projection of its own tokens that every tensor-parallel rank has whole, in place of TransformerEngine's."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, init_method: Any, **_: Any) -> None:
        super().__init__()
        device = None if config.use_cpu_initialization else torch.cuda.current_device()
        weight = torch.empty(output_size, input_size, dtype=config.params_dtype, device=device)
        self.weight = torch.nn.Parameter(weight)
        if config.perform_initialization:
            init_method(self.weight)
        self.weight.sequence_parallel = config.sequence_parallel  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x: torch.Tensor, rows: Selection | None = None, cols: Selection | None = None) -> torch.Tensor:
        return SlicedLinear.apply(x, self.weight, rows, cols, True, False, None)


class ElasticRouter(TopKRouter):
    """megatron-core's router, to which a member's dropped experts are not there; soft gates multiply the weights."""

    def _apply(self, fn: Any, recurse: bool = True) -> ElasticRouter:
        """Move or cast, but no buffer: biases may be large beside what tells experts apart, and tokens are counted."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, now in self.named_buffers(recurse=False):
            if now.dtype != before[name].dtype:
                setattr(self, name, before[name].to(now.device))
        return self

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x_sbd: torch.Tensor, run: ForwardChoice = WHOLE, index: int = -1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights [tokens, E] of the experts that each token is sent to, zeros elsewhere, and whether it is."""
        self._maintain_float32_expert_bias()
        dtype = _ROUTER_DTYPES.get(self.config.moe_router_dtype, x_sbd.dtype)
        weight, cols = self.weight.to(dtype), run.hidden_selection()
        logits_sbe = SlicedLinear.apply(x_sbd.to(dtype), weight, None, cols, True, False, None)
        logits_te, bias_e, gates = logits_sbe.flatten(0, 1), self.expert_bias, run.gates(index)
        gate_e = None if gates is None else gates[EXPERTS].to(torch.float32)
        dropped_e = _dropped(run, index, gate_e, logits_te.device)
        if dropped_e is not None:
            logits_te = logits_te.masked_fill(dropped_e, -math.inf)
            bias_e = bias_e.masked_fill(dropped_e, -math.inf)
        logits_te = self.apply_z_loss(logits_te)
        top_k = _top_k(run, index, self.topk)
        if gates is None and top_k > 1:
            weights_te, chosen_te = topk_routing_with_score_function(
                logits_te, top_k, scaling_factor=self.config.moe_router_topk_scaling_factor,
                score_function="sigmoid", expert_bias=bias_e,
            )  # fmt: skip
        else:
            weights_te, chosen_te = self._chosen(logits_te, bias_e, top_k, gates)
        if self.training and torch.is_grad_enabled():
            with _swapped(self, topk=top_k):
                weights_te = self._balanced(weights_te, logits_te, x_sbd.shape[:2])
            if run.is_whole and not is_recomputing():
                # a smaller member sends its tokens to fewer experts: by its counts, those would be pushed away
                self.local_tokens_per_expert += chosen_te.detach().sum(0)
        return weights_te, chosen_te

    # a layer that runs again for its gradients has logged its losses before
    attach_and_log_load_balancing_loss = with_globals(
        TopKRouter.attach_and_log_load_balancing_loss, get_moe_metrics_tracker=lambda: _tracker()
    )
    apply_z_loss = with_globals(TopKRouter.apply_z_loss, get_moe_metrics_tracker=lambda: _tracker())

    def _chosen(
        self, logits_te: torch.Tensor, bias_e: torch.Tensor, top_k: int, gates: LayerGates | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """megatron-core's choice, under soft gates, or of one expert, whose weight megatron-core does not scale."""
        scores_te = logits_te.float().sigmoid()
        scaling = self.config.moe_router_topk_scaling_factor or 1.0
        chosen_tk, weight_tk = choose(scores_te, bias_e, top_k, scaling, gates)
        none = torch.zeros_like(scores_te)
        weights_te = none.scatter(1, chosen_tk, weight_tk).type_as(logits_te)
        return weights_te, none.scatter(1, chosen_tk, 1.0).bool()

    def _balanced(self, weights_te: torch.Tensor, logits_te: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """The weights, with which the auxiliary losses of the config go backward."""
        if not self.is_aux_loss_enabled():
            return weights_te
        chosen_te, scores_te = compute_routing_scores_for_aux_loss(logits_te, self.topk, "sigmoid")
        weights_te = self._apply_aux_loss(weights_te, scores_te, chosen_te)
        return self._apply_seq_aux_loss(weights_te, scores_te, chosen_te, *shape)


class _Unlogged:
    """In place of megatron-core's tracker of auxiliary losses: one that keeps nothing."""

    def record(self, *_: Any, **__: Any) -> None:
        """Not again."""


def _tracker() -> Any:
    return _Unlogged() if is_recomputing() else get_moe_metrics_tracker()


def _top_k(run: ForwardChoice, index: int, whole: int) -> int:
    """Experts to which the run sends a token of a layer; `whole`: as many as the model does."""
    layer = run.layer(index)
    return whole if layer is None else layer.widths.get(TOP_K, whole)


@contextmanager
def _swapped(owner: Any, **values: Any) -> Iterator[None]:
    """The body sees other values of attributes that megatron-core reads inside one call."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def _dropped(run: ForwardChoice, index: int, gate_e: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    """Which experts no token may meet; None where none is dropped."""
    if gate_e is not None:
        return gate_e.detach() == 0
    kept = run.select("moe.gate", 0, index, world=1)
    return None if kept is None else ~torch.from_numpy(kept.mask()).to(device)


class ElasticExperts(SequentialMLP):
    """This rank's experts, all at once, each at the widths of the run.

    Tokens come for the last expert first. megatron-core's gradient buffers, and the distributed optimizer's weights,
    lie in this order (`param_and_grad_buffer.py` iterates over `params[::-1]`), so there the weights of all experts
    are one strided tensor, and where no buffer has them they are packed so.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pack()

    def _apply(self, fn: Any, recurse: bool = True) -> ElasticExperts:
        """Move or cast; what has left its place is packed again, what lies in a buffer stays there."""
        before = [weight.data_ptr() for weights in self._weights() for weight in weights]
        super()._apply(fn, recurse)
        if before != [weight.data_ptr() for weights in self._weights() for weight in weights]:
            self._pack()
        return self

    def _weights(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Of both linears, the last expert's first."""
        up, down = (
            [getattr(one, name).weight for one in reversed(self.local_experts)]
            for name in ("linear_fc1", "linear_fc2")
        )
        return up, down

    def _pack(self) -> None:
        for weights in self._weights():
            if stacked(weights) is None:
                pack(weights)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        tokens_ni: torch.Tensor,
        counts_e: torch.Tensor,
        weights_n: torch.Tensor,
        run: ForwardChoice = WHOLE,
        index: int = -1,
        seen: Any = None,
    ) -> torch.Tensor:
        """What experts make of the tokens that were sent to them [n, i], times their weights [n].

        Args:
            tokens_ni: of the last expert, then of the one before, and so on.
            counts_e: how many each has, in this order.
            run, index: the micro-batch's choice, and the layer.
            seen: called with expert, activation [n, F] and output [n, i].
        """
        ranks, gates, counts = self.tp_group.size(), run.gates(index), counts_e.tolist()
        up, down = self._weights()
        # routed tokens are on their expert's ranks already: no collective, the dispatcher's are around this
        y_ni, relu_nf = experts(
            tokens_ni, weights_n, counts, up, down,
            gate_f=None if gates is None else gates[EXPERT_FFN].to(tokens_ni.dtype),
            neurons=run.select("moe.up", 0, index, world=ranks), width=run.select("moe.up", 1, index, world=1),
            rounded=self._rounded(run, index, up, down),
        )  # fmt: skip
        if seen is not None:
            parts = zip(relu_nf.split(counts), y_ni.split(counts), strict=True)
            for before, (h_nf, out_ni) in enumerate(parts, 1):
                seen(len(counts) - before, h_nf.square(), out_ni)
        return y_ni

    def _rounded(
        self, run: ForwardChoice, index: int, up: Sequence[torch.Tensor], down: Sequence[torch.Tensor]
    ) -> list[torch.Tensor] | None:
        """What stands for the weights, where low precision rounds them."""
        if run.rounding is None:
            return None
        group = tensor_group(self)
        rows = (("moe.up", up), ("moe.down", down))
        both = [run.rounding.each(name, index, weights, group) for name, weights in rows]
        return None if both[0] is None or both[1] is None else [*both[0], *both[1]]


class ElasticMoE(MoELayer):
    """megatron-core's layer with a forward of our own that takes widths."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _init(self, *args, **kwargs)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x_sbd: torch.Tensor, run: ForwardChoice = WHOLE, index: int = -1, **_: Any
    ) -> torch.Tensor:
        """The experts of each token and the shared expert, of the normalised stream [s, b, d] (width of the run)."""
        latent, gates = bool(self.config.moe_latent_size), run.gates(index)
        weights_te, chosen_te = self.router(x_sbd, run, index)
        in_sbi = x_sbd
        if latent:
            rows = run.select("moe.latent_in", 0, index, world=1)
            in_sbi = _gated(self.fc1_latent_proj(x_sbd, rows, run.hidden_selection()), gates, LATENT)
            run.watch("latent", index, in_sbi)
        dispatcher = self.token_dispatcher
        assert dispatcher is not None
        by_memory = (_last_first(of_te, self.num_local_experts) for of_te in (chosen_te, weights_te))
        with _swapped(dispatcher.config, moe_router_topk=_top_k(run, index, self.config.moe_router_topk)):
            tokens_ni, weights_n = dispatcher.dispatch_preprocess(in_sbi, *by_memory)
        tokens_ni, weights_n = dispatcher.token_dispatch(tokens_ni, weights_n)
        tokens_ni, counts_e, weights_n = dispatcher.dispatch_postprocess(tokens_ni, weights_n)
        # of a member's experts nothing is asked, and they lack some of the neurons
        seen = (
            _ExpertProbe(x_sbd, chosen_te, self.experts, run) if run.probe is not None and run.subnet is None else None
        )
        out_ni = self.experts(tokens_ni, counts_e, weights_n, run, index, seen)
        out_sbi = dispatcher.combine_postprocess(dispatcher.token_combine(dispatcher.combine_preprocess(out_ni)))
        if seen is not None:
            seen.show(run, index)
        if latent:
            cols = run.select("moe.latent_out", 1, index, world=1)
            out_sbi = self.fc2_latent_proj(_gated(out_sbi, gates, LATENT), run.hidden_selection(), cols)
        out_sbd = out_sbi + self._shared(x_sbd, run, index)
        return out_sbd if run.hidden_gate is None else out_sbd * run.hidden_gate.to(out_sbd.dtype)

    def _shared(self, x_sbd: torch.Tensor, run: ForwardChoice, index: int) -> torch.Tensor:
        shared, hidden, sequence = self.shared_experts, run.hidden_selection(), self.config.sequence_parallel
        assert shared is not None
        up, down = shared.linear_fc1, shared.linear_fc2
        rows, cols = run.select("moe.shared_up", 0, index), run.select("moe.shared_down", 1, index)
        group = tensor_group(up)
        rounded = run.rounded("moe.shared_up", index, up.weight, group)
        h_sbf = SlicedLinear.apply(x_sbd, up.weight, rows, hidden, True, sequence, group, rounded)
        # megatron-core's own is compiled again for each number of tokens: recomputed, it saves other tensors
        h_sbf = torch.relu(h_sbf).square()
        run.watch("shared_ffn", index, h_sbf)
        h_sbf = _gated(h_sbf, run.gates(index), SHARED_FFN)
        rounded = run.rounded("moe.shared_down", index, down.weight, group)
        return SlicedLinear.apply(h_sbf, down.weight, hidden, cols, False, sequence, group, rounded)


#: The constructor asks for TransformerEngine where there is a latent width, of which it only uses one linear class.
_init = with_globals(MoELayer.__init__, HAVE_TE=True, TELinear=ReplicatedLinear)


def _last_first(of_te: torch.Tensor, count: int) -> torch.Tensor:
    """By expert [tokens, E], those of each rank from its last on, as they lie in memory."""
    return of_te.unflatten(1, (-1, count)).flip(2).flatten(1)


def _gated(x: torch.Tensor, gates: LayerGates | None, axis: str) -> torch.Tensor:
    return x if gates is None else x * gates[axis].to(x.dtype)


class _ExpertProbe:
    """Gives a probe (`nn.gates.Probe`) all experts, whole, for the tokens of this rank.

    A rank has some experts, and of each some neurons, but the tokens of all ranks that share them: what is recorded of
    a token returns to the token's rank. Tokens of an expert come in the order of the ranks, expert-TP ranks outermost,
    as the dispatcher sends them. All these ranks run the layer together.

    In shapes: r: EP ranks, q: expert-TP ranks, c: experts on this rank, f: neurons of each on this rank; t, b: tokens
    and sequences, those of all r x q ranks in `experts_tc`, `ffn_bcf`, `weights_tc` and `sent_tc`.
    """

    def __init__(
        self, x_sbd: torch.Tensor, chosen_te: torch.Tensor, experts: ElasticExperts, run: ForwardChoice
    ) -> None:
        self.length, self.batch = x_sbd.shape[:2]
        self.chosen_te, self.ep_group, self.tp_group = chosen_te.float(), experts.ep_group, experts.tp_group
        count, ffn = len(experts.local_experts), experts.local_experts[0].linear_fc1.weight.shape[0]
        weights_bs = getattr(run.probe, "weights_bl", None)
        # 1 more than its weight, or 0 of a token that is not sent
        sent_te = self.chosen_te * (2.0 if weights_bs is None else 1 + weights_bs.t().reshape(-1, 1))
        sent_rtc = _all_to_all(sent_te.unflatten(1, (-1, count)).transpose(0, 1), self.ep_group)
        sent_rtc = gather(sent_rtc, self.tp_group) if self.tp_group.size() > 1 else sent_rtc
        self.weights_tc = sent_rtc.flatten(0, 1) - 1
        self.sent_tc = self.weights_tc >= 0
        made = partial(torch.zeros, dtype=torch.float32, device=x_sbd.device)
        self.experts_tc = made(self.sent_tc.shape)
        self.ffn_bcf = made(len(self.sent_tc) // self.length, count, ffn)

    def __call__(self, expert: int, h_nf: torch.Tensor, y_ni: torch.Tensor) -> None:
        """One of this rank's experts."""
        at_n, y_ni = self.sent_tc[:, expert].nonzero()[:, 0], y_ni.detach().float()
        if self.tp_group.size() > 1:  # each has its own neurons' part of the sum
            y_ni = all_reduce(y_ni.clone(), self.tp_group)
        self.experts_tc[at_n, expert] = y_ni.norm(dim=1)
        sequence_n = at_n // (self.length * self.batch) * self.batch + at_n % self.batch
        h_nf = h_nf.detach().abs().float() * self.weights_tc[at_n, expert, None] / self.length
        self.ffn_bcf[:, expert].index_add_(0, sequence_n, h_nf)

    def show(self, run: ForwardChoice, index: int) -> None:
        """Return what was recorded to each token's rank, and give it to the probe for layer `index`.

        experts [s, b, E]: weight times norm of the output, 0 where not routed; routed [s, b, E]: 1 where routed;
        expert_ffn [1, b, E, F]: mean magnitude over a sequence.
        """
        ranks = self.tp_group.size(), self.ep_group.size()
        # rows are (expert-TP rank, EP rank, token): those of the tokens of this expert-TP rank
        norms_rtc = self.experts_tc.unflatten(0, (*ranks, -1))[self.tp_group.rank()]
        experts_te = _all_to_all(norms_rtc, self.ep_group).transpose(0, 1).flatten(1)
        ffn_qrbcf = _all_to_all(self.ffn_bcf.unflatten(0, (*ranks, -1)), self.tp_group)
        ffn_rbcF = ffn_qrbcf.movedim(0, -2).flatten(-2)  # the neurons of all expert-TP ranks: f becomes F
        ffn_bef = _all_to_all(ffn_rbcF, self.ep_group).transpose(0, 1).flatten(1, 2)
        run.watch("experts", index, experts_te.unflatten(0, (self.length, self.batch)))
        run.watch("routed", index, self.chosen_te.unflatten(0, (self.length, self.batch)))
        run.watch("expert_ffn", index, ffn_bef[None])


def _all_to_all(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """All-to-all over dim 0: row i goes to rank i of the group; returns one row from each rank, in their order."""
    if group.size() == 1:
        return x
    x = x.contiguous()
    out = torch.empty_like(x)
    dist.all_to_all_single(out, x, group=group)
    return out


def moe_layer() -> ModuleSpec:
    """What the stack's spec has for a layer with experts."""
    linears = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    submodules = MoESubmodules(
        experts=partial(ElasticExperts, submodules=linears),
        shared_experts=partial(SharedExpertMLP, submodules=linears),
        router=ElasticRouter,
    )
    return ModuleSpec(
        module=MoETransformerLayer,
        submodules=TransformerLayerSubmodules(
            pre_mlp_layernorm=ElasticRMSNorm,
            mlp=partial(ElasticMoE, submodules=submodules),
            mlp_bda=get_bias_dropout_add,
        ),
    )
