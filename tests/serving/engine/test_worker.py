# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whichever worker of vLLM runs: a step is of the member whose turn it is, and all are compiled before the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from tests.serving.engine.beside import beside_vllm


class Worker:
    """A worker that writes down what happens in it."""

    def __init__(self, mode: int = 0, runner: tuple[str, ...] = ("profile_run",), graphs: int = 0) -> None:
        self.seen: list[str] = []
        self.vllm_config = SimpleNamespace(compilation_config=SimpleNamespace(mode=mode, cudagraph_mode=graphs))
        self.model_runner = SimpleNamespace(**{name: lambda name=name: self.seen.append(name) for name in runner})

    def get_model(self) -> Any:
        return SimpleNamespace(names=("full", "half", "small"), use=lambda name: self.seen.append(f"use {name}"))

    def determine_available_memory(self) -> int:
        self.seen.append("measure")
        return 5

    def compile_or_warm_up_model(self) -> str:
        self.seen.append("warm up")
        return "times"

    def _get_cudagraph_capture_context(self) -> Any:
        return nullcontext()

    def execute_model(self, scheduler_output: Any) -> Any:
        self.seen.append("step")
        return scheduler_output.result

    def sample_tokens(self, grammar_output: Any) -> Any:
        return SimpleNamespace()


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def worker(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The class, beside as much of vLLM as its module asks for."""
    device = request.param
    parts = {
        "vllm.config": {
            "CompilationMode": SimpleNamespace(NONE=0),
            "CUDAGraphMode": SimpleNamespace(NONE=0),
            "set_current_vllm_config": lambda _: nullcontext(),
        },
        "vllm.platforms": {"current_platform": SimpleNamespace(is_cpu=lambda: device == "cpu")},
        f"vllm.v1.worker.{device}_worker": {"CPUWorker" if device == "cpu" else "Worker": Worker},
    }
    with beside_vllm("worker", parts) as module:
        yield module.FamilyWorker


class Notes:
    """Writes down when it is asked, and something into results."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker

    def after_step(self, scheduler_output: Any) -> None:
        self.worker.seen.append("after")

    def write(self, output: Any) -> None:
        output.noted = True


def step(member: str | None = None, result: Any = None) -> Any:
    return SimpleNamespace(member=member, result=result)


@pytest.mark.parametrize("of_nobody", [step(), SimpleNamespace(result=None)])
def test_a_step_of_nobody_leaves_the_member_as_it_is(worker: Any, of_nobody: Any) -> None:
    one = worker()
    one.execute_model(of_nobody)
    assert one.seen == ["step"]


def test_signals_are_read_after_a_step_and_written_into_its_result(worker: Any) -> None:
    one = worker()
    one.reading = Notes(one)
    assert one.execute_model(step("half")) is None and one.sample_tokens(None).noted
    assert one.seen == ["use half", "step", "after"]
    result = SimpleNamespace()
    assert one.execute_model(step("half", result)) is result and result.noted


@pytest.mark.parametrize("runs", [("profile_run",), ("warming_up_model", "profile_run")])
def test_all_members_are_compiled_and_memory_is_measured_with_the_largest(worker: Any, runs: tuple[str, ...]) -> None:
    """By the first of these runs that the worker has."""
    one = worker(3, runs)
    assert one.determine_available_memory() == 5
    assert one.seen == ["use small", runs[0], "use half", runs[0], "use full", runs[0], "measure"]


def test_where_nothing_is_compiled_nothing_runs_before(worker: Any) -> None:
    one = worker()
    assert one.determine_available_memory() == 5 and one.seen == ["measure"]


def test_each_member_has_cuda_graphs_and_the_largest_runs_first(worker: Any) -> None:
    one = worker(3, ("capture_model",), graphs=1)
    assert one.compile_or_warm_up_model() == "times"
    assert one.seen == ["warm up", "use half", "capture_model", "use small", "capture_model", "use full"]
    without = worker(3, ("capture_model",))
    assert without.compile_or_warm_up_model() == "times" and without.seen == ["warm up"]
