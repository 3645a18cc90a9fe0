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

import pytest

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
        self.vllm_config = SimpleNamespace(compilation_config=SimpleNamespace(mode=mode))
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
