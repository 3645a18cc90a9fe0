# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Figures by model name and by member, beside vLLM's own in `/metrics`.

Requests are counted by the middleware. Steps and tokens are counted in the engine, which is another process: they come
along with vLLM's own statistics, in a field that a family leaves empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

#: for requests that name no model of ours: what clients write becomes no label
NO_MODEL = ""
#: before the names in vLLM's statistics
_OURS = "nemo_elastic/"


@cache
def _metrics() -> dict[str, Any]:
    """Made once in a process: they are registered by name. None where `prometheus_client` is not installed."""
    try:
        from prometheus_client import Counter, Gauge
    except ModuleNotFoundError:
        return {}
    name = "nemo_elastic_"
    return {
        "requests": Counter(f"{name}requests", "Requests by model name and status of HTTP", ["model", "code"]),
        "running": Gauge(
            f"{name}requests_running", "Requests that are being answered", ["model"], multiprocess_mode="livesum"
        ),
        "tokens": Counter(f"{name}tokens", "Tokens that a member said", ["member"]),
        "steps": Counter(f"{name}steps", "Steps of the engine that a member was given", ["member"]),
    }


class Requests:
    """Counts in the server."""

    def __init__(self) -> None:
        self._metrics = _metrics()

    @contextmanager
    def asked(self, model: str) -> Iterator[Callable[[int], None]]:
        """Count a request while it is answered; the block calls what it gets with the status."""
        code = 0

        def answered(status: int) -> None:
            nonlocal code
            code = status

        running = self._metrics.get("running")
        if running is not None:
            running.labels(model).inc()
        try:
            yield answered
        finally:
            if running is not None:
                running.labels(model).dec()
            self._count(model, str(code or "none"))

    def refused(self, code: int) -> None:
        """Count a request that named no member."""
        self._count(NO_MODEL, str(code))

    def _count(self, *labels: str) -> None:
        if "requests" in self._metrics:
            self._metrics["requests"].labels(*labels).inc()


class Work:
    """What members did in the engine since its last report."""

    def __init__(self) -> None:
        self._done: Counter[str] = Counter()

    def add(self, what: str, member: str, number: int) -> None:
        """Count; `what` is tokens or steps."""
        self._done[f"{_OURS}{what}/{member}"] += number

    def taken(self) -> dict[str, int]:
        """What is to be reported now, by names that `count_work` reads."""
        done, self._done = dict(self._done), Counter()
        return done


def count_work(report: Mapping[str, int]) -> None:
    """Add what an engine reports to the metrics of this process; other names are not ours."""
    for name, number in report.items():
        if name.startswith(_OURS):
            what, _, member = name.removeprefix(_OURS).partition("/")
            if what in _metrics():
                _metrics()[what].labels(member).inc(number)
