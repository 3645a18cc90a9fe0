# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Experts of served members by one product over all of them, as on a GPU; `tests/vllm` runs the loop of a CPU.

vLLM's kernel takes its place's arguments here in plain torch.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nemo_elastic.core.layout import by_name, originals
from nemo_elastic.nn.forward import LayerRun, moe
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import FamilyRuntime
from tests.serving.engine.beside import beside_vllm
from tests.vllm.families import EXPERTS, LATENT

FUSED = "vllm.model_executor.layers.fused_moe"
#: expert channels in stripes: those of a smaller member are no prefix of a larger one's
STRIPED = replace(EXPERTS, expert_ffn_stripes=4)


def fused_experts(
    hidden_states: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    activation: str,
) -> torch.Tensor:
    """vLLM's arguments and its checks of them (`fused_experts_impl` of 0.32.0); each token by itself."""
    assert hidden_states.is_contiguous() and hidden_states.size(1) == w1.size(2)
    assert topk_weights.size() == topk_ids.size() and activation == "relu2_no_mul"
    assert w1.stride(-1) == 1 == w2.stride(-1) and topk_ids.dtype == torch.int32
    assert topk_weights.dtype == torch.float32 and topk_ids.max() < w1.size(0)
    out = torch.zeros_like(hidden_states)
    for slot in range(topk_ids.size(1)):
        up, down = w1[topk_ids[:, slot]], w2[topk_ids[:, slot]]
        inner = torch.einsum("tik,tk->ti", up, hidden_states).relu().square()
        out += torch.einsum("tki,ti->tk", down, inner) * topk_weights[:, slot, None]
    return out


HAS = {
    "vllm.config": {
        "get_current_vllm_config": lambda: SimpleNamespace(
            compilation_config=SimpleNamespace(static_forward_context={})
        )
    },
    f"{FUSED}.activation": {"MoEActivation": SimpleNamespace(RELU2_NO_MUL="relu2_no_mul")},
    f"{FUSED}.fused_moe": {"fused_experts": fused_experts},
}


@pytest.mark.parametrize("parent", [EXPERTS, LATENT, STRIPED], ids=["experts", "latent experts", "stripes"])
def test_all_experts_at_once_are_the_runtimes(parent: Any) -> None:
    narrow = {"latent": 32} if parent is LATENT else {}
    members = {
        "large": parent.full,
        "middle": parent.uniform(hidden=112, experts=6, expert_ffn=64, shared_ffn=120, **narrow),
        "small": parent.uniform(hidden=96, experts=4, expert_ffn=32, shared_ffn=80, **narrow),
    }
    between = {"between": parent.uniform(hidden=104, experts=6, expert_ffn=48, **narrow)}
    model = NemotronH.random(parent)
    expected = FamilyRuntime(model, members, extras=between)
    served = FamilyRuntime(model, members, extras=between, copy=True)
    stacks = served.stack_experts()
    memory = served.nbytes
    with beside_vllm("experts", HAS) as module:
        for name, subnet in served.members.items():
            for at, layer in enumerate(subnet.layers):
                if layer.type != "moe":
                    continue
                weights, up, down = served.select(name).weights.layers[at], *stacks[layer.index]
                experts = module.Experts(f"{name}.{at}")
                kept = originals(parent, by_name("moe.up"), served.held, subnet, layer.index)
                experts.read(parent, weights, up, down, kept)
                x_td = torch.randn(9, subnet.hidden, generator=torch.Generator().manual_seed(at))
                run = LayerRun(parent, expected.select(name).weights.layers[at], None, None, None)
                wanted = moe(x_td[None], run)[0]
                torch.testing.assert_close(moe(x_td[None], experts.run, experts.grouped)[0], wanted)
                torch.testing.assert_close(experts.mix(x_td), wanted)
                assert experts.up_eik.data_ptr() == up.data_ptr() and experts.down_eki.data_ptr() == down.data_ptr()
                assert weights["up.0"].untyped_storage().data_ptr() == up.data_ptr(), "the loop reads them, too"
    assert served.nbytes == memory == expected.nbytes
