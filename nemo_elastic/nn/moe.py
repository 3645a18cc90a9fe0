# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The forward of a mixture of experts, as a function of weights: sliced, or gated at full size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from nemo_elastic.core.kinds.moe import EXPERT_FFN, EXPERTS, LATENT, SCALING, SHARED_FFN, TOP_K
from nemo_elastic.nn.dtype import work_dtype

if TYPE_CHECKING:
    from nemo_elastic.nn.forward import LayerRun


#: share of a gate's logarithm that is added to scores where experts are chosen, which lie between 0 and 1
FADING = 0.05


def moe(x_bld: torch.Tensor, run: LayerRun) -> torch.Tensor:
    """The chosen experts of each token, and the shared expert; squared ReLU, no gate, no bias."""
    return _experts(x_bld, run) + _shared(x_bld, run)


def route(x_td: torch.Tensor, run: LayerRun) -> tuple[torch.Tensor, torch.Tensor]:
    """The experts of each token [t, k], and their weights.

    A token goes to the experts with the highest sums of score and bias. Their scores, scaled to add up to the parent's
    scaling, are the weights. Gates multiply the weights, and lower what chooses (`faded`): an expert with a gate of 0
    is never chosen, and the weights of the others are then as if it were not there.
    """
    w = run.w
    scores_te = w.linear("gate", x_td.to(work_dtype(x_td))).sigmoid()
    bias_e = w["gate_bias"].to(scores_te.dtype)
    gate_e = None if run.gates is None else run.gates[EXPERTS].to(scores_te.dtype)
    chosen_tk = faded(scores_te + bias_e, gate_e).topk(run.parent.size(TOP_K), sorted=False).indices
    weight_tk = scores_te.gather(1, chosen_tk)
    weight_tk = weight_tk / (weight_tk.sum(1, keepdim=True) + 1e-20) * run.parent.size(SCALING)
    return chosen_tk, weight_tk if gate_e is None else weight_tk * gate_e[chosen_tk]


def faded(keys_te: torch.Tensor, gate_e: torch.Tensor | None) -> torch.Tensor:
    """What chooses experts, lower by a share of the gates' logarithms, which ends at -inf; no gradient passes here.

    Gates that multiplied scores before the choice would be a threshold: below 0.5 an expert has no slot that would
    tell what it is worth. Gates that did not touch the choice would jump at 0, where others take its slots.
    """
    return keys_te if gate_e is None else keys_te + FADING * gate_e.detach().log()


def _experts(x_bld: torch.Tensor, run: LayerRun) -> torch.Tensor:
    x_td = x_bld.flatten(0, 1)
    chosen_tk, weight_tk = route(x_td, run)
    in_ti = x_td
    if run.parent.has(LATENT):
        in_ti = _gated(run.w.linear("latent_in", x_td), run, LATENT)
        run.watch("latent", in_ti.unflatten(0, x_bld.shape[:2]))
    seen = _Seen.of(x_bld, run) if run.probe is not None else None
    out_ti = torch.zeros_like(in_ti, dtype=weight_tk.dtype)
    for expert, (at_n, weight_n) in _tokens_of(chosen_tk, weight_tk).items():
        h_nf = F.relu(run.w.linear(f"up.{expert}", in_ti[at_n])).square()
        y_ni = run.w.linear(f"down.{expert}", _gated(h_nf, run, EXPERT_FFN)) * weight_n[:, None]
        out_ti = out_ti.index_add(0, at_n, y_ni)
        if seen is not None:
            seen.add(expert, at_n, h_nf, y_ni)
    if seen is not None:
        seen.tell(run)
    out_ti = out_ti.to(x_bld.dtype)
    if run.parent.has(LATENT):
        out_ti = run.w.linear("latent_out", _gated(out_ti, run, LATENT))
    return out_ti.view_as(x_bld)


def _shared(x_bld: torch.Tensor, run: LayerRun) -> torch.Tensor:
    h_blf = F.relu(run.w.linear("shared_up", x_bld)).square()
    run.watch("shared_ffn", h_blf)
    return run.w.linear("shared_down", _gated(h_blf, run, SHARED_FFN))


def _gated(x: torch.Tensor, run: LayerRun, axis: str) -> torch.Tensor:
    return x if run.gates is None else x * run.gates[axis].to(x.dtype)


def _tokens_of(chosen_tk: torch.Tensor, weight_tk: torch.Tensor) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Expert -> its tokens [n] and their weights [n]; experts without tokens are left out."""
    flat, k = chosen_tk.flatten(), chosen_tk.shape[1]
    parts = flat.argsort(stable=True).split(flat.bincount().tolist())
    return {e: (part // k, weight_tk.flatten()[part]) for e, part in enumerate(parts) if len(part)}


@dataclass
class _Seen:
    """What a probe is shown of experts; see `nn.gates.Probe`."""

    experts_ble: torch.Tensor
    routed_ble: torch.Tensor
    ffn_b1ef: torch.Tensor

    @classmethod
    def of(cls, x_bld: torch.Tensor, run: LayerRun) -> _Seen:
        experts, ffn = run.w.layer.widths[EXPERTS], run.w.layer.widths[EXPERT_FFN]
        made = partial(torch.zeros, dtype=work_dtype(x_bld), device=x_bld.device)
        batch, length = x_bld.shape[:2]
        return cls(made(batch, length, experts), made(batch, length, experts), made(batch, 1, experts, ffn))

    def add(self, expert: int, at_n: torch.Tensor, h_nf: torch.Tensor, y_ni: torch.Tensor) -> None:
        length = self.experts_ble.shape[1]
        self.experts_ble.flatten(0, 1)[at_n, expert] = y_ni.detach().norm(dim=1)
        self.routed_ble.flatten(0, 1)[at_n, expert] = 1
        self.ffn_b1ef[:, 0, expert].index_add_(0, at_n // length, h_nf.detach().abs().to(self.ffn_b1ef) / length)

    def tell(self, run: LayerRun) -> None:
        run.watch("experts", self.experts_ble)
        run.watch("routed", self.routed_ble)
        run.watch("expert_ffn", self.ffn_b1ef)
