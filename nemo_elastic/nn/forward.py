# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The forward of Nemotron-H, as functions of weights: sliced, gated at full size, or one token at a time.

Where gates apply (method §5): the hidden gate on the token embedding, on every norm's weight and on the rows of every
output projection, while norms average over its sum; a width's gate on the columns of the output projection; a Mamba
channel's gate also on the z and x rows of the input projection and on y before the gated norm, which averages over the
sum of the gates of each group. B, C, dt, A, D and dt_bias have none. All of it is done on activations: gating the
rows of a weight is gating what it puts out, gating its columns is gating what goes in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.attention import ATTENTION, ATTENTION_HEADS
from nemo_elastic.core.kinds.mamba import MAMBA, MAMBA_HEAD_DIM, MAMBA_HEADS
from nemo_elastic.core.kinds.mlp import FFN, MLP
from nemo_elastic.core.kinds.moe import MOE
from nemo_elastic.errors import bad
from nemo_elastic.kernels import MambaWidths
from nemo_elastic.nn.attention import causal_attention
from nemo_elastic.nn.cache import Cache, KeyValueState, MambaState, State
from nemo_elastic.nn.conv import causal_conv1d
from nemo_elastic.nn.dtype import work_dtype
from nemo_elastic.nn.gates import Gates, LayerGates, Probe
from nemo_elastic.nn.moe import moe
from nemo_elastic.nn.norm import gated_rms_norm, rms_norm
from nemo_elastic.nn.ssd import ssd_chunked, ssd_step
from nemo_elastic.nn.weights import LayerWeights, Weights


def forward(
    weights: Weights,
    tokens_bl: torch.Tensor,
    gates: Gates | None = None,
    probe: Probe | None = None,
    cache: Cache | None = None,
    last: bool = False,
) -> torch.Tensor:
    """Logits of every token of a batch.

    Args:
        weights: of the member that runs; of the whole parent where there are gates.
        tokens_bl: token ids [b, l].
        gates: multiply by them at full size.
        probe: shown the activations that `nn.gates.Probe` lists.
        cache: state after the tokens before these, of the same member; moved on in place, so there are no gradients.
        last: compute the logits of the last position only.

    Returns:
        Logits [b, l, v], or [b, 1, v] with `last`, in the dtype of the weights.

    Raises:
        ElasticError: the cache belongs to another member or batch size, or comes with gates.
    """
    if cache is not None:
        if gates is not None:
            raise bad("cache", "Gates", "decoding runs a slice: give a Subnet")
        if cache.member != weights.member:
            raise bad(
                "cache", f"member of {len(cache.member.layers)} layers", "the member that runs must have made it"
            )
        if cache.batch != tokens_bl.shape[0]:
            raise bad("cache", f"batch of {cache.batch}", f"the tokens are a batch of {tokens_bl.shape[0]}")
    with torch.set_grad_enabled(torch.is_grad_enabled() and cache is None):
        return _forward(weights, tokens_bl, gates, probe, cache, last)


def _forward(
    weights: Weights,
    tokens_bl: torch.Tensor,
    gates: Gates | None,
    probe: Probe | None,
    cache: Cache | None,
    last: bool,
) -> torch.Tensor:
    model = Layers(weights, gates, cache)
    x_bld = model.embed(tokens_bl)
    for index in model.indices:
        x_bld = model.layer(index, x_bld, probe)
    if cache is not None:
        cache.advance(tokens_bl.shape[1])
    return model.head(model.norm(x_bld[:, -1:] if last else x_bld, probe))


class Layers:
    """A model taken apart: embed, the layers one by one, norm, head. In a row they are `forward`.

    Ranking runs some layers on a stream that others left (`ranking.layered.Layered`).

    Args:
        weights: of the member that runs; of the whole parent where there are gates.
        gates, cache: as in `forward`; the caller calls the cache's `advance`.

    Attributes:
        indices: the layers there are, by their number in the parent.
    """

    def __init__(self, weights: Weights, gates: Gates | None = None, cache: Cache | None = None) -> None:
        self.weights, self.gates, self.cache = weights, gates, cache
        self._layers = {w.layer.index: w for w in weights.layers}
        self._gate = self._count = None
        if gates is not None:
            self._gate, self._count = gates.hidden.to(weights.embedding.dtype), gates.hidden.sum()

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(self._layers)

    def embed(self, tokens_bl: torch.Tensor) -> torch.Tensor:
        """Token ids [b, l] to the stream that enters the first layer, [b, l, d]."""
        x_bld = F.embedding(tokens_bl, self.weights.embedding)
        return x_bld if self._gate is None else x_bld * self._gate

    def layer(self, index: int, x_bld: torch.Tensor, probe: Probe | None = None) -> torch.Tensor:
        """The stream after layer `index` of the parent from the stream before it; that one is left as it is."""
        w, gates, cache = self._layers[index], self.gates, self.cache
        run = LayerRun(
            self.weights.parent,
            w,
            gates.layers[index] if gates is not None else None,
            probe,
            cache.layers.get(index) if cache is not None else None,
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
        weight = weight if self._gate is None else weight * self._gate
        y_bld = rms_norm(x_bld, weight, self.weights.parent.norm_eps, self._count)
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
    y_blhd = causal_attention(q_bhld, k_bgld, v_bgld, past_len).transpose(1, 2)
    run.watch("attention", y_blhd)
    if run.gates is not None:
        y_blhd = y_blhd * run.gates[ATTENTION_HEADS].to(y_blhd.dtype)[:, None]
    return run.w.linear("out", y_blhd.flatten(2))


def mamba(x_bld: torch.Tensor, run: LayerRun) -> torch.Tensor:
    """Mamba-2: input projection [z | x | B | C | dt], convolution, scan, gated norm, output projection."""
    w, parent = run.w, run.parent
    groups, heads, head_dim = parent.mamba_groups, *(w.layer.widths[axis] for axis in (MAMBA_HEADS, MAMBA_HEAD_DIM))
    widths = MambaWidths(heads, head_dim, groups, parent.state)
    z_bli, xbc_blc, dt_blh = widths.split(w.linear("in_proj", x_bld))
    gate_i = count_g = None
    if run.gates is not None:
        channels = run.gates.channels(MAMBA_HEADS, MAMBA_HEAD_DIM)
        gate_i = channels.to(z_bli.dtype)
        count_g = channels.unflatten(0, (groups, -1)).sum(-1)
        z_bli = z_bli * gate_i
        xbc_blc = xbc_blc * torch.cat([gate_i, gate_i.new_ones(widths.convolved - widths.inner)])
    run.watch("mamba_x", widths.scanned(xbc_blc)[0])

    mamba_state = run.state if isinstance(run.state, MambaState) else None
    conv_bck = None if mamba_state is None else mamba_state.conv_bck
    if mamba_state is not None:
        mamba_state.see(xbc_blc)
    xbc_blc, conv_bck = causal_conv1d(xbc_blc, w["conv_weight"], w["conv_bias"], conv_bck, return_state=True)
    if mamba_state is not None:
        mamba_state.conv_bck = conv_bck
    x_blhp, b_blgn, c_blgn = widths.scanned(xbc_blc)
    y_blhp = _scan(x_blhp, dt_blh, b_blgn, c_blgn, w, mamba_state)
    y_bli = y_blhp.flatten(2)
    if gate_i is None:
        y_bli = gated_rms_norm(y_bli, z_bli, w["norm"], groups, parent.norm_eps)
    else:
        y_bli = gated_rms_norm(y_bli * gate_i, z_bli, w["norm"], groups, parent.norm_eps, count_g) * gate_i
    return w.linear("out_proj", y_bli)


def _scan(
    x_blhp: torch.Tensor,
    dt_blh: torch.Tensor,
    b_blgn: torch.Tensor,
    c_blgn: torch.Tensor,
    w: LayerWeights,
    state: MambaState | None,
) -> torch.Tensor:
    """The scan over a sequence, from the state that there is and moving it on."""
    a_h = -w["a_log"].to(work_dtype(w["a_log"])).exp()
    d_h, dt_bias_h = w["d"], w["dt_bias"]
    if state is not None and (x_blhp.shape[1] == 1 or state.trail is not None):
        y = []
        for x_bhp, dt_bh, b_bgn, c_bgn in zip(*(t.unbind(1) for t in (x_blhp, dt_blh, b_blgn, c_blgn)), strict=True):
            y_bhp, after = ssd_step(x_bhp, dt_bh, a_h, b_bgn, c_bgn, d_h, dt_bias_h, state.ssm_bhpn)
            state.move(after)
            y.append(y_bhp)
        return torch.stack(y, 1)
    before = None if state is None else state.ssm_bhpn
    y_blhp, after = ssd_chunked(x_blhp, dt_blh, a_h, b_blgn, c_blgn, d_h, dt_bias_h, None, before, True)
    if state is not None:
        state.move(after)
    return y_blhp


#: (normalised stream [b, l, d], run) -> what the layer adds [b, l, d]
Mixer = Callable[[torch.Tensor, LayerRun], torch.Tensor]
#: name of a kind -> its forward
MIXERS: dict[str, Mixer] = {MAMBA: mamba, MLP: mlp, ATTENTION: attention, MOE: moe}
