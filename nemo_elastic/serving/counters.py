# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Requests by model name, beside vLLM's own figures in `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

#: for requests that name no model of ours: what clients write becomes no label
NO_MODEL = ""


@cache
def _metrics() -> tuple[Any, Any]:
    """Made once in a process: they are registered by name."""
    try:
        from prometheus_client import Counter, Gauge
    except ModuleNotFoundError:
        return None, None
    total = Counter("nemo_elastic_requests", "Requests by model name and status of HTTP", ["model", "code"])
    running = Gauge(
        "nemo_elastic_requests_running", "Requests that are being answered", ["model"], multiprocess_mode="livesum"
    )
    return total, running


class Counters:
    """Counters of one server; where `prometheus_client` is missing, nothing is counted."""

    def __init__(self) -> None:
        self._total, self._running = _metrics()

    @contextmanager
    def asked(self, model: str) -> Iterator[Callable[[int], None]]:
        """Count a request while it is answered; the block calls what it gets with the status."""
        code = 0

        def answered(status: int) -> None:
            nonlocal code
            code = status

        if self._running is not None:
            self._running.labels(model).inc()
        try:
            yield answered
        finally:
            if self._running is not None:
                self._running.labels(model).dec()
            if self._total is not None:
                self._total.labels(model, str(code or "none")).inc()

    def refused(self, code: int) -> None:
        """Count a request that named no member."""
        if self._total is not None:
            self._total.labels(NO_MODEL, str(code)).inc()
