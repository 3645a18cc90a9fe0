# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The forward of Nemotron-H, as functions of weights: sliced, gated at full size, or one token at a time.

Where gates apply (method §5): the hidden gate on the token embedding, on every norm's weight and on the rows of every
output projection, while norms divide as a cut's do (`Parent.norm`); a width's gate on the columns of the output
projection; a Mamba channel's gate also on the z and x rows of the input projection and on y before the gated norm,
which averages over the sum of the gates of each group. B, C, dt, A, D and dt_bias have none. All of it is done on
activations: gating the rows of a weight is gating what it puts out, gating its columns is gating what goes in.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.attention import ATTENTION, ATTENTION_HEADS, KV_HEADS
from nemo_elastic.core.kinds.mamba import MAMBA, MAMBA_HEAD_DIM, MAMBA_HEADS
from nemo_elastic.core.kinds.mlp import FFN, MLP
from nemo_elastic.core.kinds.moe import EXPERT_FFN, EXPERTS, LATENT, MOE, SCALING, SHARED_FFN, TOP_K
from nemo_elastic.errors import bad
from nemo_elastic.kernels import MambaWidths
from nemo_elastic.nn.cache import Cache, KeyValueState, MambaState, State
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.functional import causal_attention, rms_norm, work_dtype
from nemo_elastic.nn.gates import Gates, LayerGates, Probe, gated_norm
from nemo_elastic.nn.mixer import MixerWeights, gate_projection, mix
from nemo_elastic.nn.weights import LayerWeights, Weights


def forward(
    weights: Weights,
    tokens_bl: torch.Tensor,
    gates: Gates | None = None,
    probe: Probe | None = None,
    cache: Cache | None = None,
    last: bool = False,
    documents: Documents | None = None,
) -> torch.Tensor:
    """Logits of every token of a batch.

    Args:
        weights: of the member that runs; of the whole parent where there are gates.
        tokens_bl: token ids [b, l].
        gates: multiply by them at full size.
        probe: shown the activations that `nn.gates.Probe` lists.
        cache: state after the tokens before these, of the same member; moved on in place, so there are no gradients.
        last: compute the logits of the last position only.
        documents: where several lie in a row: none reads over its bounds. None for one in each.

    Returns:
        Logits [b, l, v], or [b, 1, v] with `last`, in the dtype of the weights.

    Raises:
        ElasticError: the cache belongs to another member or batch size, or comes with gates or documents, or those
            are of other rows.
    """
    if documents is not None:
        documents.check(tokens_bl.shape)
        if cache is not None:
            raise bad("cache", "Documents", "decoding takes one document in each row")
    if cache is not None:
        if gates is not None:
            raise bad("cache", "Gates", "decoding runs a slice: give a Subnet")
        if cache.member != weights.member:
            raise bad("cache", f"member of {len(cache.member.layers)} layers", "a cache that the running member made")
        if cache.batch != tokens_bl.shape[0]:
            raise bad("cache", f"batch of {cache.batch}", f"the tokens are a batch of {tokens_bl.shape[0]}")
    with torch.set_grad_enabled(torch.is_grad_enabled() and cache is None):
        model = Layers(weights, gates, cache, documents)
        x_bld = model.embed(tokens_bl)
        for index in model.indices:
            x_bld = model.layer(index, x_bld, probe)
        if cache is not None:
            cache.advance(tokens_bl.shape[1])
        return model.head(model.norm(x_bld[:, -1:] if last else x_bld, probe))


class Layers:
    """A model layer by layer: embed, the layers, norm, head. In a row they are `forward`, whose arguments these are.

    Ranking runs some layers on a stream that others left (`ranking.scores.Layered`). The caller calls the cache's
    `advance`. `indices` are the layers by their number in the parent.
    """

    def __init__(
        self,
        weights: Weights,
        gates: Gates | None = None,
        cache: Cache | None = None,
        documents: Documents | None = None,
    ) -> None:
        self.weights, self.gates, self.cache, self.documents = weights, gates, cache, documents
        self._at = {index: i for i, index in enumerate(weights.member.kept)}
        self._gate = None if gates is None else gates.hidden.to(weights.embedding.dtype)

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(self._at)

    def with_documents(self, documents: Documents) -> Layers:
        """The same model, which reads rows of these documents."""
        other = copy(self)
        other.documents = documents
        return other

    def embed(self, tokens_bl: torch.Tensor) -> torch.Tensor:
        """Token ids [b, l] to the stream that enters the first layer, [b, l, d]."""
        x_bld = F.embedding(tokens_bl, self.weights.embedding)
        return x_bld if self._gate is None else x_bld * self._gate

    def layer(self, index: int, x_bld: torch.Tensor, probe: Probe | None = None) -> torch.Tensor:
        """The stream after layer `index` of the parent from the stream before it; that one is left as it is."""
        w, gates, cache = self.weights.layers[self._at[index]], self.gates, self.cache
        run = LayerRun(
            self.weights.parent,
            w,
            gates.layers[index] if gates is not None else None,
            probe,
            cache.layers.get(index) if cache is not None else None,
            self.documents,
        )
        run.watch("layer_in", x_bld)
        y_bld = MIXERS[w.layer.type](self._norm(x_bld, w["pre_norm"], index, probe), run)
        if self._gate is not None and run.gates is not None:
            y_bld = y_bld * (self._gate * run.gates.keep.to(y_bld.dtype))
        x_bld = x_bld + y_bld
        run.watch("layer_out", x_bld)
        return x_bld

    def norm(self, x_bld: torch.Tensor, probe: Probe | None = None) -> torch.Tensor:
        """The final norm of the last layer's stream."""
        return self._norm(x_bld, self.weights.final_norm, -1, probe)

    def head(self, x_bld: torch.Tensor) -> torch.Tensor:
        """Logits [b, l, v] of what `norm` gave."""
        return F.linear(x_bld, self.weights.head)

    def _norm(self, x_bld: torch.Tensor, weight: torch.Tensor, index: int, probe: Probe | None) -> torch.Tensor:
        parent = self.weights.parent
        if self.gates is None:
            y_bld = rms_norm(x_bld, weight, parent.norm_eps)
        else:
            y_bld = gated_norm(parent, x_bld, weight, self.gates.hidden, parent.norm_eps)
        if probe is not None:
            probe("hidden", index, y_bld)
        return y_bld


@dataclass(frozen=True)
class LayerRun:
    """One layer's part of a forward: what its mixer needs besides its input."""

    parent: Parent
    w: LayerWeights
    gates: LayerGates | None
    probe: Probe | None
    state: State | None
    documents: Documents | None = None

    def watch(self, site: str, x: torch.Tensor) -> None:
        if self.probe is not None:
            self.probe(site, self.w.layer.index, x)


def mlp(x_bld: torch.Tensor, run: LayerRun) -> torch.Tensor:
    """Squared ReLU, no gate, no bias."""
    h_blf = run.w.linear("up", x_bld)
    run.watch("ffn_pre", h_blf)
    h_blf = F.relu(h_blf).square()
    run.watch("ffn", h_blf)
    if run.gates is not None:
        h_blf = h_blf * run.gates[FFN].to(h_blf.dtype)
    return run.w.linear("down", h_blf)


def attention(x_bld: torch.Tensor, run: LayerRun) -> torch.Tensor:
    """Grouped-query attention without positions."""
    heads = (-1, run.parent.attention_head_dim)
    q_bhld, k_bgld, v_bgld = (run.w.linear(n, x_bld).unflatten(-1, heads).transpose(1, 2) for n in ("q", "k", "v"))
    past_len: int | list[int] = 0
    if run.state is not None:
        assert isinstance(run.state, KeyValueState)
        past_len = run.state.past
        k_bgld, v_bgld = run.state.append(k_bgld, v_bgld)
    y_blhd = causal_attention(q_bhld, k_bgld, v_bgld, past_len, run.documents).transpose(1, 2)
    run.watch("attention", y_blhd)
    if run.gates is not None:
        y_blhd = y_blhd * run.gates.of_blocks(ATTENTION_HEADS, KV_HEADS).to(y_blhd.dtype)[:, None]
    return run.w.linear("out", y_blhd.flatten(2))


def mamba(x_bld: torch.Tensor, run: LayerRun) -> torch.Tensor:
    """Mamba-2: input projection [z | x | B | C | dt], convolution, scan, gated norm, output projection."""
    w, parent = run.w, run.parent
    heads, head_dim = (w.layer.widths[axis] for axis in (MAMBA_HEADS, MAMBA_HEAD_DIM))
    widths = MambaWidths(heads, head_dim, parent.mamba_groups, parent.state)
    zxbcdt_blo, gate_i = w.linear("in_proj", x_bld), None
    if run.gates is not None:
        gate_i = run.gates.channels(MAMBA_HEADS, MAMBA_HEAD_DIM).to(zxbcdt_blo.dtype)
        zxbcdt_blo = gate_projection(zxbcdt_blo, widths, gate_i)
    run.watch("mamba_x", widths.scanned(widths.split(zxbcdt_blo)[1])[0])
    a_h = -w["a_log"].to(work_dtype(w["a_log"])).exp()
    inner = MixerWeights(w["conv_weight"], w["conv_bias"], a_h, w["d"], w["dt_bias"], w["norm"])
    state = run.state if isinstance(run.state, MambaState) else None
    y_bli = mix(zxbcdt_blo, inner, widths, parent.norm_eps, gate_i, state=state, documents=run.documents)
    return w.linear("out_proj", y_bli)


#: share of a gate's logarithm that is added to scores where experts are chosen, which lie between 0 and 1
GATE_SHARE = 0.05


#: (input of the experts [t, i], experts of each token [t, k], their weights [t, k]) -> their weighted sum [t, i]
Grouped = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def moe(x_bld: torch.Tensor, run: LayerRun, grouped: Grouped | None = None) -> torch.Tensor:
    """The chosen experts of each token, and the shared expert; squared ReLU, no gate, no bias.

    `grouped` computes all experts at once; by default one runs after the other.
    """
    return _experts(x_bld, run, grouped) + _shared_expert(x_bld, run)


def route(x_td: torch.Tensor, run: LayerRun) -> tuple[torch.Tensor, torch.Tensor]:
    """The experts of each token [t, k], and their weights; see `choose`."""
    w, parent = run.w, run.parent
    scores_te = w.linear("gate", x_td.to(work_dtype(x_td))).sigmoid()
    top_k = w.layer.widths.get(TOP_K, parent.size(TOP_K))
    return choose(scores_te, w["gate_bias"].to(scores_te.dtype), top_k, parent.size(SCALING), run.gates)


def choose(
    scores_te: torch.Tensor, bias_e: torch.Tensor, top_k: int, scaling: float, gates: LayerGates | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The experts of each token [t, k] by their scores, and their weights.

    A token goes to the experts with the highest sums of score and bias. Their scores, scaled to add up to `scaling`,
    are the weights. Gates of experts multiply the weights, and lower the sums (`gated_choice_scores`): an expert
    with a gate of 0 is never chosen, and the weights of the others are then as if it were not there. Gates of
    top-k multiply the scores of the first choice, the second, and so on, before they are scaled.
    """
    gate_e = None if gates is None else gates[EXPERTS].to(scores_te.dtype)
    chosen_tk = gated_choice_scores(scores_te + bias_e, gate_e).topk(top_k, 1, sorted=gates is not None).indices
    weight_tk = scores_te.gather(1, chosen_tk)
    if gates is not None and TOP_K in gates.widths:
        weight_tk = weight_tk * gates[TOP_K].to(weight_tk.dtype)
    weight_tk = weight_tk / (weight_tk.sum(1, keepdim=True) + 1e-20) * scaling
    return chosen_tk, weight_tk if gate_e is None else weight_tk * gate_e[chosen_tk]


def gated_choice_scores(keys_te: torch.Tensor, gate_e: torch.Tensor | None) -> torch.Tensor:
    """Scores [t, e] that top-k routing chooses experts by: add `GATE_SHARE` x log(gate), without a gradient.

    If gates multiplied the scores, an expert with a gate below 0.5 would never be chosen and get no gradient. If gates
    did not change the choice, the output would jump at a gate of 0, where other experts take its slots.
    """
    return keys_te if gate_e is None else keys_te + GATE_SHARE * gate_e.detach().log()


def _experts(x_bld: torch.Tensor, run: LayerRun, grouped: Grouped | None) -> torch.Tensor:
    x_td = x_bld.flatten(0, 1)
    chosen_tk, weight_tk = route(x_td, run)
    in_ti = x_td
    if run.parent.has(LATENT):
        in_ti = _gated(run.w.linear("latent_in", x_td), run, LATENT)
        run.watch("latent", in_ti.unflatten(0, x_bld.shape[:2]))
    if grouped is not None:
        out_ti = grouped(in_ti, chosen_tk, weight_tk)
    else:
        out_ti = _one_by_one(in_ti, chosen_tk, weight_tk, run, x_bld)
    out_ti = out_ti.to(x_bld.dtype)
    if run.parent.has(LATENT):
        out_ti = run.w.linear("latent_out", _gated(out_ti, run, LATENT))
    return out_ti.view_as(x_bld)


def _one_by_one(
    in_ti: torch.Tensor, chosen_tk: torch.Tensor, weight_tk: torch.Tensor, run: LayerRun, x_bld: torch.Tensor
) -> torch.Tensor:
    """`Grouped`, one expert after the other; shows a probe what it needs."""
    seen = _ExpertProbe.of(x_bld, run) if run.probe is not None else None
    out_ti = torch.zeros_like(in_ti, dtype=weight_tk.dtype)
    for expert, (at_n, weight_n) in _tokens_of(chosen_tk, weight_tk).items():
        h_nf = F.relu(run.w.linear(f"up.{expert}", in_ti[at_n])).square()
        y_ni = run.w.linear(f"down.{expert}", _gated(h_nf, run, EXPERT_FFN)) * weight_n[:, None]
        out_ti = out_ti.index_add(0, at_n, y_ni)
        if seen is not None:
            seen.add(expert, at_n, h_nf, y_ni)
    if seen is not None:
        seen.show(run)
    return out_ti


def _shared_expert(x_bld: torch.Tensor, run: LayerRun) -> torch.Tensor:
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
class _ExpertProbe:
    """What a probe is shown of experts; see `nn.gates.Probe`."""

    experts_ble: torch.Tensor
    routed_ble: torch.Tensor
    ffn_b1ef: torch.Tensor
    weights_bl: torch.Tensor | None

    @classmethod
    def of(cls, x_bld: torch.Tensor, run: LayerRun) -> _ExpertProbe:
        experts, ffn = run.w.layer.widths[EXPERTS], run.w.layer.widths[EXPERT_FFN]
        made = partial(torch.zeros, dtype=work_dtype(x_bld), device=x_bld.device)
        batch, length = x_bld.shape[:2]
        weights_bl = getattr(run.probe, "weights_bl", None)
        return cls(
            made(batch, length, experts), made(batch, length, experts), made(batch, 1, experts, ffn), weights_bl
        )

    def add(self, expert: int, at_n: torch.Tensor, h_nf: torch.Tensor, y_ni: torch.Tensor) -> None:
        length = self.experts_ble.shape[1]
        self.experts_ble.flatten(0, 1)[at_n, expert] = y_ni.detach().norm(dim=1)
        self.routed_ble.flatten(0, 1)[at_n, expert] = 1
        h_nf = h_nf.detach().abs().to(self.ffn_b1ef) / length
        if self.weights_bl is not None:
            h_nf = h_nf * self.weights_bl.flatten()[at_n, None]
        self.ffn_b1ef[:, 0, expert].index_add_(0, at_n // length, h_nf)

    def show(self, run: LayerRun) -> None:
        run.watch("experts", self.experts_ble)
        run.watch("routed", self.routed_ble)
        run.watch("expert_ffn", self.ffn_b1ef)


#: (normalised stream [b, l, d], run) -> what the layer adds [b, l, d]
Mixer = Callable[[torch.Tensor, LayerRun], torch.Tensor]
#: name of a kind -> its forward
MIXERS: dict[str, Mixer] = {MAMBA: mamba, MLP: mlp, ATTENTION: attention, MOE: moe}
