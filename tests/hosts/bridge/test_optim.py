# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What one optimizer wrote of groups is what two load, and the reverse; `test_experts` trains with it."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_elastic.errors import ElasticError

KIND = {"param_state_sharding_type": "fully_reshardable"}
STATES: dict[str, Any] = {"param_state": {"weight": 1.0}}


def groups(*each: tuple[float, bool]) -> dict[str, Any]:
    return {"optimizer": {"param_groups": [{"lr": lr, "step": 3, "is_expert_parallel": own} for lr, own in each]}}


def test_two_load_what_one_wrote() -> None:
    from nemo_elastic.hosts.bridge.optim import regrouped

    written = KIND | groups((0.1, False), (0.2, False))
    result = regrouped({0: {"param_state": "a"}, 1: {"param_state": "b"}} | written, [False, True])
    assert result == {
        0: {"param_state": "a"} | written,
        1: {"param_state": "b"} | KIND | groups((0.1, True), (0.2, True)),
    }


def test_one_loads_what_two_wrote() -> None:
    from nemo_elastic.hosts.bridge.optim import regrouped

    written = {0: KIND | groups((0.1, False)), 1: KIND | groups((0.2, True))}
    assert regrouped(written, [False, True]) is written, "what as many wrote is left alone"
    result = regrouped(STATES | written, [False])
    assert result == STATES | KIND | groups((0.2, False), (0.1, False))  # of groups that are alike the last counts


@pytest.mark.parametrize(
    ("state", "shared"),
    [
        ({0: STATES, 1: STATES, "param_groups": []}, [False, True]),
        (STATES | {i: groups((0.1, bool(i))) for i in (0, 1)}, [False]),
    ],
    ids=["one wrote it", "two wrote it"],
)
def test_states_by_another_key_are_refused(state: Any, shared: list[bool]) -> None:
    from nemo_elastic.hosts.bridge.optim import regrouped

    with pytest.raises(ElasticError, match=r"^recipe\.model\.expert_model_parallel_size: "):
        regrouped(state, shared)
