# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What an engine does beside running one member in each step: pairs and `auto` are hooks.

The scheduler knows which member each request has, and whose turn a step is. The worker, which may be another process,
runs that member. Both call their hooks in the order in which the methods stand here, and know nothing else of them. A
hook writes into vLLM's own records of a step what its other half in the other process needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .names import Choice

#: id of a request -> vLLM's record of it; None where it does not run
Running = Callable[[str], Any]


class SchedulerHook:
    """Asked by the scheduler; by default it does nothing."""

    def take(self, request: Any, choice: Choice) -> None:
        """A request has come; `choice.member` reads it first.

        Raises:
            ElasticError: it asks for what there is not.
        """

    def plan(self, output: Any, requests: Mapping[str, Any]) -> None:
        """A step was planned; `output` goes to the worker."""

    def before_update(self, result: Any, requests: Mapping[str, Any]) -> None:
        """A step's result has come; the scheduler has taken nothing of it in."""

    def after_update(self, outputs: Iterable[Any], running: Running) -> Mapping[str, str]:
        """The result was taken in; `outputs` go to the server.

        Returns:
            Requests with which another member goes on, which reads everything again: id -> its name.
        """
        return {}

    def forget(self, request_id: str) -> None:
        """A request is gone."""


class WorkerHook:
    """Asked by the worker; by default it does nothing.

    Args:
        worker: vLLM's.
    """

    def __init__(self, worker: Any) -> None:
        self.worker = worker

    def after_step(self, scheduler_output: Any) -> None:
        """The step has run."""

    def write(self, output: Any) -> None:
        """The step's result is about to go to the scheduler."""
