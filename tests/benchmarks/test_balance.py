# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The rules of the study of the bias that balances experts: what a member's tokens count for."""

from __future__ import annotations

import pytest
import torch

from nemo_elastic.core.layout import selection
from tests.shapes import MOE

pytestmark = pytest.mark.nemo
pytest.importorskip("megatron.core.models.hybrid", reason="megatron-core 0.15 has no experts in a hybrid")


@pytest.mark.parametrize("rule", ["whole", "every", "even"])
def test_a_rule_counts_the_tokens_that_it_says(rule: str) -> None:
    from benchmarks.study.balance import SPECS
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from tests.megatron.models import logits_and_grads
    from tests.megatron.moe import member_of, row_of, tokens_of
    from tests.support.models import build, start

    start()
    model = build(MOE, spec=SPECS[rule]()).train()
    router, tokens, member = model.decoder.layers[1].mlp.router, tokens_of(MOE), member_of(MOE)
    sent = MOE.size("top_k") * tokens.numel()
    logits_and_grads(model, tokens, None)
    assert router.local_tokens_per_expert.sum() == sent  # once, whatever the rule
    router.local_tokens_per_expert.zero_()
    logits_and_grads(model, tokens, member)
    actual = router.local_tokens_per_expert.clone()
    kept = torch.from_numpy(selection(MOE, row_of(MOE, "moe.gate"), 0, MOE.full, member, 1).mask())
    if rule == "whole":
        assert not actual.any()
    if rule == "every":
        assert actual.sum() == actual[kept].sum() == sent
    if rule == "even":
        assert actual[kept].sum() == kept.sum() * sent
        assert (actual[~kept] == actual.mean()).all() and actual.mean() == actual[kept].mean() == sent
    with torch.no_grad(), cuda_as_cpu():
        model(tokens, None, None)
    assert torch.equal(router.local_tokens_per_expert, actual), "an evaluation moves nothing"
