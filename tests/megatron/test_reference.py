# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The megatron-core model against the reference in plain torch, which is itself held against transformers."""

from __future__ import annotations

import pytest
import torch

from nemo_elastic.formats.adapter import from_megatron, to_megatron
from nemo_elastic.megatron.compat import named_parameters
from nemo_elastic.nn.gates import Gates, LayerGates
from nemo_elastic.nn.nemotron_h import NemotronH

from .models import build, randomise, start
from .test_parity import PARENTS, tokens_of

pytestmark = pytest.mark.nemo


@pytest.mark.parametrize("parent", PARENTS, ids=lambda p: p.pattern)
def test_same_logits_whole_sliced_and_gated(parent: object) -> None:
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start()
    model = build(parent)
    randomise(model)
    state = {n: p.detach() for n, p in named_parameters(model)}
    hf = from_megatron(parent, parent.full, state)
    assert {n: t.shape for n, t in to_megatron(parent, parent.full, hf).items()} == {
        n: t.shape for n, t in state.items()
    }
    reference = NemotronH(parent, hf)
    tokens = tokens_of(parent)
    half = {a: max(parent.axis(a).blocks, parent.axis(a).size // 2 // parent.axis(a).blocks * parent.axis(a).blocks)
            for a in ("hidden", "ffn", "mamba_heads", "mamba_head_dim", "attention_heads")}  # fmt: skip
    member = parent.uniform(keep=range(parent.num_layers - 1), **half)
    hard = Gates.of(parent, member)
    soft = Gates(
        0.2 + 0.8 * hard.hidden,
        tuple(LayerGates(0.5 + 0.5 * x.keep, {a: 0.3 + 0.7 * t for a, t in x.widths.items()}) for x in hard.layers),
    )
    for choice in (None, member, hard, soft):
        model.state.choice = choice
        with torch.no_grad(), cuda_as_cpu():
            got = model(tokens, None, None)
            want = reference(tokens, choice)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
