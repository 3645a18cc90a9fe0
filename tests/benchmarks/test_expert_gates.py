# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Ways of gating experts: all of them are the member where gates are 0 and 1; what is printed is what was measured."""

from __future__ import annotations

import pytest
import torch

from benchmarks.expert_gates import BUDGETS, CHOICES, GATES, PARENT, WAYS, budgets, gated, member_of, table
from nemo_elastic.config.sections import RouterConfig
from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.router import Router
from nemo_elastic.search import Space

TOKENS = torch.randint(PARENT.vocab, (2, 33), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", WAYS)
def test_a_way_of_gating_is_the_member_where_gates_are_hard(name: str) -> None:
    model, member, seen = NemotronH.random(PARENT, dtype=torch.float64), member_of((16, 12, 4, 8)), []
    with gated(WAYS[name], seen):
        masked = model(TOKENS, Gates.of(PARENT, member, dtype=torch.float64))
    assert torch.allclose(masked, model(TOKENS, member), rtol=1e-9, atol=1e-9)
    assert [int(x.sum()) for x in seen] == [2 * TOKENS.numel()] * 4
    assert not seen[2][:, 4:].any() and seen[2][:, :4].any()


def test_a_mixture_is_what_is_expected_over_the_choices_of_one_layer() -> None:
    """For one layer it is linear in the probabilities: between two members where each has a half."""
    axes = {"experts": AxisConfig((16, 8), per_layer=True, stripes=1)}
    router = Router(Space(PARENT, axes), budgets(), RouterConfig(init_std=0.0))
    gates, model = router.gates("50").gates, NemotronH.random(PARENT, dtype=torch.float64)
    assert set(gates.layers[1].widths["experts"].tolist()) == {0.5, 1.0}
    seen: dict[int, list[torch.Tensor]] = {}
    probe = lambda site, i, x: seen.setdefault(i, []).append(x) if site == "layer_out" else None  # noqa: E731
    with torch.no_grad(), gated(WAYS["choices mixed"]):
        model(TOKENS, gates, probe)
        for widths in ((16, 16, 16, 16), (8, 16, 16, 16)):
            model(TOKENS, Gates.of(PARENT, member_of(widths)), probe)
    mixed, whole, half = seen[1]
    assert torch.allclose(mixed, (whole + half) / 2, rtol=1e-9) and not torch.allclose(whole, half)


def test_the_tables_have_every_way_and_its_mean_over_seeds() -> None:
    curve = [{"gate": g, "kl": 1 - g, "slope": -1.0, "share": g / 2, "slots": 2.0} for g in GATES]
    rows = [{name: {"kl": kl, "raw": 1.0} for name in BUDGETS} for kl in (0.1, 0.3)]
    actual = {
        "response": {"way": curve},
        "learned": {"way": rows},
        "reference": {"best": dict.fromkeys(BUDGETS, 0.05)},
    }
    report = table(actual)
    assert (
        "| way | KL, nats | 0.000 | 0.100 |" in report
        and "| way | 0.2000 ± 0.1000 | 0.2000 ± 0.1000 | 2.00 |" in report
    )
    assert "| best | 0.0500 | 0.0500 | |" in report and len(CHOICES) ** 4 == 256
