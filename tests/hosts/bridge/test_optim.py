# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One optimizer loads what two wrote, and the reverse, each into its recipe's groups; see also `test_experts`."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_elastic.errors import ElasticError

KIND = {"param_state_sharding_type": "fully_reshardable"}
STATES: dict[str, Any] = {"param_state": {"weight": 1.0}}


def groups(*each: tuple[float, bool]) -> dict[str, Any]:
    return {"optimizer": {"param_groups": [{"lr": lr, "step": 3, "is_expert_parallel": own} for lr, own in each]}}


def now(*each: tuple[float, bool]) -> list[dict[str, Any]]:
    """The recipe's groups."""
    return [{"lr": lr, "is_expert_parallel": own} for lr, own in each]


def test_two_load_what_one_wrote() -> None:
    from nemo_elastic.hosts.bridge.optim import regrouped

    written = KIND | groups((0.1, False), (0.2, False))
    own = [now((0.3, False), (0.4, False), (0.5, False)), now((0.6, True))]
    result = regrouped({0: {"param_state": "a"}, 1: {"param_state": "b"}} | written, own)
    assert result == {
        0: {"param_state": "a"} | KIND | groups((0.3, False), (0.4, False), (0.5, False)),
        1: {"param_state": "b"} | KIND | groups((0.6, True)),
    }


def test_one_loads_what_two_wrote() -> None:
    from nemo_elastic.hosts.bridge.optim import regrouped

    written = {0: KIND | groups((0.1, False)), 1: KIND | groups((0.2, True))}
    assert regrouped(written, [now((0.1, False)), now((0.2, True))]) == written
    result = regrouped(STATES | written, [now((0.3, False), (0.4, False))])
    assert result == STATES | KIND | groups((0.3, False), (0.4, False))


def test_states_that_each_weight_has_keep_their_places() -> None:
    from nemo_elastic.hosts.bridge.optim import regrouped

    state = {"state": {0: "a"}, "param_groups": [{"lr": 0.1, "params": [0]}, {"lr": 0.2, "params": [1]}]}
    result = regrouped(state, [[{"lr": 0.3, "params": "weights"}, {"lr": 0.4, "params": "weights"}]])
    assert result == {"state": {0: "a"}, "param_groups": [{"lr": 0.3, "params": [0]}, {"lr": 0.4, "params": [1]}]}


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
        regrouped(state, [now((0.1, each)) for each in shared])
