# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whichever worker of vLLM runs: a step is of the member whose turn it is, and all are compiled before the first."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nemo_elastic.runtime.auto.signals import signals

MODULE = "nemo_elastic.serving.engine.worker"


@pytest.fixture(scope="module")
def runs_members() -> Iterator[Any]:
    """The class, beside as much of vLLM as its module asks for."""
    with pytest.MonkeyPatch.context() as patch:
        config: Any = ModuleType("vllm.config")
        config.CompilationMode = SimpleNamespace(NONE=0)
        config.set_current_vllm_config = lambda _: nullcontext()
        patch.setitem(sys.modules, "vllm.config", config)
        yield importlib.import_module(MODULE).RunsMembers
    sys.modules.pop(MODULE)


class Worker:
    """A worker that writes down what happens in it."""

    def __init__(self, mode: int = 0, runner: tuple[str, ...] = ("profile_run",)) -> None:
        self.seen: list[str] = []
        self.vllm_config = SimpleNamespace(compilation_config=SimpleNamespace(mode=mode), speculative_config=None)
        self.model_runner = SimpleNamespace(**{name: lambda name=name: self.seen.append(name) for name in runner})

    def get_model(self) -> Any:
        return SimpleNamespace(names=("full", "half", "small"), use=lambda name: self.seen.append(f"use {name}"))

    def determine_available_memory(self) -> int:
        self.seen.append("measure")
        return 5

    def execute_model(self, scheduler_output: Any) -> Any:
        self.seen.append("step")
        return scheduler_output


def worker(runs_members: Any, *args: Any) -> Any:
    return type("FamilyWorker", (runs_members, Worker), {})(*args)


def test_a_step_is_of_the_member_that_the_scheduler_says(runs_members: Any) -> None:
    one, step = worker(runs_members), SimpleNamespace(member="half")
    assert one.execute_model(step) is step and one.seen == ["use half", "step"]


@pytest.mark.parametrize("step", [SimpleNamespace(member=None), SimpleNamespace()])
def test_a_step_of_nobody_leaves_the_member_as_it_is(runs_members: Any, step: Any) -> None:
    one = worker(runs_members)
    one.execute_model(step)
    assert one.seen == ["step"]


def test_all_members_are_compiled_and_memory_is_measured_with_the_largest(runs_members: Any) -> None:
    one = worker(runs_members, 3)
    assert one.determine_available_memory() == 5
    assert one.seen == [
        "use small", "profile_run", "use half", "profile_run", "use full", "profile_run", "measure"
    ]  # fmt: skip


def test_on_a_cpu_members_are_compiled_by_its_own_run(runs_members: Any) -> None:
    one = worker(runs_members, 3, ("warming_up_model", "profile_run"))
    one.determine_available_memory()
    assert one.seen.count("warming_up_model") == 3 and "profile_run" not in one.seen


def test_where_nothing_is_compiled_nothing_runs_before(runs_members: Any) -> None:
    one = worker(runs_members)
    assert one.determine_available_memory() == 5 and one.seen == ["measure"]


class Reads(Worker):
    """A worker of a model whose hidden states are its logits: those of position `i` of the prompt are row `i`."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.model = logits, SimpleNamespace(compute_logits=lambda hidden: hidden, hidden=None)
        self.model_runner.input_batch = SimpleNamespace(req_id_to_index={"other": 0, "a": 1})

    def get_model(self) -> Any:
        return self.model

    def execute_model(self, scheduler_output: Any) -> Any:
        first, stop = scheduler_output.positions
        others = torch.zeros(3, self.logits.shape[1])  # of another request in the same step, before this one
        self.model.hidden = torch.cat([others, self.logits[first:stop]])
        self.model_runner.query_start_loc = SimpleNamespace(np=np.array([0, 3, 3 + stop - first]))
        return SimpleNamespace()


def told(runs_members: Any, cuts: list[int], tail: int = 4) -> Any:
    """What a worker tells of a prompt of 9 tokens that is read up to each of the cuts; a cut at 0 begins anew."""
    part_of = importlib.import_module(MODULE).TailPart
    one = type("FamilyWorker", (runs_members, Reads), {})(LOGITS)
    start, answer = 0, None
    for stop in cuts:
        start = min(start, stop)
        begin = max(start, 9 - tail)
        parts = {"a": part_of(IDS[9 - tail :], 9, begin - 9 + tail, stop - begin)} if stop > begin else {}
        step = SimpleNamespace(member=None, positions=(start, stop), undecided=parts, finished_req_ids=())
        answer, start = one.execute_model(step), stop
    return answer.signals["a"], one


IDS = [3, 1, 4, 1, 5, 2, 6, 5, 3]
LOGITS = torch.randn(9, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("cuts", [[9], [3, 9], [5, 9], [6, 9], [8, 9], [6, 7, 8, 9]])
def test_the_end_of_a_prompt_is_judged_whole_in_however_many_steps_it_is_read(runs_members: Any, cuts: list[int]):
    assert told(runs_members, cuts)[0] == pytest.approx(signals(LOGITS[5:], IDS[5:], 9))


def test_a_prompt_that_is_read_again_is_judged_by_what_was_read_last(runs_members: Any) -> None:
    found, one = told(runs_members, [7, 0, 6, 9])
    assert found == pytest.approx(signals(LOGITS[5:], IDS[5:], 9)) and one._tails == {}


def test_of_a_prompt_that_is_gone_nothing_is_kept(runs_members: Any) -> None:
    part = importlib.import_module(MODULE).TailPart(IDS[5:], 9, 0, 2)
    one = type("FamilyWorker", (runs_members, Reads), {})(LOGITS)
    one.execute_model(SimpleNamespace(member=None, positions=(0, 7), undecided={"a": part}, finished_req_ids=()))
    assert list(one._tails) == ["a"]
    one.execute_model(SimpleNamespace(member=None, positions=(7, 7), undecided={}, finished_req_ids={"a"}))
    assert one._tails == {}


def test_a_member_that_drafts_is_told_for_whom(runs_members: Any) -> None:
    one, told = worker(runs_members), []
    one.vllm_config.speculative_config = object()
    runner = one.model_runner
    runner.device, runner.input_batch = SimpleNamespace(type="cuda"), "batch"
    runner._update_states = runner._update_states_after_model_execute = lambda *_: None
    runner.drafter = SimpleNamespace(tell=lambda *what: told.append((list(one.seen), *what)))
    one.execute_model(SimpleNamespace(member="full", drafting=["a"], finished_req_ids={"b"}))
    assert told == [(["use full"], "batch", ["a"], {"b"})]
