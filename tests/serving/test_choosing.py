# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Who answers a request for `auto`: signals are read where the prompt ends, and one choice follows from them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nemo_elastic.serving.calibration import signals
from nemo_elastic.serving.choosing import Choosing, PromptTail, SignalReader
from nemo_elastic.serving.names import Choice

IDS = [3, 1, 4, 1, 5, 2, 6, 5, 3]
LOGITS = torch.randn(9, 8, generator=torch.Generator().manual_seed(0))
TAIL = 4


class Worker:
    """Of a model whose hidden states are its logits: those of position `i` of the prompt are row `i`."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(compute_logits=lambda hidden: hidden, hidden=None)
        self.model_runner = SimpleNamespace(input_batch=SimpleNamespace(req_id_to_index={"other": 0, "a": 1}))

    def get_model(self) -> Any:
        return self.model

    def read(self, first: int, stop: int) -> None:
        others = torch.zeros(3, LOGITS.shape[1])  # of another request in the same step, before this one
        self.model.hidden = torch.cat([others, LOGITS[first:stop]])
        self.model_runner.query_start_loc = SimpleNamespace(np=np.array([0, 3, 3 + stop - first]))


def read(cuts: list[int]) -> tuple[Any, SignalReader]:
    """Signals of a prompt of 9 tokens that is read up to each of the cuts; a cut at 0 begins anew."""
    worker = Worker()
    hook, start, output = SignalReader(worker), 0, SimpleNamespace()
    for stop in cuts:
        start = min(start, stop)
        begin = max(start, 9 - TAIL)
        parts = {"a": PromptTail(IDS[9 - TAIL :], 9, begin - 9 + TAIL, stop - begin)} if stop > begin else {}
        worker.read(start, stop)
        hook.after_step(SimpleNamespace(undecided=parts, finished_req_ids=()))
        hook.write(output)
        start = stop
    return getattr(output, "signals", None), hook


@pytest.mark.parametrize("cuts", [[9], [5, 9], [6, 7, 8, 9]])
def test_the_end_of_a_prompt_is_judged_whole_in_however_many_steps_it_is_read(cuts: list[int]) -> None:
    assert read(cuts)[0]["a"] == pytest.approx(signals(LOGITS[5:], IDS[5:], 9))


def test_a_prompt_that_is_read_again_is_judged_by_what_was_read_last() -> None:
    seen, hook = read([7, 0, 6, 9])
    assert seen["a"] == pytest.approx(signals(LOGITS[5:], IDS[5:], 9)) and hook.tails == {}


def test_of_a_prompt_that_is_gone_nothing_is_kept() -> None:
    seen, hook = read([7])
    assert seen is None and list(hook.tails) == ["a"]
    hook.after_step(SimpleNamespace(finished_req_ids={"a"}))
    assert hook.tails == {}


class Calibrated:
    """Signals above the cost setting ask for the largest of two members."""

    members = ("6b", "12b")

    def choose(self, signals_ns: np.ndarray, cost: float) -> np.ndarray:
        return (signals_ns[:, 0] > cost).astype(int)


def prompt(name: str, length: int = 40) -> Any:
    return SimpleNamespace(request_id=name, prompt_token_ids=list(range(length)), num_computed_tokens=length)


def choosing(**costs: float | None) -> tuple[Choosing, dict[str, Any]]:
    hook, requests = Choosing(Calibrated()), {}  # pyright: ignore[reportArgumentType]
    for name, cost in costs.items():
        requests[name] = prompt(name)
        hook.take(requests[name], Choice("12b" if cost == 1 else "6b", cost=cost))
    return hook, requests


def test_the_end_of_a_prompt_goes_to_the_worker_as_far_as_the_step_reads_it() -> None:
    hook, requests = choosing(a=0.5, b=0.5, client=None, least=0)
    requests["b"].num_computed_tokens = 30
    output = SimpleNamespace(num_scheduled_tokens={"a": 10, "b": 20, "client": 40, "least": 40})
    hook.plan(output, requests)
    assert output.undecided == {
        "a": PromptTail(list(range(24, 40)), 40, 6, 10),
        "b": PromptTail([*range(24, 40)], 40, 0, 6),
    }
    assert output.undecided["a"].is_last and not output.undecided["b"].is_last


def test_one_choice_follows_and_answers_say_who_gave_them() -> None:
    hook, requests = choosing(easy=0.5, hard=0.5, client=None, most=1)
    result = SimpleNamespace(
        signals={"easy": [0.2], "hard": [0.9], "gone": [0.9]}, req_id_to_index={"easy": 0, "hard": 1},
        sampled_token_ids=[[5], [6]], prompt_logprobs_dict={"hard": 1.0},
    )  # fmt: skip
    hook.before_update(result, requests)
    assert result.sampled_token_ids == [[5], []] and result.prompt_logprobs_dict == {"hard": None}
    outputs = [SimpleNamespace(request_id=name, kv_transfer_params=None) for name in requests]
    assert hook.after_update(outputs, requests.get) == {"hard": "12b"}
    hook.before_update(SimpleNamespace(), requests)
    hook.forget("hard")  # it ends with this step
    assert hook.after_update(outputs, requests.get) == {}
    named = {o.request_id: o.kv_transfer_params and [*o.kv_transfer_params.values()] for o in outputs}
    assert named == {"easy": ["6b"], "hard": ["12b"], "client": None, "most": ["12b"]}


def test_a_request_that_ends_with_its_prompt_goes_to_nobody() -> None:
    hook, requests = choosing(hard=0.5)
    result = SimpleNamespace(
        signals={"hard": [0.9]}, req_id_to_index={"hard": 0}, sampled_token_ids=[[6]], prompt_logprobs_dict={}
    )
    hook.before_update(result, requests)
    hook.forget("hard")
    assert hook.after_update([], lambda _: None) == {}
