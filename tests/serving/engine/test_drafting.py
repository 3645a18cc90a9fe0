# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""For whom a member drafts: for greedy requests of larger ones that nobody else may go on with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nemo_elastic.serving.engine.drafting import Drafting, DraftingWorker
from nemo_elastic.serving.names import Choice
from nemo_elastic.serving.pairs import Pairs


def asked(name: str, temperature: float = 0) -> Any:
    sampling = SimpleNamespace(temperature=temperature, extra_args=None)
    return SimpleNamespace(request_id=name, sampling_params=sampling, spec_token_ids=[4, 5])


def drafted_for(member: str, *requests: Any) -> list[str]:
    pairs = Pairs((7,))
    for request in requests:
        pairs.take(request, Choice("6b", "12b") if request.request_id == "pair" else Choice(member))
    hook, output = Drafting(["12b", "9b"], [pairs]), SimpleNamespace(num_scheduled_tokens={})
    output.num_scheduled_tokens = {request.request_id: 1 for request in requests}
    hook.before_step(member, requests)
    hook.plan(output, {})
    return output.drafting


def test_for_larger_members_and_where_it_is_clear_who_answers() -> None:
    assert drafted_for("12b", asked("a"), asked("b"), asked("pair")) == ["a", "b"]
    assert drafted_for("6b", asked("a")) == []


def test_beside_a_request_that_samples_its_tokens_nothing_is_drafted() -> None:
    requests = [asked("a"), asked("samples", 0.7)]
    assert drafted_for("12b", *requests) == [] and [r.spec_token_ids for r in requests] == [[], []]
    assert drafted_for("6b", *(requests := [asked("samples", 0.7)])) == []
    assert requests[0].spec_token_ids == [4, 5], "those of another member stay"


def test_the_member_that_drafts_learns_for_whom() -> None:
    steps: list[Any] = []
    runner = SimpleNamespace(device=SimpleNamespace(type="cuda"), input_batch="batch")
    runner._update_states = runner._update_states_after_model_execute = lambda *_: None
    runner.drafter = SimpleNamespace(begin_step=lambda *given: steps.append(given))
    hook = DraftingWorker(SimpleNamespace(model_runner=runner))
    hook.before_step(SimpleNamespace(drafting=["a"], finished_req_ids={"b"}))
    hook.before_step(SimpleNamespace(finished_req_ids=set()))  # of vLLM's own, before the first request
    assert steps == [("batch", ["a"], {"b"}), ("batch", (), set())]
