# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Mamba layers of vLLM 0.32 where tokens are drafted: what goes wrong there for a family, and on a CPU for any model.

A step then reads several tokens of a request, and the next one begins behind those that stayed. vLLM knows how many
that were, but a request that waits for other members' turns leaves its batch, where the number is kept
(`remember_accepted`); and its kernels for a CPU do not look at it (`conv_update` and `scan_update` do, in torch).

t: tokens of a step, r: requests, q: the most tokens of a request, c: channels, k: the convolution's kernel,
s: inputs of it that are kept, h: heads, p: channels of a head, g: groups, n: state.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F

_DONE = "_nemo_elastic_accepted"


def remember_accepted(runner: Any) -> None:
    """Let a runner know of each request how many tokens stayed, wherever the request was meanwhile."""
    if getattr(runner, _DONE, False):
        return
    kept: dict[str, int] = {}
    update, after = runner._update_states, runner._update_states_after_model_execute

    @wraps(update)
    def update_states(scheduler_output: Any) -> Any:
        done, batch = update(scheduler_output), runner.input_batch
        for gone in scheduler_output.finished_req_ids:
            kept.pop(gone, None)
        for request_id, row in batch.req_id_to_index.items():
            batch.num_accepted_tokens_cpu[row] = kept.get(request_id, 1)
        return done

    @wraps(after)
    def update_states_after(*args: Any, **named: Any) -> None:
        after(*args, **named)
        runner.num_accepted_tokens_event.synchronize()
        batch = runner.input_batch
        kept.update({i: int(batch.num_accepted_tokens_cpu[row]) for i, row in batch.req_id_to_index.items()})

    runner._update_states, runner._update_states_after_model_execute = update_states, update_states_after
    setattr(runner, _DONE, True)


def patch_cpu() -> None:
    """Let vLLM's mixers use these on a CPU, where they are asked to begin behind what stayed."""
    from vllm.model_executor.layers.mamba import mamba_mixer2

    if getattr(mamba_mixer2, _DONE, False):
        return
    for name, ours in (("causal_conv1d_update", conv_update), ("selective_state_update", scan_update)):
        setattr(mamba_mixer2, name, _either(getattr(mamba_mixer2, name), ours))
    setattr(mamba_mixer2, _DONE, True)


def _either(theirs: Any, ours: Any) -> Any:
    @wraps(theirs)
    def chosen(*args: Any, num_accepted_tokens: torch.Tensor | None = None, **named: Any) -> Any:
        if num_accepted_tokens is None:
            return theirs(*args, **named)
        return ours(*args, num_accepted_tokens=num_accepted_tokens, **named)

    return chosen


def _rows(starts_r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the tokens of each request are [r, q], and which of those places are some [r, q]."""
    lengths_r = starts_r.diff().long()
    place_q = torch.arange(int(lengths_r.max()), device=starts_r.device)
    there_rq = place_q < lengths_r[:, None]
    return (starts_r[:-1, None] + place_q).clamp(max=int(starts_r[-1]) - 1).long(), there_rq


def conv_update(
    x_tc: torch.Tensor,
    conv_state: torch.Tensor,
    weight_ck: torch.Tensor,
    bias_c: torch.Tensor | None,
    activation: str | None,
    *,
    conv_state_indices: torch.Tensor,
    num_accepted_tokens: torch.Tensor,
    query_start_loc: torch.Tensor,
    **_: Any,
) -> torch.Tensor:
    """The convolution over a step's tokens; its state [slots, c, s] then holds all of them, behind those before.

    The arguments are those of vLLM's `causal_conv1d_update`.
    """
    at_rq, there_rq = _rows(query_start_loc)
    slots_r, past = conv_state_indices[:, 0].long(), weight_ck.shape[1] - 1
    first_r = num_accepted_tokens.long() - 1
    state_rcs = conv_state[slots_r]
    window_rs = first_r[:, None] + torch.arange(past, device=x_tc.device)
    before_rcs = state_rcs.gather(2, window_rs[:, None].expand(-1, state_rcs.shape[1], -1))
    seen_rcl = torch.cat([before_rcs, x_tc[at_rq].transpose(1, 2).to(state_rcs.dtype)], 2)
    y_rcq = (seen_rcl.float().unfold(2, past + 1, 1) * weight_ck.float()[:, None]).sum(-1)
    if bias_c is not None:
        y_rcq = y_rcq + bias_c.float()[:, None]
    if activation in ("silu", "swish"):
        y_rcq = F.silu(y_rcq)
    out_tc = torch.empty_like(x_tc)
    out_tc[at_rq[there_rq]] = y_rcq.transpose(1, 2)[there_rq].to(out_tc.dtype)
    kept_rcs = seen_rcl[:, :, 1:]
    state_rcs[:, :, : kept_rcs.shape[2]] = kept_rcs
    conv_state[slots_r] = state_rcs
    return out_tc


def scan_update(
    state: torch.Tensor,
    x_thp: torch.Tensor,
    dt_thp: torch.Tensor,
    a_hpn: torch.Tensor,
    b_tgn: torch.Tensor,
    c_tgn: torch.Tensor,
    d_hp: torch.Tensor,
    dt_bias_hp: torch.Tensor,
    *,
    state_batch_indices: torch.Tensor,
    num_accepted_tokens: torch.Tensor,
    cu_seqlens: torch.Tensor,
    out: torch.Tensor,
    **_: Any,
) -> None:
    """The scan over a step's tokens; the state behind each of them goes into a slot of its own.

    The arguments are those of vLLM's `selective_state_update`, with `dt_softplus`.
    """
    at_rq, there_rq = _rows(cu_seqlens)
    slots_rq, first_r = state_batch_indices.long(), num_accepted_tokens.long() - 1
    state_rhpn = state[slots_rq.gather(1, first_r[:, None])[:, 0]].float()
    share = x_thp.shape[1] // b_tgn.shape[1]
    for q in range(there_rq.shape[1]):
        on_r = there_rq[:, q]
        at_r = at_rq[on_r, q]
        dt_rhp = F.softplus(dt_thp[at_r].float() + dt_bias_hp.float())
        b_rhn, c_rhn = (t[at_r].float().repeat_interleave(share, 1) for t in (b_tgn, c_tgn))
        x_rhp = x_thp[at_r].float()
        moved = state_rhpn[on_r] * torch.exp(dt_rhp[..., None] * a_hpn.float())
        moved = moved + (dt_rhp * x_rhp)[..., None] * b_rhn[:, :, None]
        out[at_r] = ((moved * c_rhn[:, :, None]).sum(-1) + d_hp.float() * x_rhp).to(out.dtype)
        state[slots_rq[on_r, q]] = moved.to(state.dtype)
        state_rhpn[on_r] = moved
